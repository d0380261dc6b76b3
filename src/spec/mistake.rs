//! What a user can get wrong, as data with a position: one [`Mistake`] each, all of a file together in [`Mistakes`].
//!
//! It knows how to point at a place in a text and how to draw it, and nothing of what makes something a mistake.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use miette::{
    GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError, MietteSpanContents, SourceCode, SourceSpan,
    SpanContents,
};

/// A place in a text: a pipeline file, a `plugin.yaml`, or an option of the command line.
#[derive(Clone)]
pub struct At {
    source: Arc<Text>,
    start: usize,
    len: usize,
}

/// A named text, of which a mistake shows the whole line that it is in.
struct Text {
    name: String,
    text: String,
    dir: Option<PathBuf>,
}

impl SourceCode for Text {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        lines_before: usize,
        _lines_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let text = self.text.as_str();
        let before = text.get(..span.offset()).ok_or(MietteError::OutOfBounds)?;
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count();
        // Asked for a span alone, miette wants its line and column; asked for context, it draws what it gets.
        let (start, column) = if lines_before == 0 {
            (span.offset(), before[line_start..].chars().count())
        } else {
            (line_start, 0)
        };
        let end = text[span.offset()..]
            .find('\n')
            .map_or(text.len(), |newline| span.offset() + newline);
        let data = text[start..end].trim_end_matches('\r').as_bytes();
        let part = SourceSpan::new(start.into(), data.len());
        Ok(Box::new(MietteSpanContents::new_named(
            self.name.clone(),
            data,
            part,
            line,
            column,
            1,
        )))
    }
}

impl At {
    /// Returns the whole of a text that is called `name`.
    pub fn whole(name: &str, text: &str) -> At {
        At::of(name, text, None)
    }

    /// Returns the whole of a file; paths in it are relative to `dir`, its folder.
    pub fn file(name: &str, text: &str, dir: &Path) -> At {
        At::of(name, text, Some(dir.to_path_buf()))
    }

    fn of(name: &str, text: &str, dir: Option<PathBuf>) -> At {
        let source = Arc::new(Text {
            name: name.to_owned(),
            text: text.to_owned(),
            dir,
        });
        At {
            len: text.len(),
            start: 0,
            source,
        }
    }

    /// Returns the place at `bytes` of the same text, cut to what the text has.
    pub fn part(&self, bytes: Range<usize>) -> At {
        let size = self.source.text.len();
        let start = bytes.start.min(size);
        At {
            source: self.source.clone(),
            start,
            len: bytes.end.clamp(start, size) - start,
        }
    }

    /// Returns the first occurrence of `needle` in this place, or the place itself.
    pub fn find(&self, needle: &str) -> At {
        match self.text().find(needle) {
            Some(offset) => self.part(self.start + offset..self.start + offset + needle.len()),
            None => self.clone(),
        }
    }

    /// Returns the place from here to the end of `last`.
    pub fn to(&self, last: &At) -> At {
        self.part(self.start..(last.start + last.len).max(self.start))
    }

    /// Returns the text at this place.
    pub fn text(&self) -> &str {
        self.source
            .text
            .get(self.start..self.start + self.len)
            .unwrap_or_default()
    }

    /// Returns the whole text that this place is in.
    pub fn source_text(&self) -> &str {
        &self.source.text
    }

    /// Returns the name of the text: a file as the user wrote it, or an option.
    pub fn source_name(&self) -> &str {
        &self.source.name
    }

    /// Returns the folder that paths in this text are relative to; absent for an option of the command line.
    pub fn dir(&self) -> Option<&Path> {
        self.source.dir.as_deref()
    }

    /// Returns the bytes of the text that this place covers.
    pub fn bytes(&self) -> Range<usize> {
        self.start..self.start + self.len
    }

    /// Returns line and column, both from 1, the column in characters.
    pub fn line_column(&self) -> (usize, usize) {
        let before = self.source.text.get(..self.start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (
            before.matches('\n').count() + 1,
            before[line_start..].chars().count() + 1,
        )
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.line_column();
        write!(f, "{}:{line}:{column}", self.source_name())
    }
}

impl fmt::Debug for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One mistake: what is wrong, where, and what was probably meant.
#[derive(Debug, Clone)]
pub struct Mistake {
    /// What is wrong, in lower case without a full stop.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Where; absent if no text can be shown, as for a file that is missing.
    pub at: Option<At>,
}

impl Mistake {
    /// Returns a mistake at a place.
    pub fn new(at: &At, message: impl Into<String>) -> Mistake {
        Mistake {
            message: message.into(),
            help: None,
            at: Some(at.clone()),
        }
    }

    /// Returns a mistake that has no place in a text.
    pub fn nowhere(message: impl Into<String>) -> Mistake {
        Mistake {
            message: message.into(),
            help: None,
            at: None,
        }
    }

    /// Returns the mistake with a help line.
    pub fn help(mut self, help: impl Into<String>) -> Mistake {
        self.help = Some(help.into());
        self
    }

