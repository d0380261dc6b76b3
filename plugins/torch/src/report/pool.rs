//! Arms that differ in the axis `seed` alone -> one row: the mean over the runs, with the spread between them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::compare::{Arm, CompareConfig, Row, SeedScore};
use super::names::{make_unique, row_name};
use super::stats::{Run, equal_tokens, pooled_interval};
use crate::formats::{GroupScore, ProblemScore, Recovery, Scores, Tally};

/// The axis that tells runs of one experiment apart.
pub const SEED_AXIS: &str = "seed";

/// The runs of one row: one, or one for each seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    /// Unique among the rows; `names::row_name` makes it.
    pub name: String,
    pub label: Option<String>,
    /// Without the seed.
    pub axes: BTreeMap<String, Value>,
    /// Never empty.
    pub members: Vec<Arm>,
}

/// Groups arms into rows, in the order in which their first ones came.
pub fn pools(arms: Vec<Arm>) -> Vec<Pool> {
    let mut groups: Vec<(Arm, Vec<Arm>)> = Vec::new();
    for arm in arms {
        let mut without_seed = arm.clone();
        let has_seed = without_seed.axes.remove(SEED_AXIS).is_some();
        let same = |(key, members): &&mut (Arm, Vec<Arm>)| {
            has_seed
                && key.label == without_seed.label
                && key.axes == without_seed.axes
                && members.iter().all(|member| {
                    let seed = member.axes.get(SEED_AXIS);
                    seed.is_some() && seed != arm.axes.get(SEED_AXIS)
                })
        };
        match groups.iter_mut().find(same) {
            Some((_, members)) => members.push(arm),
            None => groups.push((without_seed, vec![arm])),
        }
    }
    let mut pools: Vec<Pool> = groups.into_iter().map(|(key, members)| pool(key, members)).collect();
    let mut names: Vec<String> = pools.iter().map(|pool| pool.name.clone()).collect();
    make_unique(&mut names);
    pools.iter_mut().zip(names).for_each(|(pool, name)| pool.name = name);
    pools
}

fn pool(without_seed: Arm, members: Vec<Arm>) -> Pool {
    Pool {
        name: row_name(without_seed.label.as_deref(), &without_seed.axes),
        label: without_seed.label,
        axes: without_seed.axes,
        members,
    }
}

