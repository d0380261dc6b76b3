//! A table of points as text for people, and as CSV and JSON in full precision.

use serde_json::{Map, Value, json};

use super::text::{Paint, table as aligned};
use crate::exec::NodeState;
use crate::inspect::{Best, Cell, Direction, PointState, Row, Table, counted};
use crate::spec::text_of;

/// A column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column<'a> {
    Node,
    Axis(&'a str),
    /// How many of the points of a group have a result.
    Count,
    State,
    /// A metric by its index.
    Metric(usize),
}

/// The columns that are neither axes nor metrics, as `--columns` names them.
pub const OTHER_COLUMNS: [&str; 3] = ["node", "n", "state"];

/// Returns the table for people: numbers rounded, the best rows marked, and below what the marks mean.
///
/// `chosen` are the columns, all if it is empty. `width` is that of the terminal; columns that don't fit are left out
/// and named.
pub fn describe_table(table: &Table, chosen: &[String], width: Option<usize>, paint: Paint) -> String {
    let columns = columns(table, chosen);
    let mut rows = vec![header(table, &columns)];
    rows.extend(table.rows.iter().map(|row| text_row(table, row, &columns)));
    align_right(table, &mut rows, &columns);
    let kept = width.map_or(columns.len(), |width| num_fitting(&rows, width));
    rows.iter_mut().for_each(|row| row.truncate(kept + 1));
    let mut out = String::new();
    for (idx, line) in aligned(&rows).lines().enumerate() {
        let row = idx.checked_sub(1).and_then(|idx| table.rows.get(idx));
        out.push_str(&match row {
            Some(row) if row.is_best => paint.state(NodeState::Executed, line),
            Some(row) if row.states.contains_key(&PointState::Failed) => paint.state(NodeState::Failed, line),
            _ => line.to_owned(),
        });
        out.push('\n');
    }
    let dropped: Vec<String> = columns[kept..].iter().map(|column| name(table, column)).collect();
    out.push('\n');
    for line in notes(table, &dropped) {
        out.push_str(&paint.dim(&line));
        out.push('\n');
    }
    out
}

/// Returns the table as CSV with all columns, numbers in full precision.
pub fn table_as_csv(table: &Table, chosen: &[String]) -> String {
    let columns = columns(table, chosen);
    let is_grouped = !table.over.is_empty();
    let mut head = Vec::new();
    for column in &columns {
        head.push(name(table, column));
        if let (Column::Metric(_), true) = (column, is_grouped) {
            let name = name(table, column);
            head.extend(["n", "ci95_low", "ci95_high"].map(|what| format!("{name}_{what}")));
        }
    }
    let mut out = csv_line(&head);
    for row in &table.rows {
        let mut fields = Vec::new();
        for column in &columns {
            match column {
                Column::Node => fields.push(ids(row)),
                Column::Axis(axis) => fields.push(row.axes.get(*axis).map(text_of).unwrap_or_default()),
                Column::Count => fields.push(row.num_done().to_string()),
                Column::State => fields.push(states(row)),
                Column::Metric(idx) => metric_fields(&row.cells[*idx], is_grouped, &mut fields),
            }
        }
        out.push_str(&csv_line(&fields));
    }
    out
}

fn metric_fields(cell: &Cell, is_grouped: bool, fields: &mut Vec<String>) {
    let spread = match cell {
        Cell::Numbers(spread) => Some(spread),
        _ => None,
    };
    fields.push(match cell {
        Cell::Absent => String::new(),
        Cell::Numbers(spread) => spread.mean.to_string(),
        Cell::Text(text) => text.clone(),
    });
    if is_grouped {
        let ends = spread.and_then(|spread| spread.interval());
        fields.push(spread.map_or(0, |spread| spread.n).to_string());
        fields.extend([0, 1].map(|end| ends.map(|ends| ends[end].to_string()).unwrap_or_default()));
    }
}

/// Returns a line of CSV (RFC 4180, with the line break of Unix).
fn csv_line(fields: &[String]) -> String {
    let quoted = fields.iter().map(|field| match field.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.clone(),
    });
    format!("{}\n", quoted.collect::<Vec<_>>().join(","))
}

