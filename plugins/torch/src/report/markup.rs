//! What pages and drawings share: escaping, the measure of text, and one style sheet for light and dark.
//!
//! Text is measured by counting characters of a monospaced font, because no font is at hand when a drawing is made:
//! good to a few percent in every browser, and the layouts leave more room than that.

/// Width of a character of the monospaced font, as a share of the font size.
pub const CHAR_WIDTH: f64 = 0.605;

/// Classes for everything that is drawn; the page includes it once, a drawing that stands alone brings its own copy.
///
/// Colours say the same as shapes, dashes, signs and words do, and never stand alone.
pub const DRAWING_CSS: &str = r#"
.vv{--ink:#1d2329;--soft:#5b6570;--line:#c9d0d8;--paper:#ffffff;--box:#f3f6f9;--forward:#5f7690;--q:#2f6fb3;
--right:#1c8348;--wrong:#c0392f;--back:#d9730d;--restart:#8250c4;
--c0:#6b7480;--c1:#c2601a;--c2:#1f6fb5;--c3:#b0822a;--c4:#0f8a74;--c5:#9a4bb0;--c6:#c43d5c;--c7:#5a6b1f}
@media (prefers-color-scheme:dark){.vv{--ink:#e4e8ec;--soft:#9aa5b1;--line:#3b444e;--paper:#14181c;--box:#20262d;
--forward:#8ba3bd;--q:#69a8e8;--right:#4cc27d;--wrong:#f0776c;--back:#f29a4a;--restart:#b592ee;
--c0:#98a2ae;--c1:#f0935a;--c2:#66aef0;--c3:#dcb55c;--c4:#45c9ae;--c5:#cd8ae0;--c6:#f27f98;--c7:#a9bd5f}}
.vv text{fill:var(--ink);font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;font-size:12px}
.vv .mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono","Liberation Mono",monospace}
.vv .soft{fill:var(--soft)}.vv .small{font-size:10.5px}.vv .head{font-size:13px;font-weight:600}
.vv .mid{text-anchor:middle}.vv .end{text-anchor:end}
.vv .paper{fill:var(--paper)}.vv .axis{stroke:var(--soft);stroke-width:1;fill:none}
.vv .grid{stroke:var(--line);stroke-width:1;fill:none}
.vv .s0{--s:var(--c0)}.vv .s1{--s:var(--c1)}.vv .s2{--s:var(--c2)}.vv .s3{--s:var(--c3)}
.vv .s4{--s:var(--c4)}.vv .s5{--s:var(--c5)}.vv .s6{--s:var(--c6)}.vv .s7{--s:var(--c7)}
.vv .series{stroke:var(--s);stroke-width:2;fill:none;stroke-linejoin:round;stroke-linecap:round}
.vv .raw{fill:var(--s);fill-opacity:.28}.vv .mark{fill:var(--s);stroke:var(--paper);stroke-width:1}
.vv .box{fill:var(--box);stroke:var(--forward);stroke-width:1.2}.vv .root{fill:var(--paper);stroke:var(--ink)}
.vv .edge{stroke:var(--forward);stroke-width:1.4;fill:none}
.vv .wrong{stroke:var(--wrong);stroke-width:2}.vv .right{stroke:var(--right);stroke-width:2}
.vv .hollow{fill:none}.vv .ring-bad{stroke:var(--wrong);stroke-width:1.4;stroke-dasharray:2 3;fill:none}
.vv .ring-good{stroke:var(--right);stroke-width:1.4;fill:none}
.vv .back{stroke:var(--back);stroke-width:1.8;stroke-dasharray:6 4;fill:none}
.vv .restart{stroke:var(--restart);stroke-width:1.8;stroke-dasharray:2 4;stroke-linecap:round;fill:none}
.vv .tip-forward{fill:var(--forward)}.vv .tip-back{fill:var(--back)}.vv .tip-restart{fill:var(--restart)}
.vv .badge{fill:var(--paper);stroke-width:1.6;stroke-dasharray:none}
.vv .halo{paint-order:stroke;stroke:var(--paper);stroke-width:4px;stroke-linejoin:round}
.vv .q{fill:var(--q)}
"#;

/// Escapes text for XML and HTML, in an element or in a quoted attribute; characters that XML forbids become `\u{fffd}`.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\t' | '\n' | '\r' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Formats a coordinate: two decimals at most, so that the same drawing is the same bytes everywhere.
pub fn coordinate(value: f64) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// Opens a drawing that stands alone: its size, a title for screen readers, its style and a background.
pub fn svg_open(width: f64, height: f64, title: &str) -> String {
    let (w, h) = (coordinate(width), coordinate(height));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"vv\" viewBox=\"0 0 {w} {h}\" width=\"{w}\" height=\"{h}\" \
         role=\"img\">\n<title>{}</title>\n<style>{DRAWING_CSS}</style>\n\
         <rect class=\"paper\" width=\"{w}\" height=\"{h}\"/>\n",
        escape(title)
    )
}

/// Returns how many columns of a monospaced font a text takes: two for East Asian wide characters and emoji.
pub fn text_columns(text: &str) -> usize {
    text.chars().map(|c| if is_wide(c) { 2 } else { 1 }).sum()
}

fn is_wide(c: char) -> bool {
    matches!(c as u32, 0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xfe30..=0xfe6f
        | 0xff00..=0xff60 | 0xffe0..=0xffe6 | 0x1f300..=0x1faff | 0x20000..=0x3fffd)
}

/// Cuts a text to `columns`, with an ellipsis where something was cut.
pub fn truncate(text: &str, columns: usize) -> String {
    if text_columns(text) <= columns {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += if is_wide(c) { 2 } else { 1 };
        if used > columns {
            break;
        }
        out.push(c);
    }
    out.trim_end().to_owned() + "…"
}

/// Breaks a text into at most `max_lines` lines of at most `columns` columns, at spaces where it can.
///
/// What doesn't fit is left out with an ellipsis; words that are too long are broken.
pub fn wrap(text: &str, columns: usize, max_lines: usize) -> Vec<String> {
    let columns = columns.max(2);
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let mut word = word;
        if !line.is_empty() && text_columns(&line) + 1 + text_columns(word) > columns {
            lines.push(std::mem::take(&mut line));
        }
        while line.is_empty() && text_columns(word) > columns {
            let (head, tail) = split_at_columns(word, columns);
            lines.push(head.to_owned());
            word = tail;
        }
        if word.is_empty() {
            continue;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        lines.push(line);
    }
    if lines.len() > max_lines {
        lines.truncate(max_lines);
        if let Some(last) = lines.last_mut() {
            *last = truncate(&format!("{last}…"), columns);
        }
    }
    lines
}

/// Wraps like [`wrap`], but breaks a text that is too wide for one line before each `|` and `,` that stands alone, as
/// in `7 + 3 = 10 | 4 10`: there its parts end.
pub fn wrap_parts(text: &str, columns: usize, max_lines: usize) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match parts.last_mut() {
            Some(part) if !matches!(word, "|" | ",") => *part += &format!(" {word}"),
            _ => parts.push(word.to_owned()),
        }
    }
    let lines: Vec<String> = parts.iter().flat_map(|part| wrap(part, columns, usize::MAX)).collect();
    if text_columns(text) <= columns || lines.len() > max_lines {
        wrap(text, columns, max_lines)
    } else {
        lines
    }
}

