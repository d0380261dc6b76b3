//! `data.countdown`: Countdown problems with a held-out split, and a corpus to learn the game's moves from.
//!
//! Every (numbers, target) pair that legal moves can solve is enumerated; a seed puts them in one order, of which the
//! test set is the beginning and the training set what follows. The sets share no pair, whatever the order of the
//! numbers, and asking for more training problems changes neither the test set nor the training problems there were.

mod corpus;

use anyhow::{Result, bail, ensure};
use rand::seq::SliceRandom;
use serde::Deserialize;
use serde_json::{Map, json};

use crate::formats::{Problem, VERSION, VerifierName, write_jsonl};
use crate::random::stream;
use crate::verify::countdown::game::{Game, MAX_NUMBERS, outcomes};
use crate::worker::Job;

/// Parameters of `data.countdown`; defaults are in `plugin.yaml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Numbers in a problem, 2..=6. A tree has about 19 leaves for 3, 281 for 4.
    pub count_numbers: usize,
    /// Numbers are drawn from 1..=max_number.
    pub max_number: i64,
    /// Targets are drawn from min_target..=max_target.
    pub min_target: i64,
    pub max_target: i64,
    /// No intermediate value may be larger.
    pub max_value: i64,
    /// Training problems. Beyond the number of pairs they repeat a pair with its numbers in another order.
    pub num_train: usize,
    /// Held-out problems, each another pair.
    pub num_test: usize,
    /// Lines of the corpus that play a training problem at random.
    pub num_playouts: usize,
    /// Lines of the corpus that drill facts.
    pub num_drills: usize,
    /// Facts in a drill line, at least 1.
    pub drills_per_line: usize,
    /// Share of drilled facts that are equality checks, 0..=1; the others are equations.
    pub equality_share: f64,
    /// Seed of the split, the orders of numbers, and the corpus.
    pub seed: u64,
    /// The chat tokens around a problem and its solution, as the tokenizer has them.
    pub user_token: String,
    pub assistant_token: String,
    pub end_token: String,
    /// The question before a verdict, and the two verdicts, as `astro.rewrite` words them; null: ASTRO's sentences.
    pub reflection: Option<String>,
    pub negative: Option<String>,
    pub positive: Option<String>,
}

/// Runs the kind.
///
/// # Errors
/// The parameters ask for more problems than there are, or an output can't be written.
pub fn run(job: &Job) -> Result<()> {
    let params: Params = job.params()?;
    params.check()?;
    let pairs = solvable_pairs(&params);
    let (train, test) = split(&params, &pairs)?;
    job.info(&format!("{} solvable pairs of numbers and target", pairs.len()));
    write_jsonl(&job.output("train")?, &train)?;
    write_jsonl(&job.output("test")?, &test)?;
    let total = params.num_playouts + params.num_drills;
    let corpus = corpus::Corpus::new(&params, &train)?;
    let lines = corpus.lines().enumerate().inspect(|(idx, _)| {
        if idx % 1000 == 0 {
            job.progress(*idx, total, "line", "corpus");
        }
    });
    write_jsonl(&job.output("corpus")?, lines.map(|(_, text)| text))?;
    job.progress(total, total, "line", "corpus");
    Ok(())
}

impl Params {
    fn check(&self) -> Result<()> {
        ensure!(
            (2..=MAX_NUMBERS).contains(&self.count_numbers),
            "count_numbers is {}, but must be in 2..={MAX_NUMBERS}",
            self.count_numbers
        );
        ensure!(
            self.max_number >= 1,
            "max_number is {}, but must be at least 1",
            self.max_number
        );
        ensure!(
            self.max_number <= self.max_value,
            "max_number {} is above max_value {}",
            self.max_number,
            self.max_value
        );
        ensure!(
            0 <= self.min_target && self.min_target <= self.max_target && self.max_target <= self.max_value,
            "targets {}..={} don't lie in 0..={}",
            self.min_target,
            self.max_target,
            self.max_value
        );
        ensure!(
            self.max_value <= 100_000,
            "max_value is {}, but 100000 is the most",
            self.max_value
        );
        ensure!(
            multisets(self.max_number as u64, self.count_numbers as u64) <= 2_000_000,
            "{} numbers from 1..={} are more combinations than the 2000000 that can be enumerated",
            self.count_numbers,
            self.max_number
        );
        ensure!(self.drills_per_line >= 1, "drills_per_line must be at least 1");
        ensure!(
            (0.0..=1.0).contains(&self.equality_share),
            "equality_share must be in 0..=1"
        );
        ensure!(
            self.num_playouts == 0 || self.num_train > 0,
            "playouts need training problems"
        );
        Ok(())
    }
}

