//! What a server counts, and its text for Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::census::Counted;

/// The upper ends of the buckets of latencies, in seconds.
const BUCKETS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0,
];

/// A route, a method and a status; all from short lists, so that no client can make it grow.
type Label = (String, &'static str, u16);

#[derive(Debug, Default)]
struct Latency {
    buckets: [u64; BUCKETS.len()],
    count: u64,
    seconds: f64,
}

/// The counts of one server.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    pub in_flight: AtomicI64,
    pub connections: AtomicI64,
    pub refused_connections: AtomicU64,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    requests: Mutex<BTreeMap<Label, u64>>,
    latencies: Mutex<BTreeMap<String, Latency>>,
}

impl Metrics {
    /// Counts a request that was answered.
    pub fn answered(&self, route: &str, method: &'static str, status: u16, took: Duration) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((route.to_owned(), method, status)).or_default() += 1;
        drop(requests);
        let mut latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        let latency = latencies.entry(route.to_owned()).or_default();
        let seconds = took.as_secs_f64();
        for (count, _) in latency
            .buckets
            .iter_mut()
            .zip(BUCKETS)
            .filter(|(_, end)| seconds <= *end)
        {
            *count += 1;
        }
        latency.count += 1;
        latency.seconds += seconds;
    }

    /// Returns everything as Prometheus reads it.
    pub fn text(&self, store: Option<&Counted>) -> String {
        let mut out = String::new();
        let mut simple = |name: &str, kind: &str, help: &str, value: f64| {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        };
        let gauge = |value: &AtomicI64| value.load(Ordering::Relaxed) as f64;
        let counter = |value: &AtomicU64| value.load(Ordering::Relaxed) as f64;
        simple(
            "volvelle_http_in_flight",
            "gauge",
            "Requests being answered.",
            gauge(&self.in_flight),
        );
        simple(
            "volvelle_http_connections",
            "gauge",
            "Open connections.",
            gauge(&self.connections),
        );
        let refused = counter(&self.refused_connections);
        simple(
            "volvelle_http_refused_connections_total",
            "counter",
            "Connections beyond the limit.",
            refused,
        );
        let (bytes_in, bytes_out) = (counter(&self.bytes_in), counter(&self.bytes_out));
        simple(
            "volvelle_http_received_bytes_total",
            "counter",
            "Bytes received.",
            bytes_in,
        );
        simple("volvelle_http_sent_bytes_total", "counter", "Bytes sent.", bytes_out);
        if let Some(store) = store {
            simple(
                "volvelle_store_blobs",
                "gauge",
                "Blobs in the store.",
                store.blobs as f64,
            );
            simple(
                "volvelle_store_bytes",
                "gauge",
                "Bytes of all blobs.",
                store.bytes as f64,
            );
            simple(
                "volvelle_store_records",
                "gauge",
                "Records in the store.",
                store.records as f64,
            );
            simple(
                "volvelle_store_free_bytes",
                "gauge",
                "Room left on its disk.",
                store.free_bytes as f64,
            );
        }
        self.push_requests(&mut out);
        self.push_latencies(&mut out);
        out
    }

    fn push_requests(&self, out: &mut String) {
        out.push_str("# HELP volvelle_http_requests_total Requests answered.\n");
        out.push_str("# TYPE volvelle_http_requests_total counter\n");
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        for ((route, method, status), count) in requests.iter() {
            let labels = format!("route=\"{route}\",method=\"{method}\",status=\"{status}\"");
            let _ = writeln!(out, "volvelle_http_requests_total{{{labels}}} {count}");
        }
    }

    fn push_latencies(&self, out: &mut String) {
        let name = "volvelle_http_request_seconds";
        let _ = writeln!(
            out,
            "# HELP {name} Until the last byte of the answer was handed over.\n# TYPE {name} histogram"
        );
        let latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        for (route, latency) in latencies.iter() {
            for (count, end) in latency.buckets.iter().zip(BUCKETS) {
                let _ = writeln!(out, "{name}_bucket{{route=\"{route}\",le=\"{end}\"}} {count}");
            }
            let _ = writeln!(out, "{name}_bucket{{route=\"{route}\",le=\"+Inf\"}} {}", latency.count);
            let _ = writeln!(out, "{name}_sum{{route=\"{route}\"}} {}", latency.seconds);
            let _ = writeln!(out, "{name}_count{{route=\"{route}\"}} {}", latency.count);
        }
    }
}
