//! Writing with a model: each part of each trace is asked for in turn, given the text so far.
//!
//! All traces go in step: a round asks for the current part of every trace that is not written yet, so that a policy gets
//! large batches. An answer that does not pass the checks is asked for again in the next round, `num_attempts` times in
//! all; then `fallback` says what becomes of the trace. The fixed sentences are never asked for. Knows nothing of how a
//! policy is asked: [`Writing::requests`] and [`Writing::take`] are all it needs, so that the caller can stop between them.

use std::path::Path;
use std::sync::LazyLock;

use rand::Rng;
use regex::Regex;
use serde::Deserialize;

use super::card::Asked;
use super::check::{claims_objection, order_objection, return_objection, step_objection, unboxed};
use super::plan::{Part, plan};
use super::{MaxLength, Reject, RewriteConfig, Writer, Written, chat, purposes, template};
use crate::formats::{Trace, TraceNode, VerifierName};
use crate::policy::{Completion, Finish, Request};
use crate::prompts::{PromptError, PromptFile, fill};
use crate::random::stream;
use crate::verify::math::without_thought;

/// The built-in prompts.
const PROMPTS: &str = include_str!("../../prompts/rewrite.txt");

/// Texts that show that a model goes on with another example.
pub const STOPS: [&str; 3] = ["\nProblem:", "\nExample ", "\n==="];

/// What a model is asked, by what is to be written.
#[derive(Debug, Clone)]
pub struct Prompts {
    step: String,
    attempt: String,
    last: String,
    go_back: String,
    /// None: the fixed sentence.
    restart: Option<String>,
}

impl Prompts {
    /// Reads a file of prompts; none: the built-in ones.
    ///
    /// # Errors
    /// The file can't be read, lacks a prompt, or has one without the place for what it is about.
    pub fn open(path: Option<&Path>) -> Result<Self, PromptError> {
        let file = PromptFile::open(path, PROMPTS)?;
        let mut parts = file.parts(&["step", "attempt", "final", "go_back", "restart"])?;
        for (part, prompt) in &parts {
            let places: &[&'static str] = if part == "restart" { &["problem"] } else { &["step"] };
            file.check(part, prompt, places)?;
        }
        let mut needed = |part: &str| {
            parts.remove(part).ok_or_else(|| PromptError::Missing {
                origin: file.origin.clone(),
                part: part.to_owned(),
                needed: "step and go_back at least".to_owned(),
            })
        };
        let (step, go_back) = (needed("step")?, needed("go_back")?);
        Ok(Self {
            attempt: parts.remove("attempt").unwrap_or_else(|| step.clone()),
            last: parts.remove("final").unwrap_or_else(|| step.clone()),
            restart: parts.remove("restart"),
            step,
            go_back,
        })
    }
}

/// What becomes of a trace when a model does not manage a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fallback {
    /// The template writes the whole trace.
    Template,
    /// The template writes this part, the model goes on.
    Step,
    Reject,
}

/// How a model writes.
#[derive(Debug, Clone)]
pub struct ModelConfig {
    pub prompts: Prompts,
    /// Answers that are asked for at most, for one part; at least 1.
    pub num_attempts: usize,
    pub fallback: Fallback,
    pub seed: u64,
}

/// A trace that is being written.
struct Draft<'a> {
    trace: &'a Trace,
    /// Of its random numbers.
    name: String,
    config: &'a RewriteConfig,
    parts: Vec<Part>,
    /// Of the first parts.
    written: Vec<String>,
    num_failed: usize,
    /// Whether the template wrote a part that the model was asked for.
    is_mixed: bool,
    end: Option<Written>,
}

/// All traces, on their way.
pub struct Writing<'a> {
    config: &'a ModelConfig,
    max_length: MaxLength<'a>,
    drafts: Vec<Draft<'a>>,
    asked: Asked,
}

