//! What can be said about a comparison, in sentences made from its numbers.
//!
//! Each sentence states a fact with its figures; none explains, praises or expects anything, so that a reader never
//! meets a conclusion that this run's numbers don't carry.

use super::compare::{Difference, Row};

/// Above this share of truncated samples the token limit has a say in the scores.
const TRUNCATED_WORTH_A_NOTE: f64 = 0.05;

/// Returns the notes on these rows and differences.
pub fn notes(rows: &[Row], differences: &[Difference]) -> Vec<String> {
    let mut notes = Vec::new();
    notes.extend(setting(rows));
    notes.extend(seeds(rows));
    notes.extend(ranking(rows));
    notes.extend(unresolved(differences));
    notes.extend(equal_tokens(rows));
    notes.extend(truncation(rows));
    notes.extend(main_failures(rows));
    notes
}

/// Says what was measured, and warns where the rows were not measured alike.
fn setting(rows: &[Row]) -> Vec<String> {
    let Some(first) = rows.first() else { return Vec::new() };
    let alike = |row: &Row| {
        (row.num_problems, row.num_samples, row.max_completion_length)
            == (first.num_problems, first.num_samples, first.max_completion_length)
            && row.temperature == first.temperature
    };
    if rows.iter().all(alike) {
        return vec![format!(
            "{} problems, {} samples each, temperature {}, at most {} tokens a sample, for every model.",
            first.num_problems,
            first.num_samples,
            known(first.temperature),
            known(first.max_completion_length)
        )];
    }
    let settings = rows.iter().map(|row| {
        format!(
            "{}: {} problems x {} samples, temperature {}, at most {} tokens",
            row.name,
            row.num_problems,
            row.num_samples,
            known(row.temperature),
            known(row.max_completion_length)
        )
    });
    vec![format!(
        "The models were not measured alike. {}.",
        settings.collect::<Vec<_>>().join("; ")
    )]
}

/// Says which rows are means over runs with several seeds, and what their intervals mean.
fn seeds(rows: &[Row]) -> Option<String> {
    let pooled: Vec<&Row> = rows.iter().filter(|row| row.seeds.len() > 1).collect();
    let most = pooled.iter().map(|row| row.seeds.len()).max()?;
    let names: Vec<String> = pooled
        .iter()
        .map(|row| {
            let seeds: Vec<String> = row.seeds.iter().map(|run| run.seed.to_string()).collect();
            format!("{} (seeds {})", row.name, seeds.join(", "))
        })
        .collect();
    let single: Vec<&str> = rows
        .iter()
        .filter(|row| row.seeds.len() < 2)
        .map(|row| row.name.as_str())
        .collect();
    let rest = if single.is_empty() {
        String::new()
    } else {
        format!(
            " One run each: {}; their intervals are over problems.",
            single.join(", ")
        )
    };
    Some(format!(
        "Means over runs that differ in the seed alone: {}. Their intervals are over problems and seeds; how much runs \
         differ is known from {most} of them.{rest}",
        names.join(", ")
    ))
}

fn ranking(rows: &[Row]) -> Option<String> {
    if rows.len() < 2 {
        return None;
    }
    let mut ranked: Vec<&Row> = rows.iter().collect();
    ranked.sort_by(|a, b| a.pass_at_1.total_cmp(&b.pass_at_1));
    let names: Vec<String> = ranked
        .iter()
        .map(|row| format!("{} {}", row.name, percent(row.pass_at_1)))
        .collect();
    let touching: Vec<String> = ranked
        .windows(2)
        .filter(|pair| pair[0].pass_at_1_ci95[1] >= pair[1].pass_at_1_ci95[0])
        .map(|pair| format!("{} and {}", pair[0].name, pair[1].name))
        .collect();
    let overlap = match touching.as_slice() {
        [] => "no two neighbours' 95% intervals overlap".to_owned(),
        pairs => format!("the 95% intervals overlap for {}", pairs.join(", ")),
    };
    Some(format!("By pass@1, lowest first: {}; {overlap}.", names.join(", ")))
}

/// Names the differences whose interval holds 0; the table of differences has all of them.
fn unresolved(differences: &[Difference]) -> Option<String> {
    let pairs: Vec<String> = differences
        .iter()
        .filter(|d| !d.resolved)
        .map(|d| format!("{} against {} ({:+.1})", d.to, d.from, d.mean * 100.0))
        .collect();
    let rest = if pairs.len() < differences.len() {
        "; all other listed differences are"
    } else {
        ""
    };
    (!pairs.is_empty()).then(|| format!("Not resolved, the paired interval holds 0: {}{rest}.", pairs.join(", ")))
}

