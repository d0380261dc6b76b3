//! `astro.spoc`: samples become conversations in which solutions and verifications take turns (SPOC's PairSFT).
//!
//! A policy may write the verifications, shown a right sample; what it says counts only where its verdict is true.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Result, bail, ensure};
use rand::Rng;
use serde::{Deserialize, Serialize};

use super::asking::{Asking, WordingParams};
use crate::formats::{Chat, Problem, Sample, VERSION, VerifierName, read_jsonl, write_json, write_jsonl};
use crate::policy::{Completion, Request};
use crate::prompts::PromptFile;
use crate::random::stream;
use crate::spoc::{Balance, PLACES, PROMPT, Question, SpocConfig, Turns, balance, draw, prompt, write, write_with};
use crate::worker::Job;

/// Parameters of `astro.spoc`; defaults are in `plugin.yaml`.
#[derive(Debug, Clone, Deserialize)]
struct Params {
    final_verdict: bool,
    balance: Balance,
    seed: u64,
    /// A file, with `{problem}`, `{solution}` and `{reference}`.
    prompt: Option<std::path::PathBuf>,
    /// Verifications that are sampled of a solution; the first whose verdict is true is taken.
    num_attempts: usize,
    /// Whether the sentences alone are taken where no verification can be.
    fallback: bool,
}

/// What was made of the samples.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct Card {
    version: u32,
    num_problems: usize,
    num_samples: usize,
    /// Questions left out, by reason.
    skipped: BTreeMap<&'static str, usize>,
    /// Questions with samples of both sorts whose solutions don't read as meant, by sort of conversation.
    unreadable: BTreeMap<&'static str, usize>,
    /// Verifications of the policy that were taken.
    num_written: usize,
    /// Solutions of which none could be.
    num_not_written: usize,
    /// Verifications that were looked at and not taken, by reason.
    refused: BTreeMap<&'static str, usize>,
    /// Conversations with a wrong solution first, and of a right one alone, before they were brought to the same number.
    num_corrected: usize,
    num_confirmed: usize,
    num_chats: usize,
    mean_backtracks: f64,
}

/// Reads `problems` and `samples`, and perhaps `policy`, writes `chats` and `card`.
///
/// # Errors
/// Samples are of other problems, the policy fails, or there is nothing to learn from.
pub fn run(job: &Job) -> Result<()> {
    let params: Params = job.params()?;
    ensure!(params.num_attempts >= 1, "num_attempts must be at least 1");
    let problems: Vec<Problem> = read_jsonl(&job.input("problems")?, "problem")?;
    let samples: Vec<Sample> = read_jsonl(&job.input("samples")?, "sample")?;
    let mut card = Card {
        version: VERSION,
        num_problems: problems.len(),
        num_samples: samples.len(),
        ..Card::default()
    };
    let questions = questions(&problems, &samples, &mut card)?;
    let wording: WordingParams = job.params()?;
    let config = |verifier| SpocConfig {
        wording: wording.of(verifier),
        final_verdict: params.final_verdict,
    };
    let configs = [VerifierName::Math, VerifierName::Countdown].map(|verifier| (verifier, config(verifier)));
    let config_of = |problem: &Problem| {
        let found = configs.iter().find(|(verifier, _)| *verifier == problem.verifier);
        &found.unwrap_or(&configs[0]).1
    };
    let mut turns: Vec<Turns<'_>> = Vec::new();
    for question in &questions {
        let mut rng = stream(params.seed, &format!("spoc {}", question.problem.id), 0);
        let (pair, alone) = draw(question, config_of(question.problem), &mut rng);
        for (name, drawn) in [("corrected", pair), ("confirmed", alone)] {
            match drawn {
                Some(drawn) => turns.push(drawn),
                None => *card.unreadable.entry(name).or_default() += 1,
            }
        }
    }
    let critiques = match job.input_opt("policy")? {
        Some(dir) => critiques(job, &params, &dir, &turns)?.into_iter().map(Some).collect(),
        None => {
            ensure!(
                params.prompt.is_none(),
                "prompt says what a model is asked, but there is no model; connect the input policy"
            );
            vec![None; turns.len()]
        }
    };
    let (mut corrected, mut confirmed): (Vec<Chat>, Vec<Chat>) = (Vec::new(), Vec::new());
    for (turns, critiques) in turns.iter().zip(critiques) {
        let config = config_of(turns.problem);
        let refused = &mut card.refused;
        let written = critiques.as_ref().map(|texts| {
            texts.iter().find_map(|text| match write_with(turns, config, text) {
                Ok(chat) => Some(chat),
                Err(reason) => {
                    *refused.entry(reason).or_default() += 1;
                    None
                }
            })
        });
        let chat = match written {
            Some(Some(chat)) => {
                card.num_written += 1;
                Some(chat)
            }
            Some(None) => {
                card.num_not_written += 1;
                params.fallback.then(|| write(turns, config, None).ok()).flatten()
            }
            None => write(turns, config, None).ok(),
        };
        let sort = if turns.wrong.is_some() {
            &mut corrected
        } else {
            &mut confirmed
        };
        sort.extend(chat);
    }
    (card.num_corrected, card.num_confirmed) = (corrected.len(), confirmed.len());
    let mut rng = stream(params.seed, "spoc balance", 0);
    let (corrected, confirmed) = balance(corrected, confirmed, params.balance, &mut rng);
    let chats: Vec<Chat> = corrected.into_iter().chain(confirmed).collect();
    if chats.is_empty() {
        bail!(
            "there is nothing to learn from: of {} problems {} have samples of both sorts, {} of whose conversations were \
             corrections and {} confirmations; sample more, or at a higher temperature",
            problems.len(),
            questions.len(),
            card.num_corrected,
            card.num_confirmed
        );
    }
    card.num_chats = chats.len();
    let backtracks: usize = chats.iter().map(|chat| chat.num_backtracks).sum();
    card.mean_backtracks = backtracks as f64 / chats.len() as f64;
    job.metric("chats", chats.len() as f64, None);
    job.metric("corrected", card.num_corrected as f64, None);
    job.metric("confirmed", card.num_confirmed as f64, None);
    write_jsonl(&job.output("chats")?, &chats)?;
    write_json(&job.output("card")?, &card)?;
    Ok(())
}

