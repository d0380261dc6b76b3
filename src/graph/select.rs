//! Names of nodes on a command line: `sft`, `sft[seed=1]`, `eval*`, `[style=search|direct]`.

use super::graph::Graph;
use super::stage::StageNodes;
use crate::digest::canonical;

/// A text that names no single node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// No node matches.
    #[error("there is no node `{text}`{}", nearest.as_ref().map(|id| format!("; did you mean `{id}`?")).unwrap_or_default())]
    Unknown {
        /// What was asked for.
        text: String,
        /// The nearest name.
        nearest: Option<String>,
    },
    /// The stage exists only under a condition, which doesn't hold.
    #[error("stage `{stage}` does not exist now: {reason}")]
    Off {
        /// The stage.
        stage: String,
        /// Why.
        reason: String,
    },
    /// Several nodes match.
    #[error("`{text}` names {num} nodes, such as {}", examples.join(" and "))]
    Several {
        /// What was asked for.
        text: String,
        /// How many match.
        num: usize,
        /// Two of them.
        examples: Vec<String>,
    },
}

/// A coordinate that is asked for: an axis and the texts of which one must be its value.
type Wanted<'a> = (&'a str, Vec<&'a str>);

impl Graph {
    /// Returns the index of the node that `text` names.
    ///
    /// A node is named by its id, by its stage if that has one node, or by the stage and enough of its coordinates in
    /// any order: `sft[style=search]`.
    ///
    /// # Errors
    /// None or several nodes match.
    pub fn select(&self, text: &str) -> Result<usize, SelectError> {
        let found = self.select_all(text)?;
        if let [only] = found[..] {
            return Ok(only);
        }
        let examples = found.iter().take(2).map(|&idx| format!("`{}`", self.id(idx)));
        Err(SelectError::Several {
            text: text.to_owned(),
            num: found.len(),
            examples: examples.collect(),
        })
    }

    /// Returns the indices of all nodes that `text` names, at least one; see [`Graph::select`].
    ///
    /// The stage may also be a pattern with `*` or be left out, and a coordinate may have several values:
    /// `[seed=1|2]`.
    ///
    /// # Errors
    /// No node matches.
    pub fn select_all(&self, text: &str) -> Result<Vec<usize>, SelectError> {
        let (stage, coordinates) = match text.trim().strip_suffix(']').and_then(|text| text.split_once('[')) {
            Some((stage, coordinates)) => (stage, split(coordinates, ',')),
            None => (text.trim(), Vec::new()),
        };
        let wanted: Option<Vec<Wanted<'_>>> = coordinates
            .into_iter()
            .map(|part| {
                let (axis, values) = part.split_once('=')?;
                Some((axis.trim(), split(values, '|').into_iter().map(str::trim).collect()))
            })
            .collect();
        let pattern = glob::Pattern::new(if stage.is_empty() { "*" } else { stage }).ok();
        let is_named = |nodes: &&StageNodes| {
            let name = nodes.name.0.as_str();
            name == stage || pattern.as_ref().is_some_and(|pattern| pattern.matches(name))
        };
        let mut found = Vec::new();
        for stage in self.stages.iter().filter(is_named) {
            found.extend(wanted.iter().flat_map(|wanted| self.nodes_with(stage, wanted)));
        }
        if found.is_empty() {
            return Err(self.unknown(text));
        }
        Ok(found)
    }

    /// Returns the nodes of a stage that have the coordinates.
    fn nodes_with(&self, stage: &StageNodes, wanted: &[Wanted<'_>]) -> Vec<usize> {
        let mut columns = Vec::with_capacity(wanted.len());
        for (axis, texts) in wanted {
            let Some(column) = stage.axes.iter().position(|name| &**name == *axis) else {
                return Vec::new();
            };
            columns.push((column, texts));
        }
        let is_value = |number: u32, text: &str| self.values.shown(number) == text || self.is_same(number, text);
        let fits = |point: &[u32]| {
            let mut columns = columns.iter();
            columns.all(|(column, texts)| texts.iter().any(|text| is_value(point[*column], text)))
        };
        let points = stage.points.iter().enumerate();
        points
            .filter(|(_, point)| fits(point))
            .map(|(point, _)| stage.first + point)
            .collect()
    }

    /// Tells whether a value and a text are the same number or the same string, so that `1e-4` finds `0.0001` and
    /// `"search"` finds `search`.
    fn is_same(&self, number: u32, text: &str) -> bool {
        let value = self.values.tree(number).to_value();
        let same_number = match (value.as_i64(), text.parse::<i64>()) {
            (Some(a), Ok(b)) => a == b,
            _ => matches!((value.as_f64(), text.parse::<f64>()), (Some(a), Ok(b)) if a == b),
        };
        same_number || (text.starts_with('"') && canonical::to_string(&value).as_deref() == Ok(text))
    }

    fn unknown(&self, text: &str) -> SelectError {
        let stage = text.split('[').next().unwrap_or_default().trim();
        if let Some((stage, reason)) = self.off.iter().find(|(name, _)| name == stage) {
            return SelectError::Off {
                stage: stage.clone(),
                reason: reason.clone(),
            };
        }
        // Of a large sweep the names of the stages have to do.
        const MANY: usize = 10_000;
        let stages = self.stages.iter().map(|stage| stage.name.0.clone());
        let ids = (0..self.len().min(MANY)).map(|idx| self.id(idx).0);
        let names: Vec<String> = stages.chain(ids).collect();
        SelectError::Unknown {
            text: text.to_owned(),
            nearest: crate::spec::nearest(text, names.iter().map(String::as_str)).map(str::to_owned),
        }
    }
}

/// Cuts a text at a character that is not in double quotes.
fn split(text: &str, at: char) -> Vec<&str> {
    let mut is_quoted = false;
    let parts = text.split(|c: char| {
        is_quoted ^= c == '"';
        c == at && !is_quoted
    });
    parts.collect()
}
