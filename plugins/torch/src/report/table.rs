//! A table of ready-made cells, shown three ways: aligned text for a terminal, CSV, and HTML.
//!
//! Knows nothing of what the cells mean. Text tables that would be too wide are split into blocks of columns, each
//! with the first column again, because a line that a terminal wraps can't be read.

use super::markup::{escape, text_columns, truncate};

/// Which side a column's cells lean to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// Headers and cells, all as text.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<String>>,
}

/// A column's header and what explains it.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    pub header: String,
    pub align: Align,
    /// Shown when a reader points at the header; may be empty.
    pub help: String,
}

impl Column {
    pub fn left(header: impl Into<String>) -> Self {
        Self {
            header: header.into(),
            align: Align::Left,
            help: String::new(),
        }
    }

    pub fn right(header: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            header: header.into(),
            align: Align::Right,
            help: help.into(),
        }
    }
}

/// The first column is cut to this many characters in a text table, the others are never cut.
const MAX_FIRST_WIDTH: usize = 40;
const GAP: &str = "  ";

impl Table {
    /// Returns the table as aligned lines of at most `max_width` characters, in several blocks where needed.
    ///
    /// A single column that is wider than what is left beside the first one still stands alone in its block.
    pub fn to_text(&self, max_width: usize) -> String {
        let widths: Vec<usize> = (0..self.columns.len()).map(|idx| self.text_width(idx)).collect();
        let Some(first) = widths.first() else {
            return String::new();
        };
        let mut blocks: Vec<Vec<usize>> = vec![vec![0]];
        let mut used = *first;
        for (idx, width) in widths.iter().enumerate().skip(1) {
            let block_len = blocks.last().map_or(0, Vec::len);
            if used + GAP.len() + width > max_width && block_len > 1 {
                blocks.push(vec![0]);
                used = *first;
            }
            used += GAP.len() + width;
            if let Some(block) = blocks.last_mut() {
                block.push(idx);
            }
        }
        let block_texts = blocks.iter().map(|block| self.block_text(block, &widths));
        block_texts.collect::<Vec<_>>().join("\n")
    }

    fn text_width(&self, column: usize) -> usize {
        let cells = self
            .rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| text_columns(cell));
        let widest = cells
            .chain([text_columns(&self.columns[column].header)])
            .max()
            .unwrap_or(0);
        if column == 0 {
            widest.min(MAX_FIRST_WIDTH)
        } else {
            widest
        }
    }

    fn block_text(&self, block: &[usize], widths: &[usize]) -> String {
        let line = |cell: &dyn Fn(usize) -> String| {
            let cells = block.iter().map(|&idx| {
                let text = truncate(&cell(idx), widths[idx]);
                let pad = " ".repeat(widths[idx].saturating_sub(text_columns(&text)));
                match self.columns[idx].align {
                    Align::Left => text + &pad,
                    Align::Right => pad + &text,
                }
            });
            cells.collect::<Vec<_>>().join(GAP).trim_end().to_owned() + "\n"
        };
        let mut text = line(&|idx| self.columns[idx].header.clone());
        text += &line(&|idx| "-".repeat(widths[idx]));
        for row in &self.rows {
            text += &line(&|idx| row.get(idx).cloned().unwrap_or_default());
        }
        text
    }

    /// Returns the table as an HTML `<table>` inside an element that scrolls sideways when it must.
    pub fn to_html(&self) -> String {
        let class = |column: &Column| {
            if column.align == Align::Right {
                " class=\"num\""
            } else {
                ""
            }
        };
        let mut html = String::from("<div class=\"scroll\"><table><thead><tr>");
        for column in &self.columns {
            let help = if column.help.is_empty() {
                String::new()
            } else {
                format!(" title=\"{}\"", escape(&column.help))
            };
            html += &format!(
                "<th scope=\"col\"{}{help}>{}</th>",
                class(column),
                escape(&column.header)
            );
        }
        html += "</tr></thead><tbody>\n";
        for row in &self.rows {
            html += "<tr>";
            for (idx, (column, cell)) in self.columns.iter().zip(row).enumerate() {
                let cell = escape(cell);
                html += &match idx {
                    0 => format!("<th scope=\"row\">{cell}</th>"),
                    _ => format!("<td{}>{cell}</td>", class(column)),
                };
            }
            html += "</tr>\n";
        }
        html + "</tbody></table></div>\n"
    }

    /// Returns the table as CSV (RFC 4180), with the headers as its first line.
    pub fn to_csv(&self) -> String {
        let headers: Vec<String> = self.columns.iter().map(|column| column.header.clone()).collect();
        let mut csv = String::new();
        for row in std::iter::once(&headers).chain(&self.rows) {
            csv += &row.iter().map(|cell| csv_cell(cell)).collect::<Vec<_>>().join(",");
            csv += "\r\n";
        }
        csv
    }
}

fn csv_cell(cell: &str) -> String {
    if cell.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table {
            columns: vec![
                Column::left("model"),
                Column::right("pass@1", "share"),
                Column::right("n", ""),
            ],
            rows: vec![
                vec!["base".into(), "9.8".into(), "500".into()],
                vec!["a, \"b\"".into(), "53.7".into(), "5".into()],
            ],
        }
    }

    #[test]
    fn text_is_aligned() {
        let want = "model   pass@1    n\n------  ------  ---\nbase       9.8  500\na, \"b\"    53.7    5\n";
        assert_eq!(table().to_text(80), want);
    }

    #[test]
    fn a_wide_table_is_split_with_its_first_column_repeated() {
        let text = table().to_text(15);
        assert!(text.lines().all(|line| line.chars().count() <= 15), "{text}");
        assert_eq!(text.matches("base").count(), 2);
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        assert_eq!(
            table().to_csv(),
            "model,pass@1,n\r\nbase,9.8,500\r\n\"a, \"\"b\"\"\",53.7,5\r\n"
        );
    }

    #[test]
    fn html_escapes_cells() {
        let html = Table {
            columns: vec![Column::left("<x>")],
            rows: vec![vec!["a & <b>".into()]],
        }
        .to_html();
        assert!(html.contains("&lt;x&gt;") && html.contains("a &amp; &lt;b&gt;") && !html.contains("<b>"));
    }
}
