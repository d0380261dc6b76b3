//! Counts for data cards: histograms, and their look in Markdown.
//!
//! A card is what a stage says of the data that it made. Knows nothing of which data.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// Bars of a histogram, at most.
const MAX_BARS: usize = 12;

/// Characters of the longest bar.
const BAR_WIDTH: usize = 30;

/// Some numbers, as a summary and as bars.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// What is counted: `words`, `tokens`.
    pub unit: String,
    pub count: usize,
    pub mean: f64,
    pub min: usize,
    pub median: usize,
    /// 90 in 100 are not longer.
    pub p90: usize,
    pub max: usize,
    pub bars: Vec<Bar>,
}

/// How many numbers are in `from..below`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bar {
    pub from: usize,
    pub below: usize,
    pub count: usize,
}

impl Histogram {
    /// Counts values in bars of equal width, a round number.
    pub fn of(unit: &str, values: &[usize]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_unstable();
        let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else {
            return Self {
                unit: unit.to_owned(),
                ..Self::default()
            };
        };
        let at = |share: usize| sorted[(sorted.len() * share).div_ceil(100).max(1) - 1];
        let width = round_width(min, max);
        let first = min / width;
        let mut bars: Vec<Bar> = (first..=max / width)
            .map(|idx| Bar {
                from: idx * width,
                below: (idx + 1) * width,
                count: 0,
            })
            .collect();
        for value in &sorted {
            bars[value / width - first].count += 1;
        }
        Self {
            unit: unit.to_owned(),
            count: sorted.len(),
            mean: sorted.iter().sum::<usize>() as f64 / sorted.len() as f64,
            min,
            median: at(50),
            p90: at(90),
            max,
            bars,
        }
    }

    /// Writes the summary and a table of the bars.
    pub fn write(&self, out: &mut String) {
        let _ = writeln!(
            out,
            "{} to {} {}, {:.1} on average, half of them at most {}, nine in ten at most {}.\n",
            self.min, self.max, self.unit, self.mean, self.median, self.p90
        );
        let rows = self.bars.iter().map(|bar| {
            let range = match bar.below - bar.from {
                1 => bar.from.to_string(),
                _ => format!("{} - {}", bar.from, bar.below - 1),
            };
            (range, bar.count)
        });
        write_counts(out, &self.unit, &rows.collect::<Vec<_>>());
    }
}

/// The smallest of 1, 2, 5, 10, 20 ... that gives few enough bars.
fn round_width(min: usize, max: usize) -> usize {
    let mut power = 1;
    loop {
        for width in [power, 2 * power, 5 * power] {
            if max / width - min / width < MAX_BARS {
                return width;
            }
        }
        power *= 10;
    }
}

/// Counts how often each value occurs.
pub fn tally<K: Ord>(values: impl IntoIterator<Item = K>) -> BTreeMap<K, usize> {
    let mut counts = BTreeMap::new();
    for value in values {
        *counts.entry(value).or_default() += 1;
    }
    counts
}

/// Writes a table of names and counts, each with its share and a bar.
pub fn write_counts(out: &mut String, heading: &str, rows: &[(String, usize)]) {
    let total: usize = rows.iter().map(|(_, count)| count).sum();
    let most = rows.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1);
    let _ = writeln!(out, "| {heading} | count | share | |\n| --- | ---: | ---: | --- |");
    for (name, count) in rows {
        let share = 100.0 * *count as f64 / total.max(1) as f64;
        let bar = "#".repeat((count * BAR_WIDTH).div_ceil(most));
        let _ = writeln!(out, "| {} | {count} | {share:.1}% | {bar} |", name.replace('|', "\\|"));
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_histogram_of_known_numbers() {
        let made = Histogram::of("words", &[3, 14, 15, 92, 65, 35]);
        assert_eq!((made.min, made.median, made.p90, made.max), (3, 15, 92, 92));
        assert!((made.mean - 224.0 / 6.0).abs() < 1e-12);
        let counts: Vec<(usize, usize)> = made.bars.iter().map(|bar| (bar.from, bar.count)).collect();
        let expected = [
            (0, 1),
            (10, 2),
            (20, 0),
            (30, 1),
            (40, 0),
            (50, 0),
            (60, 1),
            (70, 0),
            (80, 0),
            (90, 1),
        ];
        assert_eq!(counts, expected);
        let mut text = String::new();
        made.write(&mut text);
        assert!(
            text.contains("| 10 - 19 | 2 | 33.3% | ############################## |"),
            "{text}"
        );
    }

    #[test]
    fn no_numbers_are_no_bars() {
        assert_eq!(Histogram::of("words", &[]).bars, []);
    }

    proptest! {
        #[test]
        fn every_number_is_in_one_bar(values in prop::collection::vec(0usize..100_000, 1..60)) {
            let made = Histogram::of("tokens", &values);
            prop_assert!(made.bars.len() <= MAX_BARS);
            prop_assert_eq!(made.bars.iter().map(|bar| bar.count).sum::<usize>(), values.len());
            for bar in &made.bars {
                let inside = values.iter().filter(|&&value| bar.from <= value && value < bar.below).count();
                prop_assert_eq!(bar.count, inside);
            }
            let below = |limit: usize| values.iter().filter(|&&value| value <= limit).count() as f64;
            let count = values.len() as f64;
            prop_assert!(below(made.median) >= 0.5 * count && below(made.p90) >= 0.9 * count);
        }
    }
}