/// The number of ways to choose `count` of 1..=max in any order, with repetition; saturating.
fn multisets(max: u64, count: u64) -> u64 {
    (1..=count).fold(1u64, |ways, i| ways.saturating_mul(max + i - 1) / i)
}

/// Numbers in ascending order with a target that legal moves reach.
#[derive(Debug, Clone, PartialEq)]
struct Pair {
    numbers: Vec<i64>,
    target: i64,
    /// The chance of uniformly random legal moves to solve it.
    random_pass_rate: f64,
}

/// Returns all solvable pairs, in ascending order.
fn solvable_pairs(params: &Params) -> Vec<Pair> {
    let mut pairs = Vec::new();
    let mut numbers = vec![1; params.count_numbers];
    loop {
        let chances = outcomes(&numbers, params.max_value);
        for target in params.min_target..=params.max_target {
            let chance = usize::try_from(target)
                .ok()
                .and_then(|target| chances.get(target))
                .copied()
                .unwrap_or(0.0);
            if chance > 0.0 {
                pairs.push(Pair {
                    numbers: numbers.clone(),
                    target,
                    random_pass_rate: chance,
                });
            }
        }
        // The next non-descending sequence: raise the last number that can be raised, and level what follows.
        let Some(at) = numbers.iter().rposition(|&number| number < params.max_number) else {
            return pairs;
        };
        let raised = numbers[at] + 1;
        numbers[at..].fill(raised);
    }
}

/// Returns the training and the test problems.
fn split(params: &Params, pairs: &[Pair]) -> Result<(Vec<Problem>, Vec<Problem>)> {
    let mut shuffled: Vec<&Pair> = pairs.iter().collect();
    shuffled.shuffle(&mut stream(params.seed, "split", 0));
    if params.num_test > shuffled.len() || (params.num_train > 0 && params.num_test == shuffled.len()) {
        bail!(
            "num_test is {}, but there are only {} solvable problems",
            params.num_test,
            pairs.len()
        );
    }
    let (test, train) = shuffled.split_at(params.num_test);
    let test = ordered(params, test, 0)
        .enumerate()
        .map(|(idx, (pair, numbers))| problem(params, "test", idx, pair, numbers));
    let test: Vec<Problem> = test.collect();
    let mut problems = Vec::with_capacity(params.num_train);
    for pass in 0.. {
        let before = problems.len();
        for (pair, numbers) in ordered(params, train, pass).take(params.num_train - before) {
            problems.push(problem(params, "train", problems.len(), pair, numbers));
        }
        if problems.len() == params.num_train {
            break;
        }
        if problems.len() == before {
            bail!(
                "num_train is {}, but besides {} test problems there are only {before}, orders of numbers included",
                params.num_train,
                params.num_test
            );
        }
    }
    Ok((problems, test))
}

/// Gives each pair its numbers in the order of pass `pass`; pairs whose orders are used up are left out.
fn ordered<'a>(params: &Params, pairs: &'a [&'a Pair], pass: usize) -> impl Iterator<Item = (&'a Pair, Vec<i64>)> {
    let seed = params.seed;
    pairs.iter().enumerate().filter_map(move |(idx, pair)| {
        let mut orders = permutations(&pair.numbers);
        orders.shuffle(&mut stream(seed, "order", idx as u64));
        Some((*pair, orders.into_iter().nth(pass)?))
    })
}

/// Returns the distinct orders of sorted numbers.
fn permutations(numbers: &[i64]) -> Vec<Vec<i64>> {
    if numbers.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (idx, &first) in numbers.iter().enumerate() {
        if idx > 0 && numbers[idx - 1] == first {
            continue;
        }
        let rest = [&numbers[..idx], &numbers[idx + 1..]].concat();
        all.extend(permutations(&rest).into_iter().map(|tail| [vec![first], tail].concat()));
    }
    all
}

