//! Small words: durations, sizes, aligned columns, colours.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::exec::NodeState;

/// Returns a duration as people say it: `0.12 s`, `3.4 s`, `2 min 05 s`, `1 h 02 min`.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "?".to_owned();
    }
    let whole = seconds.round() as u64;
    match whole {
        _ if seconds < 1.0 => format!("{seconds:.2} s"),
        _ if seconds < 59.95 => format!("{seconds:.1} s"),
        0..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

/// Returns a size in bytes, KiB, MiB or GiB.
pub fn bytes(size: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if size < 1024 {
        return format!("{size} B");
    }
    let mut value = size as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Returns rows as columns of equal width, two spaces apart, without spaces at the ends of lines.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// Cuts a text to some columns, with an ellipsis where something was cut.
pub fn truncate(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > columns {
            break;
        }
        out.push(c);
    }
    out.trim_end().to_owned() + "…"
}

/// Whether and how to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint {
    /// Whether the reader is a terminal that wants colours.
    pub color: bool,
}

impl Paint {
    /// Colours a text the way a node state is coloured everywhere.
    pub fn state(self, state: NodeState, text: &str) -> String {
        let code = match state {
            NodeState::Executed => "32",
            NodeState::Cached | NodeState::Waiting => "2",
            NodeState::CutOff => "36",
            NodeState::Running => "1",
            NodeState::Ready | NodeState::Skipped | NodeState::Cancelled => "33",
            NodeState::Failed => "1;31",
        };
        self.with(code, text)
    }

    /// Makes a text recede.
    pub fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    /// Marks a warning.
    pub fn warning(self, text: &str) -> String {
        self.with("33", text)
    }

    /// Marks an error.
    pub fn error(self, text: &str) -> String {
        self.with("1;31", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.color {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_well() {
        let shown: Vec<String> = [0.123, 3.44, 59.96, 125.0, 3725.0, f64::NAN].map(duration).into();
        assert_eq!(
            shown,
            ["0.12 s", "3.4 s", "1 min 00 s", "2 min 05 s", "1 h 02 min", "?"]
        );
        assert_eq!(
            [0, 1023, 1536, 5 << 20].map(bytes),
            ["0 B", "1023 B", "1.5 KiB", "5.0 MiB"]
        );
    }

    #[test]
    fn columns_are_aligned_and_lines_have_no_tail() {
        let rows = [vec!["a".into(), "b".into()], vec!["long".into(), String::new()]];
        assert_eq!(table(&rows), "a     b\nlong\n");
    }

    #[test]
    fn long_texts_are_cut_by_columns() {
        assert_eq!(
            [truncate("abcdef", 6), truncate("abcdef", 4), truncate("日本語", 5)],
            ["abcdef", "abc…", "日本…"]
        );
    }
}
