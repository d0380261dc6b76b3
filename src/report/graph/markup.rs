//! What the drawing in SVG is written with: escaping, coordinates, the measure of text, one style sheet for light and
//! dark.
//!
//! Text is measured by counting columns of a monospaced font, because no font is at hand when a drawing is made: good
//! to a few percent everywhere, and boxes leave more room than that. The look is that of the drawings of search trees.

use unicode_width::UnicodeWidthStr;

/// Width of a column of the monospaced font, as a share of the font size. No text face in use is wider on average.
pub const COLUMN: f64 = 0.605;

/// The colours of a background.
struct Palette {
    ink: &'static str,
    soft: &'static str,
    paper: &'static str,
    sheet: &'static str,
    forward: &'static str,
    gather: &'static str,
    cached: &'static str,
    run: &'static str,
    maybe: &'static str,
}

const LIGHT: Palette = Palette {
    ink: "#1d2329",
    soft: "#5b6570",
    paper: "#ffffff",
    sheet: "#f3f6f9",
    forward: "#5f7690",
    gather: "#2f6fb3",
    cached: "#1c8348",
    run: "#c2560a",
    maybe: "#8250c4",
};

const DARK: Palette = Palette {
    ink: "#e4e8ec",
    soft: "#9aa5b1",
    paper: "#14181c",
    sheet: "#20262d",
    forward: "#8ba3bd",
    gather: "#69a8e8",
    cached: "#4cc27d",
    run: "#f29a4a",
    maybe: "#b592ee",
};

/// What doesn't depend on the background.
const SHAPES: &str = "\
.vv text{font-family:system-ui,-apple-system,\"Segoe UI\",Roboto,\"DejaVu Sans\",sans-serif;font-size:10.5px}
.vv .mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,\"DejaVu Sans Mono\",\"Liberation Mono\",monospace}
.vv .name{font-size:12.5px;font-weight:600}.vv .head{font-size:14px;font-weight:600}
.vv .mid{text-anchor:middle}.vv .gtext{font-style:italic}
.vv .box{stroke-width:1.2}.vv .run .box{stroke-width:2}.vv .maybe .box{stroke-width:1.4;stroke-dasharray:5 3}
.vv .edge{stroke-width:1.4;fill:none}.vv .gather{stroke-width:4.2;fill:none}.vv .inner{stroke-width:1.6;fill:none}
";

/// Returns the style sheet. Colours say the same as words and strokes, and never stand alone.
///
/// They are written out for both backgrounds: most programs that turn SVG into PDF know no variables.
fn css() -> String {
    format!(
        "\n{SHAPES}{}@media (prefers-color-scheme:dark){{\n{}}}\n",
        colours(&LIGHT),
        colours(&DARK)
    )
}

fn colours(palette: &Palette) -> String {
    let Palette {
        ink,
        soft,
        paper,
        sheet,
        forward,
        gather,
        ..
    } = palette;
    let mut css = format!(
        ".vv text{{fill:{ink}}}.vv .soft{{fill:{soft}}}.vv .gtext{{fill:{gather}}}\n\
         .vv .paper{{fill:{paper}}}.vv .box{{fill:{sheet};stroke:{forward}}}.vv .pile{{fill:{paper}}}\n\
         .vv .edge{{stroke:{forward}}}.vv .tip{{fill:{forward}}}.vv .gather{{stroke:{gather}}}\
         .vv .gtip{{fill:{gather}}}.vv .inner{{stroke:{paper}}}\n"
    );
    for (state, colour) in [
        ("cached", palette.cached),
        ("run", palette.run),
        ("maybe", palette.maybe),
    ] {
        css += &format!(".vv .{state} .box{{stroke:{colour}}}.vv .share.{state}{{fill:{colour}}}\n");
    }
    css
}

/// Escapes text for XML, in an element or in a quoted attribute; characters that XML forbids become `\u{fffd}`.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' => out.push(c),
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
         role=\"img\">\n<title>{}</title>\n<style>{}</style>\n<rect class=\"paper\" width=\"{w}\" height=\"{h}\"/>\n",
        escape(title),
        css()
    )
}

/// Returns a line of text; `y` is its base line.
pub fn text(class: &str, x: f64, y: f64, content: &str) -> String {
    let (x, y) = (coordinate(x), coordinate(y));
    format!(
        "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{}</text>\n",
        escape(content)
    )
}

/// Returns how wide a text of this size is.
pub fn text_width(text: &str, font_size: f64) -> f64 {
    text.width() as f64 * COLUMN * font_size
}

#[cfg(test)]
mod tests {
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
        assert_eq!([1.0, 1.256, -0.001, 10.5].map(coordinate), ["1", "1.26", "0", "10.5"]);
    }
}
