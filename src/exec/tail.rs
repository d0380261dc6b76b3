//! Reading the events that a worker appends to its file, while it still writes.
//!
//! Only whole lines count. A line that is no event is reported, never fatal, and a worker that writes nonsense without end is
//! cut short rather than believed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;

use serde::Deserialize;

/// A longer line is not an event but a mistake, and is not kept in memory.
const MAX_LINE_BYTES: usize = 1 << 20;

/// How much is read at once: a worker that writes without end must not fill our memory.
const MAX_READ_BYTES: u64 = 4 << 20;

/// How many lines that are no events are reported one by one.
const MAX_BAD_LINES: usize = 5;

/// What a worker may say.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum WorkerEvent {
    Progress {
        done: f64,
        total: Option<f64>,
        unit: Option<String>,
        message: Option<String>,
    },
    Metric {
        name: String,
        value: f64,
        step: Option<f64>,
    },
    Log {
        level: Option<String>,
        message: String,
    },
    Warning {
        message: String,
    },
    Error {
        message: String,
        hint: Option<String>,
    },
}

/// The reading end of a worker's file of events.
#[derive(Debug)]
pub(crate) struct Tail {
    path: PathBuf,
    offset: u64,
    rest: Vec<u8>,
    bad_lines: usize,
}

impl Tail {
    pub(crate) fn new(path: PathBuf) -> Tail {
        Tail {
            path,
            offset: 0,
            rest: Vec::new(),
            bad_lines: 0,
        }
    }

    /// Returns what was written since the last time. Only the last of several progress events is kept.
    pub(crate) fn poll(&mut self) -> Vec<WorkerEvent> {
        let mut bytes = Vec::new();
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.offset))?;
            file.take(MAX_READ_BYTES).read_to_end(&mut bytes)
        });
        match read {
            Ok(count) => self.offset += count as u64,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                return vec![WorkerEvent::Warning {
                    message: format!("the events can't be read: {error}"),
                }];
            }
        }
        self.rest.extend_from_slice(&bytes);
        let whole = self
            .rest
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |end| end + 1);
        let lines: Vec<u8> = self.rest.drain(..whole).collect();
        let mut events = self.parse(&lines);
        if self.rest.len() > MAX_LINE_BYTES {
            self.rest.clear();
            events.push(WorkerEvent::Warning {
                message: "a line of the events is longer than 1 MiB".into(),
            });
        }
        keep_last_progress(events)
    }

    /// Returns what is left when the worker has ended, a last line without its line break included.
    pub(crate) fn finish(mut self) -> Vec<WorkerEvent> {
        let mut events = Vec::new();
        loop {
            let before = self.offset;
            events.extend(self.poll());
            if self.offset == before {
                break;
            }
        }
        let rest = std::mem::take(&mut self.rest);
        events.extend(self.parse(&rest));
        if self.bad_lines > MAX_BAD_LINES {
            let more = self.bad_lines - MAX_BAD_LINES;
            events.push(WorkerEvent::Warning {
                message: format!("{more} more lines of the events are no events"),
            });
        }
        events
    }

    fn parse(&mut self, bytes: &[u8]) -> Vec<WorkerEvent> {
        let mut events = Vec::new();
        for line in bytes
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.trim_ascii().is_empty())
        {
            match serde_json::from_slice(line) {
                Ok(event) => events.push(event),
                Err(error) => {
                    self.bad_lines += 1;
                    if self.bad_lines <= MAX_BAD_LINES {
                        let start: String = String::from_utf8_lossy(line).chars().take(80).collect();
                        let message = format!("a line of the events is no event ({error}): {start:?}");
                        events.push(WorkerEvent::Warning { message });
                    }
                }
            }
        }
        events
    }
}

fn keep_last_progress(mut events: Vec<WorkerEvent>) -> Vec<WorkerEvent> {
    let is_progress = |event: &WorkerEvent| matches!(event, WorkerEvent::Progress { .. });
    let last = events.iter().rposition(is_progress);
    let mut idx = 0;
    events.retain(|event| {
        idx += 1;
        !is_progress(event) || Some(idx - 1) == last
    });
    events
}

/// Keeps the last value of each metric. JSON has no NaN, so what came through is finite.
pub(crate) fn note_metric(metrics: &mut BTreeMap<String, f64>, event: &WorkerEvent) {
    if let WorkerEvent::Metric { name, value, .. } = event {
        metrics.insert(name.clone(), *value);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn half_a_line_waits_for_its_other_half() -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new()?;
        let mut tail = Tail::new(file.path().to_path_buf());
        write!(file, "{{\"event\": \"warning\", \"mess")?;
        assert_eq!(tail.poll(), []);
        writeln!(file, "age\": \"a\"}}")?;
        assert_eq!(tail.poll(), [WorkerEvent::Warning { message: "a".into() }]);
        Ok(())
    }

    #[test]
    fn nonsense_becomes_a_few_warnings() -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new()?;
        for idx in 0..100 {
            writeln!(file, "nonsense {idx}")?;
        }
        file.write_all(b"\xff\xfe\n{\"event\": \"dance\"}\n[1]")?;
        let events = Tail::new(file.path().to_path_buf()).finish();
        assert_eq!(events.len(), MAX_BAD_LINES + 1, "{events:?}");
        assert_eq!(
            events[MAX_BAD_LINES],
            WorkerEvent::Warning {
                message: "98 more lines of the events are no events".into()
            }
        );
        Ok(())
    }

    #[test]
    fn only_the_last_progress_counts() -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new()?;
        for done in 0..10 {
            writeln!(file, "{{\"event\": \"progress\", \"done\": {done}}}")?;
        }
        let events = Tail::new(file.path().to_path_buf()).poll();
        assert_eq!(
            events,
            [WorkerEvent::Progress {
                done: 9.0,
                total: None,
                unit: None,
                message: None
            }]
        );
        Ok(())
    }
}