impl Pool {
    /// Returns the counts of each run.
    pub fn runs(&self) -> Vec<Run<'_>> {
        let run = |arm| -> Run<'_> {
            let Arm { axes, scores, .. }: &Arm = arm;
            Run {
                seed: axes.get(SEED_AXIS),
                problems: &scores.problems,
            }
        };
        self.members.iter().map(run).collect()
    }

    pub fn mean_tokens(&self) -> f64 {
        self.mean(|scores| scores.mean_tokens)
    }

    /// Returns the row that stands for these runs.
    pub fn row(&self, budget_tokens: f64, config: &CompareConfig) -> Row {
        let first = &self.members[0].scores;
        let several = self.members.len() > 1;
        let all: Vec<ProblemScore> = self.members.iter().flat_map(|m| m.scores.problems.clone()).collect();
        let seed_score = |arm: &Arm| {
            Some(SeedScore {
                seed: arm.axes.get(SEED_AXIS)?.clone(),
                pass_at_1: arm.scores.pass_at_1,
                pass_at_1_ci95: arm.scores.pass_at_1_ci95,
            })
        };
        let mean_tokens = self.mean_tokens();
        Row {
            name: self.name.clone(),
            label: self.label.clone(),
            axes: self.axes.clone(),
            seeds: self.members.iter().filter_map(seed_score).collect(),
            num_problems: first.num_problems,
            num_samples: self.members.iter().map(|m| m.scores.num_samples).min().unwrap_or(0),
            temperature: first.temperature,
            max_completion_length: first.max_completion_length,
            pass_at_1: self.mean(|scores| scores.pass_at_1),
            pass_at_1_ci95: if several {
                pooled_interval(&self.runs(), config.bootstrap_samples, config.seed)
            } else {
                first.pass_at_1_ci95
            },
            pass_at_k: self.mean_by_k(|scores| &scores.pass_at_k),
            equal_tokens: equal_tokens(&all, mean_tokens, budget_tokens),
            maj_at_k: self.mean_by_k(|scores| &scores.maj_at_k),
            mean_tokens,
            mean_backtracks: self.mean(|scores| scores.mean_backtracks),
            truncated: self.mean(|scores| scores.truncated),
            failures: self.failures(),
            by_backtracks: self.by_backtracks(),
            recovery: self.recovery(),
            by_meta: self.by_meta(),
        }
    }

    fn mean(&self, value: impl Fn(&Scores) -> f64) -> f64 {
        self.members.iter().map(|m| value(&m.scores)).sum::<f64>() / self.members.len() as f64
    }

    /// Returns means for the k that every run has.
    fn mean_by_k(&self, values: impl Fn(&Scores) -> &BTreeMap<usize, f64>) -> BTreeMap<usize, f64> {
        let in_all = |k: &usize| self.members.iter().all(|m| values(&m.scores).contains_key(k));
        let ks = values(&self.members[0].scores).keys().copied().filter(in_all);
        ks.map(|k| (k, self.mean(|scores| values(scores)[&k]))).collect()
    }

    fn failures(&self) -> BTreeMap<String, f64> {
        let names = self.members.iter().flat_map(|m| m.scores.failures.keys().cloned());
        names
            .map(|name| {
                let share = self.mean(|scores| scores.failures.get(&name).copied().unwrap_or(0.0));
                (name, share)
            })
            .collect()
    }

    fn by_backtracks(&self) -> BTreeMap<String, Tally> {
        let mut sums = BTreeMap::<String, Tally>::new();
        for (count, tally) in self.members.iter().flat_map(|m| &m.scores.by_backtracks) {
            let sum = sums.entry(count.clone()).or_default();
            sum.num_samples += tally.num_samples;
            sum.num_correct += tally.num_correct;
        }
        sums
    }

    fn recovery(&self) -> Option<Recovery> {
        let mut sum = Recovery::default();
        for member in &self.members {
            let recovery = member.scores.recovery?;
            sum.num_first_wrong += recovery.num_first_wrong;
            sum.num_recovered += recovery.num_recovered;
        }
        Some(sum)
    }

    fn by_meta(&self) -> BTreeMap<String, BTreeMap<String, GroupScore>> {
        let mut sums = BTreeMap::<String, BTreeMap<String, (GroupScore, usize)>>::new();
        for (field, values) in self.members.iter().flat_map(|m| &m.scores.by_meta) {
            for (value, score) in values {
                let (sum, runs) = sums.entry(field.clone()).or_default().entry(value.clone()).or_default();
                sum.num_problems = sum.num_problems.max(score.num_problems);
                sum.num_samples += score.num_samples;
                sum.num_correct += score.num_correct;
                sum.pass_at_1 += score.pass_at_1;
                *runs += 1;
            }
        }
        let mean = |(value, (mut sum, runs)): (String, (GroupScore, usize))| {
            sum.pass_at_1 /= runs.max(1) as f64;
            (value, sum)
        };
        let fields = sums.into_iter();
        fields
            .map(|(field, values)| (field, values.into_iter().map(mean).collect()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::compare::fixtures::{arm, at, config};

    fn names(arms: Vec<Arm>) -> Vec<(String, usize)> {
        pools(arms)
            .into_iter()
            .map(|pool| (pool.name, pool.members.len()))
            .collect()
    }

    #[test]
    fn arms_that_differ_in_the_seed_alone_are_one_row() {
        let base = arm("base", None, &[1, 2], 4, 10.0);
        let sft = |style, seed: u64| at(arm("sft", Some(style), &[1, 2], 4, 10.0), &[("seed", seed.into())]);
        let arms = vec![
            base.clone(),
            sft("search", 1),
            sft("direct", 1),
            sft("search", 2),
            sft("search", 3),
        ];
        let want = [("base", 1), ("search SFT", 3), ("direct SFT", 1)];
        assert_eq!(names(arms), want.map(|(name, count)| (name.to_owned(), count)));
        // Without a seed, or with the same one, two arms are two rows.
        assert_eq!(names(vec![base.clone(), base])[1].0, "base #2");
        assert_eq!(names(vec![sft("direct", 1), sft("direct", 1)])[1].0, "direct SFT #2");
    }

    #[test]
    fn a_row_is_the_mean_of_its_runs() {
        let run =
            |seed: u64, correct: &[usize], tokens| at(arm("sft", None, correct, 4, tokens), &[("seed", seed.into())]);
        let pools = pools(vec![run(5, &[4, 0], 10.0), run(6, &[4, 4], 30.0)]);
        let row = pools[0].row(40.0, &config());
        assert_eq!((row.pass_at_1, row.mean_tokens), (0.75, 20.0));
        let seeds: Vec<(Value, f64)> = row.seeds.iter().map(|s| (s.seed.clone(), s.pass_at_1)).collect();
        assert_eq!(seeds, [(5.into(), 0.5), (6.into(), 1.0)]);
        let [low, high] = row.pass_at_1_ci95;
        assert!(low < 0.5 && high == 1.0, "{low} {high}");
        // 40 tokens buy two samples: pass@2 of (4 of 4, 0 of 4, 4 of 4, 4 of 4).
        assert_eq!(row.equal_tokens.map(|e| (e.k, e.pass)), Some((2.0, 0.75)));
        assert_eq!(row.by_backtracks["0"].num_samples, 200);
        assert!(!row.axes.contains_key(SEED_AXIS));
    }
}