impl<'a> Writing<'a> {
    /// Plans every trace; `config_of` gives the wording for its verifier.
    pub fn new(
        traces: &'a [Trace],
        config: &'a ModelConfig,
        config_of: &dyn Fn(VerifierName) -> &'a RewriteConfig,
        max_length: MaxLength<'a>,
    ) -> Self {
        let draft = |(name, trace): (String, &'a Trace)| {
            let rewriting = config_of(trace.problem.verifier);
            let planned = plan(trace, rewriting, &mut stream(config.seed, &name, 0));
            let broken = || Written::from(Err(Reject::new(trace, "broken_trace".to_owned(), String::new())));
            Draft {
                trace,
                name,
                config: rewriting,
                end: planned.is_none().then(broken),
                parts: planned.unwrap_or_default(),
                written: Vec::new(),
                num_failed: 0,
                is_mixed: false,
            }
        };
        let mut drafts: Vec<Draft<'_>> = purposes(traces).into_iter().zip(traces).map(draft).collect();
        for draft in &mut drafts {
            draft.advance(config, max_length);
        }
        Self {
            config,
            max_length,
            drafts,
            asked: Asked::default(),
        }
    }

    /// How many parts there are, and how many are written or given up.
    pub fn progress(&self) -> (usize, usize) {
        let total = self.drafts.iter().map(|draft| draft.parts.len()).sum();
        let done = |draft: &Draft<'_>| match draft.end {
            Some(_) => draft.parts.len(),
            None => draft.written.len(),
        };
        (self.drafts.iter().map(done).sum(), total)
    }

    /// Returns what is to be asked now; empty when all is written.
    pub fn requests(&self) -> Vec<Request> {
        let open = self.drafts.iter().filter(|draft| draft.end.is_none());
        open.map(|draft| {
            let purpose = format!("{}, part {}", draft.name, draft.written.len());
            let mut rng = stream(self.config.seed, &purpose, draft.num_failed as u64);
            Request {
                prompt: draft.prompt(&self.config.prompts),
                partial: String::new(),
                seeds: vec![rng.random()],
            }
        })
        .collect()
    }

    /// Takes the answers to [`Self::requests`], in their order.
    pub fn take(&mut self, answers: Vec<Vec<Completion>>) {
        let open = self.drafts.iter_mut().filter(|draft| draft.end.is_none());
        for (draft, list) in open.zip(answers) {
            self.asked.num_requests += 1;
            self.asked.completion_tokens += list.iter().map(|answer| answer.num_tokens as u64).sum::<u64>();
            let read = match list.first() {
                Some(answer) => draft.read(answer),
                None => Err("empty"),
            };
            match read {
                Ok(paragraph) => {
                    self.asked.num_accepted += 1;
                    draft.written.push(paragraph);
                    draft.num_failed = 0;
                }
                Err(reason) => {
                    *self.asked.failed.entry(reason.to_owned()).or_default() += 1;
                    draft.num_failed += 1;
                    if draft.num_failed >= self.config.num_attempts {
                        let pasted = draft.give_up(reason, self.config.fallback, self.max_length);
                        self.asked.num_pasted += usize::from(pasted);
                    }
                }
            }
            draft.advance(self.config, self.max_length);
        }
    }

    /// Returns what became of each trace, and what was asked.
    pub fn finish(self) -> (Vec<Written>, Asked) {
        let end = |mut draft: Draft<'_>| match draft.end.take() {
            Some(end) => end,
            None => Written::from(Err(Reject::new(draft.trace, "unfinished".to_owned(), draft.text()))),
        };
        (self.drafts.into_iter().map(end).collect(), self.asked)
    }
}