/// Sorts the samples by question.
fn questions<'a>(problems: &'a [Problem], samples: &'a [Sample], card: &mut Card) -> Result<Vec<Question<'a>>> {
    let mut of_problem: HashMap<&str, Vec<&Sample>> = HashMap::new();
    for sample in samples {
        of_problem.entry(&sample.problem_id).or_default().push(sample);
    }
    let mut questions = Vec::new();
    for problem in problems {
        let own = of_problem.remove(problem.id.as_str()).unwrap_or_default();
        match Question::of(problem, &own) {
            Ok(question) => questions.push(question),
            Err(why) => *card.skipped.entry(why.name()).or_default() += 1,
        }
    }
    if let Some(id) = of_problem.keys().min() {
        bail!(
            "samples of {} problems, {id:?} among them, are of none of the {} problems; give this stage the problems that \
             the samples were made of",
            of_problem.len(),
            problems.len()
        );
    }
    Ok(questions)
}

/// Lets a policy write verifications; those of each solution in the order that they were sampled.
fn critiques(job: &Job, params: &Params, dir: &std::path::Path, turns: &[Turns<'_>]) -> Result<Vec<Vec<String>>> {
    let template = PromptFile::open(params.prompt.as_deref(), PROMPT)?.whole(&PLACES)?;
    let asking = Asking::open(job, dir, Vec::new())?;
    let request = |turns: &Turns<'_>| {
        let purpose = format!("spoc verification {}", turns.problem.id);
        let mut rng = stream(params.seed, &purpose, u64::from(turns.wrong.is_some()));
        Request {
            prompt: prompt(&template, turns),
            partial: String::new(),
            seeds: (0..params.num_attempts).map(|_| rng.random()).collect(),
        }
    };
    let requests: Vec<Request> = turns.iter().map(request).collect();
    let completions = asking.ask(&requests, "verification")?;
    let num_tokens: usize = completions.iter().flatten().map(|it| it.num_tokens).sum();
    job.metric("verification_tokens", num_tokens as f64, None);
    let texts = |list: Vec<Completion>| list.into_iter().map(|it| it.text).collect();
    Ok(completions.into_iter().map(texts).collect())
}