/// Returns all that the table holds as JSON.
pub fn table_as_json(table: &Table) -> Value {
    let row = |row: &Row| {
        let mut values = Map::new();
        for (metric, cell) in table.metrics.iter().zip(&row.cells) {
            let value = match cell {
                Cell::Absent => Value::Null,
                Cell::Text(text) => json!(text),
                Cell::Numbers(spread) if table.over.is_empty() => json!(spread.mean),
                Cell::Numbers(spread) => json!({"mean": spread.mean, "n": spread.n, "ci95": spread.interval()}),
            };
            values.insert(metric.clone(), value);
        }
        json!({
            "axes": row.axes, "nodes": row.nodes, "n": row.num_done(), "states": row.states,
            "message": row.message, "values": values, "best": row.is_best,
        })
    };
    json!({
        "axes": table.axes, "over": table.over, "metrics": table.metrics, "best": table.best,
        "states": table.states, "num_rows": table.num_rows, "num_remade": table.num_remade,
        "rows": table.rows.iter().map(row).collect::<Vec<_>>(),
    })
}

fn columns<'a>(table: &'a Table, chosen: &'a [String]) -> Vec<Column<'a>> {
    if chosen.is_empty() {
        let mut columns: Vec<Column> = table.axes.iter().map(|axis| Column::Axis(axis)).collect();
        // A stage without axes has one row, whose name says which.
        if columns.is_empty() {
            columns.push(Column::Node);
        }
        if !table.over.is_empty() {
            columns.push(Column::Count);
        }
        if table.states.keys().any(|state| *state != PointState::Done) {
            columns.push(Column::State);
        }
        columns.extend((0..table.metrics.len()).map(Column::Metric));
        return columns;
    }
    let column = |name: &'a String| match name.as_str() {
        "node" => Some(Column::Node),
        "n" => Some(Column::Count),
        "state" => Some(Column::State),
        axis if table.axes.contains(name) => Some(Column::Axis(axis)),
        _ => table
            .metrics
            .iter()
            .position(|metric| metric == name)
            .map(Column::Metric),
    };
    chosen.iter().filter_map(column).collect()
}

fn name(table: &Table, column: &Column<'_>) -> String {
    match column {
        Column::Node => "node".to_owned(),
        Column::Axis(axis) => (*axis).to_owned(),
        Column::Count => "n".to_owned(),
        Column::State => "state".to_owned(),
        Column::Metric(idx) => table.metrics[*idx].clone(),
    }
}

fn header(table: &Table, columns: &[Column<'_>]) -> Vec<String> {
    let names = columns.iter().map(|column| name(table, column));
    std::iter::once(String::new()).chain(names).collect()
}

fn text_row(table: &Table, row: &Row, columns: &[Column<'_>]) -> Vec<String> {
    let mark = if row.is_best { "*" } else { "" };
    let text = |column: &Column<'_>| match column {
        Column::Node => ids(row),
        Column::Axis(axis) => row.axes.get(*axis).map(text_of).unwrap_or_default(),
        Column::Count if row.num_done() == row.nodes.len() => row.num_done().to_string(),
        Column::Count => format!("{} of {}", row.num_done(), row.nodes.len()),
        Column::State => states(row),
        Column::Metric(idx) => match &row.cells[*idx] {
            Cell::Absent => "-".to_owned(),
            Cell::Text(text) => one_line(text),
            Cell::Numbers(spread) => {
                let value = match spread.half_width {
                    Some(half_width) if !table.over.is_empty() => with_interval(spread.mean, half_width),
                    _ => number(spread.mean),
                };
                // A metric that some results lack would otherwise seem to rest on all of them.
                if spread.n == row.num_done() || spread.n == row.nodes.len() {
                    value
                } else {
                    format!("{value} (n={})", spread.n)
                }
            }
        },
    };
    std::iter::once(mark.to_owned())
        .chain(columns.iter().map(text))
        .collect()
}

fn ids(row: &Row) -> String {
    let ids: Vec<&str> = row.nodes.iter().map(|id| id.0.as_str()).collect();
    ids.join(" ")
}

/// Returns how the points of a row stand; where some are not done, how many and why.
fn states(row: &Row) -> String {
    if let [state] = &row.states.keys().collect::<Vec<_>>()[..] {
        return state.to_string();
    }
    let mut undone = row.states.clone();
    undone.remove(&PointState::Done);
    counted(&undone)
}

/// Returns the beginning of a text, which may be a whole script.
fn one_line(text: &str) -> String {
    const MAX_CHARS: usize = 32;
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None if line.len() < text.trim_end().len() => format!("{line}..."),
        None => line.to_owned(),
    }
}