impl Draft<'_> {
    fn text(&self) -> String {
        self.written.join(&self.config.wording.separator)
    }

    /// Writes what needs no model, up to the next part that does; ends the draft after the last.
    fn advance(&mut self, config: &ModelConfig, max_length: MaxLength<'_>) {
        while self.end.is_none() {
            let Some(part) = self.parts.get(self.written.len()) else {
                self.end = Some(self.check(config.fallback, max_length));
                return;
            };
            let is_fixed = match part {
                Part::Approval => true,
                Part::Return { to_idx: None, .. } => config.prompts.restart.is_none(),
                Part::Return { .. } | Part::Step { .. } => false,
            };
            if !is_fixed {
                return;
            }
            let paragraph = template::paragraph(self.trace, self.config, part);
            self.written.push(paragraph);
        }
    }

    fn prompt(&self, prompts: &Prompts) -> String {
        let written = self.text();
        let written = if written.is_empty() { "(nothing yet)" } else { &written };
        let values = |step, answer| {
            [
                ("problem", self.trace.problem.problem.as_str()),
                ("written", written),
                ("step", step),
                ("answer", answer),
            ]
        };
        match &self.parts[self.written.len()] {
            Part::Step { visit_idx } => {
                let node = &self.trace.nodes[*visit_idx];
                let prompt = match (node.terminal, node.correct) {
                    (true, Some(true)) => &prompts.last,
                    (true, _) => &prompts.attempt,
                    (false, _) => &prompts.step,
                };
                fill(
                    prompt,
                    &values(node.text.trim(), node.answer.as_deref().unwrap_or_default()),
                )
            }
            Part::Return { to_idx: Some(idx), .. } => {
                fill(&prompts.go_back, &values(self.trace.nodes[*idx].text.trim(), ""))
            }
            // Without a prompt this part is never asked for.
            Part::Return { to_idx: None, .. } | Part::Approval => {
                fill(prompts.restart.as_deref().unwrap_or_default(), &values("", ""))
            }
        }
    }

    /// Makes a paragraph of an answer.
    fn read(&self, answer: &Completion) -> Result<String, &'static str> {
        let is_cut_off = answer.finish == Finish::Length;
        match &self.parts[self.written.len()] {
            Part::Step { visit_idx } => {
                let node = &self.trace.nodes[*visit_idx];
                let paragraph = cleaned_step(&answer.text, node);
                // Where an answer runs on behind its end, what was asked for is whole.
                if is_cut_off && !STOPS.iter().any(|stop| answer.text.contains(stop)) {
                    return Err("cut_off");
                }
                if let Some(reason) = step_objection(self.trace, self.config, node, &paragraph) {
                    return Err(reason);
                }
                match self.copies(&paragraph, node) {
                    true => Err("copied_paragraph"),
                    false => Ok(paragraph),
                }
            }
            Part::Return { to_idx, .. } => {
                let sentence = cleaned_line(&answer.text);
                if is_cut_off && !answer.text.trim_start().contains('\n') {
                    return Err("cut_off");
                }
                let names = to_idx.map(|idx| self.texts_of(idx)).unwrap_or_default();
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                if let Some(reason) = return_objection(self.config, &sentence, to_idx.is_none(), &names) {
                    return Err(reason);
                }
                let wording = &self.config.wording;
                Ok(format!("{} {} {sentence}", wording.reflection, wording.negative))
            }
            Part::Approval => Err("empty"),
        }
    }

    /// The notes of a visited step, and how it was written.
    fn texts_of(&self, visit: usize) -> Vec<String> {
        let is_it = |part: &Part| matches!(part, Part::Step { visit_idx } if *visit_idx == visit);
        let written = self.parts.iter().position(is_it).and_then(|idx| self.written.get(idx));
        let notes = self.trace.nodes[visit].text.clone();
        std::iter::once(notes).chain(written.cloned()).collect()
    }

    /// Whether a paragraph stands in the text already, as that of another step.
    fn copies(&self, paragraph: &str, node: &TraceNode) -> bool {
        let is_another = |part: &Part| match part {
            Part::Step { visit_idx } => self.trace.nodes[*visit_idx].id != node.id,
            Part::Return { .. } | Part::Approval => true,
        };
        (self.parts.iter().zip(&self.written)).any(|(part, other)| other == paragraph && is_another(part))
    }

    /// Goes on without the model's answer; whether a part was pasted.
    fn give_up(&mut self, reason: &str, fallback: Fallback, max_length: MaxLength<'_>) -> bool {
        let part = &self.parts[self.written.len()];
        if fallback == Fallback::Step {
            let mut paragraph = template::paragraph(self.trace, self.config, part);
            if let Part::Step { .. } = part {
                paragraph = in_one(&paragraph, &self.config.wording.separator);
            }
            self.written.push(paragraph);
            self.num_failed = 0;
            self.is_mixed = true;
            return true;
        }
        self.end = Some(self.fall_back(reason.to_owned(), fallback, max_length));
        false
    }

    fn fall_back(&self, reason: String, fallback: Fallback, max_length: MaxLength<'_>) -> Written {
        let mut reject = Reject::new(self.trace, reason, self.text());
        if fallback == Fallback::Reject {
            return Written::from(Err(reject));
        }
        match template::write(self.trace, self.config, max_length, &self.parts) {
            Ok(chat) => {
                reject.replaced_by = Some(Writer::Template);
                Written {
                    chat: Some((chat, Writer::Template)),
                    reject: Some(reject),
                }
            }
            Err(reject) => Written::from(Err(reject)),
        }
    }

    /// Reads the whole text back.
    fn check(&self, fallback: Fallback, max_length: MaxLength<'_>) -> Written {
        let text = self.text();
        let objection = claims_objection(self.trace, self.config, &text)
            .or_else(|| order_objection(self.trace, self.config, &self.parts, &text))
            .or_else(|| max_length.objection(self.trace, &text));
        match objection {
            Some(reason) => self.fall_back(reason, fallback, max_length),
            None => Written {
                chat: Some((
                    chat(self.trace, text),
                    if self.is_mixed { Writer::Mixed } else { Writer::Model },
                )),
                reject: None,
            },
        }
    }
}