fn equal_tokens(rows: &[Row]) -> Vec<String> {
    let at_equal = |row: &Row| row.equal_tokens.map(|e| e.pass);
    let best = |score: &dyn Fn(&Row) -> Option<f64>| {
        let scored = rows.iter().filter_map(|row| Some((row, score(row)?)));
        scored
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .map(|(row, score)| (row.name.clone(), score))
    };
    let mut notes = Vec::new();
    if let (Some((by_one, one)), Some((by_tokens, equal))) = (best(&|row| Some(row.pass_at_1)), best(&at_equal))
        && rows.len() > 1
    {
        let and = if by_one == by_tokens { "and" } else { "but" };
        notes.push(format!(
            "Highest pass@1: {by_one} ({}), {and} highest at equal generated tokens: {by_tokens} ({}).",
            percent(one),
            percent(equal)
        ));
    }
    let bounded: Vec<String> = rows
        .iter()
        .filter_map(|row| row.equal_tokens.filter(|e| e.at_least).map(|e| (row, e)))
        .map(|(row, e)| format!("{} (would get {:.1}, drew {})", row.name, e.k, row.num_samples))
        .collect();
    if !bounded.is_empty() {
        notes.push(format!(
            "At equal tokens these get more samples than were drawn, so their figure is a lower bound: {}.",
            bounded.join(", ")
        ));
    }
    notes
}

fn truncation(rows: &[Row]) -> Option<String> {
    let often: Vec<String> = rows
        .iter()
        .filter(|row| row.truncated >= TRUNCATED_WORTH_A_NOTE)
        .map(|row| {
            format!(
                "{} {} (limit {})",
                row.name,
                percent(row.truncated),
                known(row.max_completion_length)
            )
        })
        .collect();
    (!often.is_empty()).then(|| {
        format!(
            "Samples that met the token limit and so count as wrong: {}.",
            often.join(", ")
        )
    })
}

fn main_failures(rows: &[Row]) -> Option<String> {
    let main = |row: &Row| {
        let (failure, share) = row
            .failures
            .iter()
            .max_by(|a, b| a.1.total_cmp(b.1))
            .filter(|(_, share)| **share > 0.0)?;
        Some(format!(
            "{} by {} ({})",
            row.name,
            failure.replace('_', " "),
            percent(*share)
        ))
    };
    let mains: Vec<String> = rows.iter().filter_map(main).collect();
    (!mains.is_empty()).then(|| format!("Most frequent failure, of all samples: {}.", mains.join(", ")))
}

fn known(setting: Option<impl ToString>) -> String {
    setting.map_or_else(|| "unknown".to_owned(), |value| value.to_string())
}

fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

#[cfg(test)]
mod tests {
    use crate::report::compare::fixtures::{arm, at, config, five_arms};
    use crate::report::compare::{Arm, compare};

    fn notes_of(arms: Vec<Arm>) -> String {
        compare(arms, &config()).expect("there are arms").notes.join("\n")
    }

    #[test]
    fn an_unresolved_difference_is_called_so() {
        let same = notes_of(vec![
            arm("a", None, &[1, 2, 3, 0], 4, 10.0),
            arm("b", None, &[2, 1, 0, 3], 4, 10.0),
        ]);
        assert!(
            same.contains("Not resolved, the paired interval holds 0: b against a (+0.0)."),
            "{same}"
        );
        let apart = notes_of(vec![
            arm("a", None, &[0; 20], 4, 10.0),
            arm("b", None, &[4; 20], 4, 10.0),
        ]);
        assert!(!apart.contains("Not resolved"), "{apart}");
        assert!(apart.contains("no two neighbours' 95% intervals overlap"), "{apart}");
    }

    #[test]
    fn unlike_settings_are_told() {
        let mut arms = five_arms();
        assert!(notes_of(arms.clone()).contains("500 problems, 4 samples each, temperature 0.7"));
        arms[1].scores.temperature = None;
        let notes = notes_of(arms);
        assert!(notes.starts_with("The models were not measured alike."), "{notes}");
        assert!(notes.contains("temperature unknown"), "{notes}");
    }

    #[test]
    fn pooled_rows_name_their_seeds() {
        let run = |seed: u64| {
            at(
                arm("sft", Some("search"), &[1, 2, 3], 4, 10.0),
                &[("seed", seed.into())],
            )
        };
        let notes = notes_of(vec![arm("base", None, &[2, 2, 2], 4, 10.0), run(1), run(2)]);
        assert!(notes.contains("search SFT (seeds 1, 2)"), "{notes}");
        assert!(notes.contains("known from 2 of them. One run each: base;"), "{notes}");
        assert!(notes.contains("search SFT against base"), "{notes}");
    }

    #[test]
    fn a_lower_bound_is_told() {
        let notes = notes_of(vec![
            arm("a", None, &[1, 2], 4, 10.0),
            arm("b", None, &[4, 4], 4, 100.0),
        ]);
        assert!(notes.contains("lower bound: a (would get 10.0, drew 4)"), "{notes}");
    }
}