fn problem(params: &Params, set: &str, idx: usize, pair: &Pair, numbers: Vec<i64>) -> Problem {
    let mut meta = Map::new();
    meta.insert("numbers".into(), json!(numbers));
    meta.insert("target".into(), pair.target.into());
    meta.insert("max_value".into(), params.max_value.into());
    meta.insert(
        "random_pass_rate".into(),
        json!((pair.random_pass_rate * 1e6).round() / 1e6),
    );
    let game = Game {
        numbers,
        target: pair.target,
        max_value: params.max_value,
    };
    Problem {
        version: VERSION,
        id: format!("countdown-{set}-{idx:06}"),
        problem: game.text(),
        answer: pair.target.to_string(),
        verifier: VerifierName::Countdown,
        meta,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeSet;

    use super::*;

    pub(crate) fn params() -> Params {
        Params {
            count_numbers: 3,
            max_number: 12,
            min_target: 5,
            max_target: 40,
            max_value: 40,
            num_train: 500,
            num_test: 100,
            num_playouts: 200,
            num_drills: 100,
            drills_per_line: 6,
            equality_share: 0.35,
            seed: 7,
            user_token: "<|user|>".into(),
            assistant_token: "<|assistant|>".into(),
            end_token: "<|end|>".into(),
            reflection: None,
            negative: None,
            positive: None,
        }
    }

    fn pair_of(problem: &Problem) -> (Vec<i64>, i64) {
        let game = Game::of(problem).unwrap();
        let mut numbers = game.numbers;
        numbers.sort_unstable();
        (numbers, game.target)
    }

    #[test]
    fn the_sets_share_no_pair_even_when_orders_repeat() {
        let params = Params {
            num_train: 6000,
            ..params()
        };
        let pairs = solvable_pairs(&params);
        let (train, test) = split(&params, &pairs).unwrap();
        assert_eq!((train.len(), test.len()), (6000, 100));
        let train_pairs: BTreeSet<_> = train.iter().map(pair_of).collect();
        let test_pairs: BTreeSet<_> = test.iter().map(pair_of).collect();
        assert_eq!(test_pairs.len(), 100);
        assert!(train_pairs.is_disjoint(&test_pairs));
        let texts: BTreeSet<_> = train.iter().map(|problem| &problem.problem).collect();
        assert_eq!(texts.len(), 6000);
    }

    #[test]
    fn more_training_problems_keep_those_there_were() {
        let params = params();
        let pairs = solvable_pairs(&params);
        let (few, test) = split(&params, &pairs).unwrap();
        let (more, same_test) = split(
            &Params {
                num_train: 900,
                ..params
            },
            &pairs,
        )
        .unwrap();
        assert_eq!((&more[..500], same_test), (&few[..], test));
    }

    #[test]
    fn what_cannot_be_had_is_refused() {
        let pairs = solvable_pairs(&params());
        let error = split(
            &Params {
                num_train: 1_000_000,
                ..params()
            },
            &pairs,
        )
        .unwrap_err();
        assert!(error.to_string().contains("num_train is 1000000"), "{error}");
        assert!(
            split(
                &Params {
                    num_test: 100_000,
                    ..params()
                },
                &pairs
            )
            .is_err()
        );
        assert!(
            Params {
                max_target: 50,
                ..params()
            }
            .check()
            .is_err()
        );
        assert!(
            Params {
                count_numbers: 6,
                max_number: 40,
                ..params()
            }
            .check()
            .is_err()
        );
    }

    #[test]
    fn numbers_have_each_distinct_order_once() {
        assert_eq!(permutations(&[3, 3, 5]), [[3, 3, 5], [3, 5, 3], [5, 3, 3]]);
        assert_eq!(permutations(&[1, 2, 3, 4]).len(), 24);
        assert_eq!(multisets(12, 3), 364);
    }

    #[test]
    fn four_numbers_work_too() {
        let params = Params {
            count_numbers: 4,
            max_number: 5,
            ..params()
        };
        let pairs = solvable_pairs(&params);
        let (train, _) = split(&params, &pairs).unwrap();
        assert_eq!(pair_of(&train[0]).0.len(), 4);
    }
}
