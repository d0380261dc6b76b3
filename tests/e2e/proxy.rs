//! A TCP proxy on loopback that breaks connections on demand: late, slow, cut short, reset, or silent.
//!
//! It stands between a client and a real server and knows no protocol, so that a test shows what a bad network does and
//! not what a fake server does. Faults can be changed at any time and hold for open connections too, but for `cut_after`,
//! which counts from the start of each connection.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// What the proxy does to the bytes that pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Each piece of data waits this long.
    pub delay: Option<Duration>,
    /// At most so many bytes pass per second, in each direction of each connection.
    pub bytes_per_second: Option<u64>,
    /// A connection ends after so many bytes in both directions together.
    pub cut_after: Option<u64>,
    /// Where a connection ends, it ends with RST instead of FIN. New ones are reset at once if nothing is cut.
    pub reset: bool,
    /// Nothing passes any more, and nobody is told.
    pub blackhole: bool,
}

/// A running proxy; it ends with this value.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    faults: Mutex<Faults>,
    ended: AtomicBool,
    num_connections: AtomicU64,
    bytes_to_server: AtomicU64,
    bytes_to_client: AtomicU64,
}

impl Shared {
    fn faults(&self) -> Faults {
        *self
            .faults
            .lock()
            .expect("no thread of the proxy panics with the lock held")
    }
}

impl Proxy {
    /// Starts a proxy on a free port of 127.0.0.1 before a server.
    pub fn start(target: SocketAddr) -> io::Result<Proxy> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target,
            faults: Mutex::default(),
            ended: AtomicBool::new(false),
            num_connections: AtomicU64::new(0),
            bytes_to_server: AtomicU64::new(0),
            bytes_to_client: AtomicU64::new(0),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.ended.load(Ordering::Relaxed) {
                    break;
                }
                let Ok(client) = client else { continue };
                accepting.num_connections.fetch_add(1, Ordering::Relaxed);
                let shared = Arc::clone(&accepting);
                thread::spawn(move || serve(client, &shared));
            }
        });
        Ok(Proxy { address, shared })
    }

    /// Returns where the proxy listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces the faults.
    pub fn set(&self, faults: Faults) {
        *self
            .shared
            .faults
            .lock()
            .expect("no thread of the proxy panics with the lock held") = faults;
    }

    /// Returns the bytes that went to the server so far.
    pub fn bytes_to_server(&self) -> u64 {
        self.shared.bytes_to_server.load(Ordering::Relaxed)
    }

    /// Returns the bytes that came back so far.
    pub fn bytes_to_client(&self) -> u64 {
        self.shared.bytes_to_client.load(Ordering::Relaxed)
    }

    /// Returns how many connections were made so far.
    pub fn num_connections(&self) -> u64 {
        self.shared.num_connections.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts, so that it sees the end.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

fn serve(client: TcpStream, shared: &Arc<Shared>) {
    let faults = shared.faults();
    if faults.reset && faults.cut_after.is_none() {
        return end(&client, true);
    }
    let Ok(server) = TcpStream::connect_timeout(&shared.target, Duration::from_secs(5)) else {
        return end(&client, false);
    };
    let passed = Arc::new(AtomicU64::new(0));
    let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) else {
        return;
    };
    let (shared_too, passed_too) = (Arc::clone(shared), Arc::clone(&passed));
    let back = thread::spawn(move || {
        pump(server_too, client_too, &shared_too, &passed_too, |shared| {
            &shared.bytes_to_client
        });
    });
    pump(client, server, shared, &passed, |shared| &shared.bytes_to_server);
    let _ = back.join();
}

/// Carries bytes in one direction until either side ends.
fn pump(mut from: TcpStream, mut to: TcpStream, shared: &Shared, passed: &AtomicU64, count: fn(&Shared) -> &AtomicU64) {
    // Looks at the faults now and then also while nothing comes.
    let _ = from.set_read_timeout(Some(Duration::from_millis(100)));
    let mut buffer = [0; 16 * 1024];
    loop {
        let faults = shared.faults();
        if shared.ended.load(Ordering::Relaxed) {
            end(&from, false);
            return end(&to, false);
        }
        if faults.blackhole {
            thread::sleep(Duration::from_millis(20));
            continue;
        }
        // Small pieces where it is slow, so that the rate is even.
        let at_most = faults
            .bytes_per_second
            .map_or(buffer.len(), |rate| (rate / 20).clamp(1, buffer.len() as u64) as usize);
        let started = Instant::now();
        let mut len = match from.read(&mut buffer[..at_most]) {
            Ok(0) => {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            Ok(len) => len,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => continue,
            Err(_) => return end(&to, faults.reset),
        };
        if let Some(delay) = faults.delay {
            thread::sleep(delay);
        }
        let before = passed.fetch_add(len as u64, Ordering::Relaxed);
        let left = faults.cut_after.map(|cut| cut.saturating_sub(before));
        let is_cut = left.is_some_and(|left| left < len as u64);
        len = left.map_or(len, |left| len.min(left as usize));
        if to.write_all(&buffer[..len]).is_err() {
            return end(&from, false);
        }
        count(shared).fetch_add(len as u64, Ordering::Relaxed);
        if is_cut {
            end(&from, faults.reset);
            return end(&to, faults.reset);
        }
        if let Some(rate) = faults.bytes_per_second {
            let due = Duration::from_secs_f64(len as f64 / rate.max(1) as f64);
            thread::sleep(due.saturating_sub(started.elapsed()));
        }
    }
}

/// Ends a connection in both directions; with RST if asked to.
fn end(stream: &TcpStream, reset: bool) {
    if reset {
        // A socket that lingers for no time is reset when it is closed. What this can't be set on is closed already.
        let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
        // Shutting it would send FIN first; the other direction notices at its next read or write.
        let _ = stream.shutdown(Shutdown::Read);
    } else {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

#[test]
fn bytes_pass_and_are_cut() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let target = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut reader = &stream;
                let _ = io::copy(&mut reader, &mut &stream);
            });
        }
    });
    let proxy = Proxy::start(target).expect("a proxy");
    let echo = |text: &[u8]| -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(proxy.address())?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(text)?;
        let mut back = vec![0; text.len()];
        stream.read_exact(&mut back)?;
        Ok(back)
    };
    assert_eq!(echo(b"as it is").expect("it passes"), b"as it is");
    proxy.set(Faults {
        cut_after: Some(10),
        ..Faults::default()
    });
    assert!(echo(b"longer than that").is_err());
    proxy.set(Faults {
        blackhole: true,
        ..Faults::default()
    });
    assert!(echo(b"nobody").is_err());
    assert!(proxy.num_connections() >= 3 && proxy.bytes_to_server() >= 18 && proxy.bytes_to_client() >= 8);
}