/// Splits after the last character that fits; the head has at least one character.
fn split_at_columns(word: &str, columns: usize) -> (&str, &str) {
    let mut used = 0;
    for (at, c) in word.char_indices() {
        used += if is_wide(c) { 2 } else { 1 };
        if used > columns && at > 0 {
            return word.split_at(at);
        }
    }
    (word, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escaping_leaves_nothing_to_interpret() {
        assert_eq!(
            escape("<a b='c'>&\"\u{0}"),
            "&lt;a b=&#39;c&#39;&gt;&amp;&quot;\u{fffd}"
        );
    }

    #[test]
    fn coordinates_are_short() {
        assert_eq!(
            [coordinate(1.0), coordinate(1.256), coordinate(-0.001), coordinate(10.5)],
            ["1", "1.26", "0", "10.5"]
        );
    }

    #[test]
    fn text_is_wrapped_at_spaces() {
        assert_eq!(wrap("7 + 3 = 10 | 4 10", 10, 3), ["7 + 3 = 10", "| 4 10"]);
        assert_eq!(wrap("abcdefghij", 4, 9), ["abcd", "efgh", "ij"]);
        assert_eq!(wrap("one two three four", 7, 2), ["one two", "three…"]);
        assert!(wrap("", 7, 2).is_empty());
    }

    #[test]
    fn parts_begin_lines() {
        assert_eq!(wrap_parts("7 + 3 = 10 | 4 10", 14, 3), ["7 + 3 = 10", "| 4 10"]);
        assert_eq!(wrap_parts("10 + 4 = 14 , 14 ? 24", 14, 3), ["10 + 4 = 14", ", 14 ? 24"]);
        assert_eq!(wrap_parts("4 | 4 4", 14, 3), ["4 | 4 4"]);
        assert_eq!(wrap_parts("one two three four", 7, 2), wrap("one two three four", 7, 2));
    }

    proptest! {
        #[test]
        fn no_line_is_too_wide(text in "\\PC{0,80}", columns in 2usize..30, max_lines in 1usize..6) {
            let lines = wrap(&text, columns, max_lines);
            prop_assert!(lines.len() <= max_lines);
            for line in lines {
                prop_assert!(text_columns(&line) <= columns, "{line:?}");
            }
        }

        #[test]
        fn nothing_is_lost_when_all_fits(text in "[a-z ]{0,60}") {
            let words: String = text.split_whitespace().collect();
            prop_assert_eq!(wrap(&text, 9, 99).concat().replace(' ', ""), words);
        }
    }
}