/// Makes one paragraph of an answer: without thoughts, labels, quotes, fences, and what follows its end.
fn cleaned_step(answer: &str, node: &TraceNode) -> String {
    let text = in_one(&stripped(answer), "\n\n");
    // Only the final answer is boxed.
    match node.terminal && node.correct != Some(true) {
        true => unboxed(&text),
        false => text,
    }
}

/// The first line of an answer.
fn cleaned_line(answer: &str) -> String {
    let text = stripped(answer);
    let line = text
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or_default();
    unquoted(line).to_owned()
}

fn stripped(answer: &str) -> String {
    static LABEL: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"^(?i)\**(?:paragraph|sentence|rewritten step|rewritten paragraph|output|answer)\s*:\**\s*")
            .expect("the built-in pattern is a regular expression")
    });
    // Nothing is left of an answer that never stops thinking.
    let text = without_thought(answer).unwrap_or_default();
    let end = STOPS
        .iter()
        .filter_map(|stop| text.find(stop))
        .min()
        .unwrap_or(text.len());
    let lines = text[..end]
        .trim()
        .lines()
        .filter(|line| !line.trim_start().starts_with("```"));
    let text = lines.collect::<Vec<_>>().join("\n");
    let text = LABEL.replace(text.trim(), "");
    unquoted(text.trim()).to_owned()
}

/// A text without the quotation marks around the whole of it.
fn unquoted(text: &str) -> &str {
    let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    inner.filter(|inner| !inner.contains('"')).unwrap_or(text).trim()
}

/// A text whose blank lines are line breaks, if blank lines separate paragraphs.
fn in_one(text: &str, separator: &str) -> String {
    if !separator.contains("\n\n") {
        return text.to_owned();
    }
    let lines = text.lines().map(str::trim_end).filter(|line| !line.trim().is_empty());
    lines.collect::<Vec<_>>().join("\n")
}