/// Pads the columns of numbers, so that their ends are below each other.
fn align_right(table: &Table, rows: &mut [Vec<String>], columns: &[Column<'_>]) {
    let is_text = |cell: &Cell| matches!(cell, Cell::Text(_));
    for (idx, column) in columns.iter().enumerate() {
        match column {
            Column::Count => {}
            Column::Metric(idx) if !table.rows.iter().any(|row| is_text(&row.cells[*idx])) => {}
            _ => continue,
        }
        let width = rows.iter().map(|row| row[idx + 1].chars().count()).max().unwrap_or(0);
        for row in rows.iter_mut() {
            row[idx + 1] = format!("{:>width$}", row[idx + 1]);
        }
    }
}

/// Returns how many columns fit beside the marks; at least one.
fn num_fitting(rows: &[Vec<String>], width: usize) -> usize {
    let columns = rows.first().map_or(0, Vec::len);
    let width_of = |idx: usize| rows.iter().map(|row| row[idx].chars().count()).max().unwrap_or(0);
    let mut used = width_of(0);
    for idx in 1..columns {
        used += 2 + width_of(idx);
        if used > width && idx > 1 {
            return idx - 1;
        }
    }
    columns.saturating_sub(1)
}

fn notes(table: &Table, dropped: &[String]) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(Best { metric, direction }) = &table.best {
        let (best, other, of_other) = match direction {
            Direction::Max => ("highest", "min", "lowest"),
            Direction::Min => ("lowest", "max", "highest"),
        };
        notes.push(format!("* {best} {metric} (--best {other} for the {of_other})"));
    }
    if !table.over.is_empty() {
        let over = table.over.join(", ");
        notes.push(format!(
            "means over {over}, ± 95% confidence interval by Student's t (--no-over for every point)"
        ));
    }
    let num_points: usize = table.states.values().sum();
    if table.states.len() > 1 {
        notes.push(format!("{num_points} points: {}", counted(&table.states)));
    }
    if table.rows.len() < table.num_rows {
        notes.push(format!("{} of {} rows (--top)", table.rows.len(), table.num_rows));
    }
    if table.num_remade > 0 {
        let num = table.num_remade;
        notes.push(format!(
            "made again after this run, so not what it had: {num} of the results"
        ));
    }
    if !dropped.is_empty() {
        notes.push(format!(
            "too wide for this terminal: {} (--columns, --format csv)",
            dropped.join(", ")
        ));
    }
    notes
}

/// Returns a number with about four significant digits, and whole numbers whole.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if value.fract() == 0.0 && size < 1e15 {
        return format!("{value:.0}");
    }
    if !value.is_finite() || !(1e-4..1e6).contains(&size) {
        return format!("{value:.3e}");
    }
    format!("{value:.*}", decimals(size, 4))
}

/// Returns a mean with the half-width of its interval, both to the second digit of the latter.
fn with_interval(mean: f64, half_width: f64) -> String {
    if half_width == 0.0 || !half_width.is_finite() || !(1e-6..1e6).contains(&half_width) || mean.abs() >= 1e9 {
        return format!("{} ± {}", number(mean), number(half_width));
    }
    let decimals = decimals(half_width, 2);
    format!("{mean:.decimals$} ± {half_width:.decimals$}")
}

/// Returns how many decimals show this many significant digits of a size.
fn decimals(size: f64, digits: i32) -> usize {
    usize::try_from(digits - 1 - size.log10().floor() as i32).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        let shown = [
            0.0,
            3.0,
            0.41234,
            12.3456,
            1234.56,
            0.00001234,
            1.5e7 + 0.5,
            2e16,
            f64::NAN,
        ]
        .map(number);
        assert_eq!(
            shown,
            [
                "0", "3", "0.4123", "12.35", "1235", "1.234e-5", "1.500e7", "2.000e16", "NaN"
            ]
        );
        assert_eq!(with_interval(0.4132, 0.015983), "0.413 ± 0.016");
        assert_eq!(with_interval(123.456, 12.7), "123 ± 13");
        assert_eq!(with_interval(0.5, 0.0), "0.5000 ± 0");
    }

    #[test]
    fn columns_that_do_not_fit_are_counted_from_the_right() {
        let rows = [["", "style", "loss", "seconds"].map(str::to_owned).to_vec()];
        assert_eq!(
            [80, 22, 21, 10, 3].map(|width| num_fitting(&rows, width)),
            [3, 3, 2, 1, 1]
        );
    }

    #[test]
    fn fields_of_csv_are_quoted_where_they_must_be() {
        assert_eq!(
            csv_line(&["a".into(), "b,c".into(), "d\"e".into()]),
            "a,\"b,c\",\"d\"\"e\"\n"
        );
    }
}