    /// Returns the mistake that `name` is not among `valid`, with the nearest of those or all of them as help.
    pub fn unknown<'a>(at: &At, message: String, name: &str, valid: impl IntoIterator<Item = &'a str>) -> Mistake {
        let valid: Vec<&str> = valid.into_iter().collect();
        let mistake = Mistake::new(at, message);
        match nearest(name, valid.iter().copied()) {
            Some(near) => mistake.help(format!("did you mean `{near}`?")),
            None if valid.is_empty() => mistake,
            None if valid.len() <= 12 => mistake.help(format!("there is {}", listed(&valid))),
            None => mistake.help(format!(
                "there is {} and {} more",
                listed(&valid[..12]),
                valid.len() - 12
            )),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Mistake {}

impl miette::Diagnostic for Mistake {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.at.as_ref().map(|at| &*at.source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let at = self.at.as_ref()?;
        // A place over several lines is drawn as a bracket over all of them; its first line says as much.
        let len = at.text().lines().next().map_or(0, str::len);
        Some(Box::new(std::iter::once(LabeledSpan::new(None, at.start, len))))
    }
}

/// All mistakes that were found, at least one, in the order of their places.
#[derive(Debug, Clone)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// Returns `Ok` if there are none, else all of them in order, each once.
    pub fn check(mut all: Vec<Mistake>) -> Result<(), Mistakes> {
        if all.is_empty() {
            return Ok(());
        }
        let place = |mistake: &Mistake| {
            mistake
                .at
                .as_ref()
                .map(|at| (at.source_name().to_owned(), at.start, at.len))
        };
        all.sort_by_cached_key(|mistake| (place(mistake), mistake.message.clone()));
        // One wrong value is met once at each point of the axes.
        all.dedup_by(|a, b| place(a) == place(b) && a.message == b.message);
        Err(Mistakes(all))
    }

    /// Returns the mistakes.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Mistake> {
        self.0.iter()
    }

    /// Returns the mistakes by value.
    pub fn into_vec(self) -> Vec<Mistake> {
        self.0
    }

    /// Returns all mistakes drawn for a terminal of `width` columns: file, line, column, source line, caret, help.
    pub fn render(&self, color: bool, width: usize) -> String {
        let theme = if color {
            GraphicalTheme::unicode()
        } else {
            GraphicalTheme::unicode_nocolor()
        };
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_width(width.max(40))
            .with_context_lines(1);
        let mut out = String::new();
        for mistake in &self.0 {
            if handler.render_report(&mut out, mistake).is_err() {
                out.push_str(&mistake.message);
                out.push('\n');
            }
        }
        out
    }
}

impl From<Mistake> for Mistakes {
    fn from(mistake: Mistake) -> Mistakes {
        Mistakes(vec![mistake])
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (idx, mistake) in self.0.iter().enumerate() {
            if idx > 0 {
                f.write_str("\n")?;
            }
            if let Some(at) = &mistake.at {
                write!(f, "{at}: ")?;
            }
            f.write_str(&mistake.message)?;
            if let Some(help) = &mistake.help {
                write!(f, " ({help})")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// Returns the valid name that is nearest to `name`, if one is near enough to be what was meant.
pub fn nearest<'a>(name: &str, valid: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    let scored = valid.into_iter().filter(|v| *v != name).map(|v| {
        let distance = strsim::damerau_levenshtein(&lower, &v.to_lowercase());
        let similar = strsim::jaro_winkler(&lower, &v.to_lowercase());
        (v, distance, similar)
    });
    let near = scored.filter(|(v, distance, similar)| {
        // A few typing errors, an abbreviation by initials (`lr`), or a common beginning.
        *distance <= 1 + name.len().min(v.len()) / 4 || is_initials(&lower, v) || (*similar > 0.88 && name.len() > 3)
    });
    near.min_by(|a, b| a.1.cmp(&b.1).then(b.2.total_cmp(&a.2)))
        .map(|(v, ..)| v)
}

/// Tells whether `short` is made of the first letters of the words of `name`, as `lr` of `learning_rate`.
fn is_initials(short: &str, name: &str) -> bool {
    let initials: String = name
        .split(['_', '-', '.'])
        .filter_map(|word| word.chars().next())
        .collect();
    short.len() > 1 && initials == short
}

/// Returns names as people list them: "`a`, `b` and `c`".
pub fn listed<S: AsRef<str>>(names: &[S]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{}`", name.as_ref())).collect();
    match &quoted[..] {
        [] => "nothing".to_owned(),
        [one] => one.clone(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

/// Returns how a path is shown: relative to the current folder where it lies below it.
pub fn shown(path: &Path) -> String {
    let relative = std::env::current_dir()
        .ok()
        .and_then(|dir| path.strip_prefix(dir).ok().map(Path::to_path_buf));
    relative.unwrap_or_else(|| path.to_path_buf()).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_lines_and_characters() {
        let whole = At::whole("p.yaml", "a: 1\nä: 2\n");
        let two = whole.find("2");
        assert_eq!((two.to_string(), two.text()), ("p.yaml:2:4".to_owned(), "2"));
        assert_eq!(whole.part(99..120).text(), "");
    }

    #[test]
    fn the_nearest_name_is_one_that_could_have_been_meant() {
        let names = ["learning_rate", "num_train_epochs", "seed", "beta"];
        for (wrong, right) in [
            ("lr", "learning_rate"),
            ("learning-rate", "learning_rate"),
            ("sead", "seed"),
            ("Beta", "beta"),
        ] {
            assert_eq!(nearest(wrong, names), Some(right));
        }
        assert_eq!(nearest("temperature", names), None);
    }

    #[test]
    fn mistakes_are_in_order_and_each_once() {
        let whole = At::whole("p.yaml", "abc");
        let all = vec![
            Mistake::new(&whole.find("c"), "late"),
            Mistake::new(&whole.find("a"), "early"),
            Mistake::new(&whole.find("a"), "early"),
        ];
        let mistakes = Mistakes::check(all).expect_err("there are some");
        assert_eq!(mistakes.to_string(), "p.yaml:1:1: early\np.yaml:1:3: late");
        assert!(Mistakes::check(Vec::new()).is_ok());
    }
}
