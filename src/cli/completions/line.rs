//! A line of bash cut into words as bash does, and how a candidate is put into it.

/// A line up to the cursor.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// The finished words, without quotes.
    pub(super) words: Vec<String>,
    /// The word at the cursor, without quotes; empty behind a space.
    pub(super) current: String,
    /// The word at the cursor as it was typed.
    typed: String,
    /// The quote that is open at the cursor, and what of `current` stands before it.
    open: Option<(char, String)>,
}

/// Cuts a line into words.
pub(super) fn split(text: &str) -> Line {
    let mut line = Line {
        words: Vec::new(),
        current: String::new(),
        typed: String::new(),
        open: None,
    };
    let mut is_word = false;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let quote = line.open.as_ref().map(|(quote, _)| *quote);
        line.typed.push(c);
        match (quote, c) {
            (Some(quote), c) if c == quote => line.open = None,
            (None, '\'' | '"') => {
                is_word = true;
                line.open = Some((c, line.current.clone()));
            }
            (None | Some('"'), '\\') => {
                is_word = true;
                if let Some(next) = chars.next() {
                    line.typed.push(next);
                    // Between double quotes a backslash is itself before most characters.
                    if quote.is_some() && !"\"\\$`".contains(next) {
                        line.current.push('\\');
                    }
                    line.current.push(next);
                }
            }
            (None, c) if c.is_whitespace() => {
                if std::mem::take(&mut is_word) {
                    line.words.push(std::mem::take(&mut line.current));
                }
                line.typed.clear();
            }
            (_, c) => {
                is_word = true;
                line.current.push(c);
            }
        }
    }
    line
}

impl Line {
    /// Returns a candidate as bash expects it: in place of what it takes for the current word, which begins behind an
    /// open quote, or else behind the last of `breaks`.
    pub(super) fn inserted(&self, candidate: &str, breaks: &str) -> String {
        if let Some((_, before)) = &self.open {
            return candidate.strip_prefix(before.as_str()).unwrap_or(candidate).to_owned();
        }
        let escaped = escape(candidate);
        let start = self.typed.rfind(|c: char| breaks.contains(c) && !"'\"".contains(c));
        match start.and_then(|start| escaped.strip_prefix(self.typed.get(..=start)?)) {
            Some(rest) => rest.to_owned(),
            None => escaped,
        }
    }
}

/// Puts a backslash before what bash would take for something else. Brackets stay: no file has such a name.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if " \t'\"\\$`&;|<>()*?!{}#".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> (Vec<String>, String) {
        let line = split(text);
        (line.words, line.current)
    }

    #[test]
    fn lines_are_cut_as_bash_cuts_them() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        for (text, before, current) in [
            ("volvelle ", &["volvelle"][..], ""),
            ("volvelle why  p.ya", &["volvelle", "why"], "p.ya"),
            ("v 'a b' \"c 'd\" e\\ f g", &["v", "a b", "c 'd", "e f"], "g"),
            ("v '' 'sft[style=", &["v", ""], "sft[style="),
            ("v --set='a b", &["v"], "--set=a b"),
            ("v \"a\\\"b\\c\" x\\", &["v", "a\"b\\c"], "x"),
        ] {
            assert_eq!(cut(text), (words(before), current.to_owned()), "{text}");
        }
    }

    #[test]
    fn candidates_take_the_place_of_what_bash_takes_for_the_word() {
        let breaks = " \t\n\"'@><=;|&(:";
        for (text, candidate, inserted) in [
            ("v why p.yaml 'sft[style=", "sft[style=search]", "sft[style=search]"),
            ("v why p.yaml sft[style=", "sft[style=search]", "search]"),
            ("v why p.yaml sft[a=1,style=s", "sft[a=1,style=search]", "search]"),
            ("v --profile=", "--profile=quick", "quick"),
            ("v --profile='", "--profile=quick", "quick"),
            ("v my", "my file.yaml", "my\\ file.yaml"),
            ("v \"my", "my file.yaml", "my file.yaml"),
        ] {
            assert_eq!(split(text).inserted(candidate, breaks), inserted, "{text}");
        }
    }
}
