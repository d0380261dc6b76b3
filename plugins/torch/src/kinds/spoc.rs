//! `astro.spoc`: samples become conversations in which solutions and verifications take turns (SPOC's PairSFT).
//!
//! A policy may write the verifications, shown a right sample; what it says counts only where its verdict is true.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context as _, Result, bail, ensure};
use rand::Rng;
use serde::{Deserialize, Serialize};

use super::sampling::report_usage;
use super::saver::{self, is_stop};
use crate::formats::{Chat, Problem, Sample, VERSION, VerifierName, read_jsonl, write_json, write_jsonl};
use crate::lm::device;
use crate::lm::sampler::Sampling;
use crate::policy::{self, Completion, Limits, Means, Options, Request};
use crate::random::{self, stream};
use crate::spoc::{
    Balance, PROMPT, Question, Skipped, SpocConfig, Turns, balance, draw, prompt, read_verification, write,
};
use crate::verify::Wording;
use crate::worker::Job;

/// Parameters of `astro.spoc`; defaults are in `plugin.yaml`. A sentence that is null is the verifier's usual one.
#[derive(Debug, Clone, Deserialize)]
struct Params {
    separator: Option<String>,
    reflection: Option<String>,
    negative: Option<String>,
    positive: Option<String>,
    restart: Option<String>,
    final_verdict: bool,
    balance: Balance,
    seed: u64,
    /// A file, with `{problem}`, `{solution}` and `{reference}`.
    prompt: Option<std::path::PathBuf>,
    /// Verifications that are sampled of a solution; the first whose verdict is true is taken.
    num_attempts: usize,
    /// Whether the sentences alone are taken where no verification can be.
    fallback: bool,
    temperature: f64,
    top_p: f64,
    max_completion_length: usize,
    bf16: bool,
    generation_batch_size: usize,
    device: String,
}

impl Params {
    fn config(&self, verifier: VerifierName) -> SpocConfig {
        let usual = Wording::of(verifier);
        let or = |given: &Option<String>, usual: String| given.clone().unwrap_or(usual);
        SpocConfig {
            wording: Wording {
                separator: or(&self.separator, usual.separator),
                reflection: or(&self.reflection, usual.reflection),
                negative: or(&self.negative, usual.negative),
                positive: or(&self.positive, usual.positive),
                restart: or(&self.restart, usual.restart),
                go_back: usual.go_back,
            },
            final_verdict: self.final_verdict,
        }
    }
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
    /// Solutions of which none could be: their verdict was false, missing, or the whole did not read as right.
    num_not_written: usize,
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
    let configs = [VerifierName::Math, VerifierName::Countdown].map(|verifier| (verifier, params.config(verifier)));
    let config_of = |problem: &Problem| {
        let found = configs.iter().find(|(verifier, _)| *verifier == problem.verifier);
        &found.unwrap_or(&configs[0]).1
    };
    let mut turns: Vec<Turns<'_>> = Vec::new();
    for (idx, question) in questions.iter().enumerate() {
        let mut rng = stream(params.seed, "spoc", idx as u64);
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
        None => vec![None; turns.len()],
    };
    let (mut corrected, mut confirmed): (Vec<Chat>, Vec<Chat>) = (Vec::new(), Vec::new());
    for (turns, critiques) in turns.iter().zip(critiques) {
        let config = config_of(turns.problem);
        let written = critiques.as_ref().map(|texts| {
            let chats = texts.iter().filter_map(|text| {
                let (critique, verdict) = read_verification(text)?;
                (verdict == turns.verified().1).then(|| write(turns, config, Some(critique)).ok())?
            });
            chats.into_iter().next()
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
            Err(why) => {
                let why = match why {
                    Skipped::AllRight => "all_right",
                    Skipped::AllWrong => "all_wrong",
                    Skipped::NoSamples => "no_samples",
                };
                *card.skipped.entry(why).or_default() += 1;
            }
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
    let template = match &params.prompt {
        Some(path) => std::fs::read_to_string(path).with_context(|| path.display().to_string())?,
        None => PROMPT.to_owned(),
    };
    ensure!(
        template.contains("{solution}"),
        "the prompt has no {{solution}}, so a policy would not see what it is to verify"
    );
    device::set_num_threads(job.resources().cpu);
    let device = device::parse(&params.device).map_err(anyhow::Error::msg)?;
    let settings = [("generation_batch_size", params.generation_batch_size)];
    let mut saver = saver::Saver::<Completion>::keeping(job, device, &settings)?.counting_requests();
    saver.resume(|_, _, _| Ok(()));
    let means = Means {
        device,
        bf16: params.bf16,
        num_threads: saver.num_threads(),
        generation_batch_size: params.generation_batch_size,
        limits: job.params::<Limits>()?,
    };
    let mut policy = policy::open(dir, &means)?;
    let request = |(idx, turns): (usize, &Turns<'_>)| {
        let mut rng = random::stream(params.seed, "spoc verification", idx as u64);
        Request {
            prompt: prompt(&template, turns),
            partial: String::new(),
            seeds: (0..params.num_attempts).map(|_| rng.random()).collect(),
        }
    };
    let requests: Vec<Request> = turns.iter().enumerate().map(request).collect();
    let options = Options {
        max_new_tokens: params.max_completion_length,
        sampling: Sampling {
            temperature: params.temperature,
            top_k: 0,
            top_p: params.top_p,
            ..Sampling::PLAIN
        },
        stop: Vec::new(),
    };
    let total = requests.len() * params.num_attempts;
    let on_progress = |done, tokens| job.progress(done, total, "verification", &format!("{tokens} tokens"));
    let completed = policy.complete(&requests, &options, &mut saver.follow(0, on_progress));
    let completions = match completed {
        Err(error) if is_stop(&error) => return Err(saver.stopped(|_| Ok(()))),
        completed => completed?,
    };
    saver.generated()?;
    report_usage(job, policy.as_ref());
    let num_tokens: usize = completions.iter().flatten().map(|it| it.num_tokens).sum();
    job.metric("verification_tokens", num_tokens as f64, None);
    let texts = |list: Vec<Completion>| list.into_iter().map(|it| it.text).collect();
    Ok(completions.into_iter().map(texts).collect())
}
