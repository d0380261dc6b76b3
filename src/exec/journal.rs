//! Where events go: first into the run's file, then to whoever listens.

use std::fs::File;
use std::io::{BufWriter, Write};

use super::event::Event;
use crate::store::{RunFolder, Timestamp};

/// What a listener is: it sees each event once, in order.
pub type Listener<'a> = &'a mut dyn FnMut(&Event, Timestamp);

/// The end of the stream of events.
pub(crate) struct Journal<'a> {
    file: Option<BufWriter<File>>,
    listener: Listener<'a>,
}

impl<'a> Journal<'a> {
    /// Opens the file of events of a run. A run whose file can't be written still runs.
    pub(crate) fn open(run: &RunFolder, listener: Listener<'a>) -> Journal<'a> {
        let path = run.events();
        let file = File::create(&path).inspect_err(|error| {
            tracing::warn!(path = %path.display(), %error, "the events of this run are not kept");
        });
        Journal {
            file: file.ok().map(BufWriter::new),
            listener,
        }
    }

    pub(crate) fn emit(&mut self, event: &Event) {
        let at = Timestamp::now();
        if let Some(file) = &mut self.file
            && let Err(error) = writeln!(file, "{}", event.to_line(at))
        {
            tracing::warn!(%error, "the events of this run are not kept from here on");
            self.file = None;
        }
        (self.listener)(event, at);
    }

    /// Hands everything to the operating system, so that others can read it.
    pub(crate) fn flush(&mut self) {
        if let Some(Err(error)) = self.file.as_mut().map(Write::flush) {
            tracing::warn!(%error, "the events of this run are not kept from here on");
            self.file = None;
        }
    }
}
