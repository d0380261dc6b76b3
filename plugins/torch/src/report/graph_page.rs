//! Graphs on one page that a browser draws: to pan, zoom, fold, search and read, for ten nodes or for thousands.
//!
//! The page needs nothing else. `assets/graph.js` lays out and draws what it finds as data in the page; without
//! scripts, the drawings that are given stand there instead. Texts come from models: as data they have no character
//! that could end their element, the script shows them as text only, and the content security policy lets no other
//! script run, because the nonce of ours is a digest of the data itself.

use super::graph_data::{Graph, cut_texts};
use super::markup::{DRAWING_CSS, escape};

const SCRIPT: &str = include_str!("assets/graph.js");
const STYLE: &str = include_str!("assets/graph.css");
const BODY: &str = include_str!("assets/graph_body.html");

/// Bytes of all steps' texts on a page: with figures and drawing, 2,000 nodes stay below 3 MB.
const TEXT_BUDGET: usize = 1_200_000;

/// A drawing for readers without scripts.
pub struct Fallback<'a> {
    pub title: &'a str,
    /// A whole `<svg>` element.
    pub svg: &'a str,
}

/// Returns the page; the first graph is shown first.
pub fn graph_page(title: &str, mut graphs: Vec<Graph>, fallbacks: &[Fallback]) -> String {
    cut_texts(&mut graphs, TEXT_BUDGET);
    let data = embedded(&graphs);
    let nonce = blake3::hash(format!("{data}{SCRIPT}").as_bytes()).to_hex();
    let title = escape(title);
    let figures: String = fallbacks
        .iter()
        .map(|figure| {
            format!(
                "<h2>{}</h2>\n<div class=\"frame\">{}</div>\n",
                escape(figure.title),
                figure.svg
            )
        })
        .collect();
    // Without a graph there is nothing for the script to draw; the drawings say why.
    let scripts = if graphs.is_empty() {
        String::new()
    } else {
        format!(
            "<script type=\"application/json\" id=\"graphs\">{data}</script>\n<script nonce=\"{nonce}\">\n{SCRIPT}</script>\n"
        )
    };
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
         script-src 'nonce-{nonce}'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>{DRAWING_CSS}{STYLE}</style></head>\n<body>\n{}\
         <div id=\"static\"><h1>{title}</h1>\n<p>Point at a node to read more of it.</p>\n{figures}</div>\n{scripts}</body></html>\n",
        BODY.replace("{title}", &title)
    )
}

/// Returns the graphs as JSON that can't end the element it stands in.
fn embedded(graphs: &[Graph]) -> String {
    let json = serde_json::to_string(graphs).expect("graphs are strings and numbers");
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out += &format!("\\u{:04x}", c as u32),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::Tree;
    use crate::report::draw_outline::draw_outline;
    use crate::report::draw_tree::fixtures::tree;
    use crate::report::graph_data::of_tree;
    use crate::report::prune::prune;

    const HOSTILE: &str = "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)> \u{2028} \" ' & </title>";

    fn page_of(tree: &Tree) -> String {
        let svg = draw_outline(tree);
        let fallback = Fallback {
            title: "Search tree",
            svg: &svg,
        };
        graph_page("Search", vec![of_tree(tree, &prune(tree, usize::MAX))], &[fallback])
    }

    /// The data of a page, parsed as a browser would.
    fn data_of(page: &str) -> serde_json::Value {
        let start = page.find("id=\"graphs\">").expect("the data element") + "id=\"graphs\">".len();
        let end = start + page[start..].find("</script>").expect("its end");
        serde_json::from_str(&page[start..end]).expect("JSON")
    }

    #[test]
    fn text_of_models_stays_text() {
        let mut hostile = tree(&[(None, "", 1, 0.0, None), (Some(0), HOSTILE, 1, 0.5, Some(true))]);
        hostile.problem.problem = HOSTILE.into();
        hostile.problem.id = HOSTILE.into();
        hostile.nodes[1].answer = Some(HOSTILE.into());
        let page = page_of(&hostile);
        assert_eq!(page.matches("<script").count(), 2, "the data and the program");
        assert_eq!(page.matches("</script").count(), 2);
        assert!(!page.contains("<img") && !page.contains("<!--"));
        let data = data_of(&page);
        assert_eq!(data[0]["nodes"][1]["text"], HOSTILE);
        assert_eq!(data[0]["nodes"][1]["answer"], HOSTILE);
        assert!(!SCRIPT.contains("innerHTML") && !SCRIPT.contains("insertAdjacentHTML") && !SCRIPT.contains("eval("));
    }

    #[test]
    fn the_page_loads_nothing_and_runs_only_its_own_program() {
        let page = page_of(&tree(&[(None, "", 1, 0.0, None)]));
        assert!(page.contains("default-src 'none'") && !page.contains("script-src 'unsafe-inline'"));
        let nonce = page
            .split("nonce-")
            .nth(1)
            .and_then(|rest| rest.split('\'').next())
            .expect("a nonce");
        assert_eq!(nonce.len(), 64);
        assert!(page.contains(&format!("<script nonce=\"{nonce}\">")));
        let without_namespaces = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!without_namespaces.contains("http://") && !without_namespaces.contains("https://"));
        assert!(!page.contains("src=\"") && !page.contains("@import") && !page.contains("url(\""));
    }

    #[test]
    fn two_thousand_nodes_make_less_than_three_megabytes() {
        let step = "By the binomial theorem the coefficient of x^3 is 8 choose 3, which is 56. ".repeat(30);
        let nodes: Vec<_> = (0..2000usize)
            .map(|id| {
                (
                    (id > 0).then(|| (id - 1) / 4),
                    step.as_str(),
                    3,
                    0.123_456,
                    Some(id % 5 == 0),
                )
            })
            .collect();
        let tree = tree(&nodes);
        let page = page_of(&tree);
        assert!(page.len() < 3_000_000, "{}", page.len());
        assert_eq!(data_of(&page)[0]["nodes"].as_array().map(Vec::len), Some(2000));
        assert_eq!(page, page_of(&tree), "the same tree makes the same bytes");
    }

    #[test]
    fn without_graphs_the_drawings_stand_alone() {
        let page = graph_page(
            "Nothing",
            Vec::new(),
            &[Fallback {
                title: "Search tree",
                svg: "<svg></svg>",
            }],
        );
        assert!(!page.contains("<script") && page.contains("<svg></svg>"));
    }
}
