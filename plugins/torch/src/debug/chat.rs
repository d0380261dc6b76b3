//! `volvelle-torch chat`: a conversation with a model, on a terminal or through pipes.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Map, Value, json};

use super::ModelArgs;
use crate::lm::chat::{ChatOptions, Clock};
use crate::lm::generate::{Finish, Generator, Options, Prompt};
use crate::lm::sampler::Sampling;
use crate::lm::text::TextStream;
use crate::lm::{LmError, Tokenizer};

/// `volvelle-torch chat`.
#[derive(Args)]
pub struct ChatArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The system message.
    #[arg(long)]
    system: Option<String>,
    /// 0 takes the likeliest token each time.
    #[arg(long, default_value_t = 0.7)]
    temperature: f64,
    #[arg(long, default_value_t = 0.95)]
    top_p: f64,
    /// 0 keeps all tokens.
    #[arg(long, default_value_t = 0)]
    top_k: i64,
    /// 0 keeps all tokens.
    #[arg(long, default_value_t = 0.0)]
    min_p: f64,
    /// 1 changes nothing.
    #[arg(long, default_value_t = 1.0)]
    repetition_penalty: f64,
    #[arg(long, default_value_t = 512)]
    max_new_tokens: usize,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// A variable of the chat template, NAME=VALUE with a JSON value or text; such as enable_thinking=false.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = variable)]
    variables: Vec<(String, Value)>,
}

fn variable(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((name.to_owned(), value))
}

/// Answers each line of standard input, with the lines before it in mind; an empty line is passed over, the end of the
/// input ends the conversation.
pub fn chat(args: &ChatArgs) -> Result<()> {
    check(args)?;
    let (model, _) = args.model.load(args.model.kind()?)?;
    let mut conversation = Conversation {
        generator: Generator::new(&model, num_threads(), None)?,
        context: model.config.max_position_embeddings,
        tokenizer: Tokenizer::load(&args.model.model)?,
        args,
        messages: Vec::new(),
        num_answers: 0,
    };
    if let Some(system) = &args.system {
        conversation.messages.push(json!({"role": "system", "content": system}));
    }
    let stdin = std::io::stdin();
    let mut stdout = std::io::stdout().lock();
    let is_terminal = stdin.is_terminal();
    let mut line = String::new();
    loop {
        if is_terminal {
            write!(stdout, "> ")?;
            stdout.flush()?;
        }
        line.clear();
        if stdin.lock().read_line(&mut line).context("standard input")? == 0 {
            return Ok(());
        }
        let content = line.trim();
        if !content.is_empty() {
            conversation.answer(content, &mut stdout)?;
            writeln!(stdout)?;
            stdout.flush()?;
        }
    }
}

fn check(args: &ChatArgs) -> Result<()> {
    for (name, value, is_valid, expected) in [
        ("temperature", args.temperature, args.temperature >= 0.0, "0 or more"),
        (
            "top-p",
            args.top_p,
            args.top_p > 0.0 && args.top_p <= 1.0,
            "more than 0 and at most 1",
        ),
        (
            "min-p",
            args.min_p,
            (0.0..=1.0).contains(&args.min_p),
            "a number from 0 to 1",
        ),
        (
            "repetition-penalty",
            args.repetition_penalty,
            args.repetition_penalty > 0.0,
            "more than 0",
        ),
    ] {
        if !is_valid || !value.is_finite() {
            bail!("--{name} is {value}, expected {expected}");
        }
    }
    Ok(())
}

fn num_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What was said, and who answers.
struct Conversation<'a> {
    /// It has the turns before in its cache.
    generator: Generator,
    /// In tokens.
    context: i64,
    tokenizer: Tokenizer,
    args: &'a ChatArgs,
    messages: Vec<Value>,
    num_answers: u64,
}

impl Conversation<'_> {
    /// Answers a message, and writes the answer as it grows.
    fn answer(&mut self, content: &str, out: &mut impl Write) -> Result<()> {
        self.messages.push(json!({"role": "user", "content": content}));
        let ids = self.prompt()?;
        let prompt = Prompt {
            ids: &ids,
            seeds: &[self.args.seed.wrapping_add(self.num_answers)],
            max_new_tokens: self.args.max_new_tokens,
        };
        self.num_answers += 1;
        let options = self.generation();
        let mut stream = TextStream::new(&self.tokenizer, true);
        let (mut written, mut finish) = (Ok(()), None);
        self.generator
            .run(&self.tokenizer, &[prompt], &options, &mut |progress| {
                for token in progress.tokens {
                    if written.is_ok() {
                        written = write_piece(out, stream.push(token.id));
                    }
                }
                finish = progress
                    .finished
                    .into_iter()
                    .flat_map(|(_, list)| list)
                    .next()
                    .or(finish.take());
            })?;
        written?;
        write_piece(out, stream.finish())?;
        let completion = finish.context("no answer was generated")?;
        if completion.finish == Finish::Length {
            eprintln!("\n(cut off after {} tokens)", completion.ids.len());
        }
        let text = self.tokenizer.decode(&completion.ids, true)?;
        self.messages.push(json!({"role": "assistant", "content": text}));
        Ok(())
    }

    /// The conversation so far as the model's tokens.
    fn prompt(&self) -> Result<Vec<i64>> {
        let options = ChatOptions {
            clock: Clock::System,
            variables: self.args.variables.iter().cloned().collect::<Map<_, _>>(),
            ..ChatOptions::generation_prompt(true)
        };
        let prompt = self.tokenizer.render_conversation(&self.messages, &options)?;
        let ids = self.tokenizer.encode(&prompt, false)?;
        if ids.len() as i64 >= self.context {
            bail!(
                "the conversation has {} tokens, but the model's context is {}; start another",
                ids.len(),
                self.context
            );
        }
        Ok(ids)
    }

    fn generation(&self) -> Options {
        Options {
            max_new_tokens: self.args.max_new_tokens,
            sampling: Sampling {
                temperature: self.args.temperature,
                top_k: self.args.top_k,
                top_p: self.args.top_p,
                min_p: self.args.min_p,
                repetition_penalty: self.args.repetition_penalty,
            },
            eos_token_ids: self.tokenizer.eos_token_ids.clone(),
            stop: Vec::new(),
            max_batch_size: 1,
            num_threads: num_threads(),
            cache_memory: None,
        }
    }
}

fn write_piece(out: &mut impl Write, piece: Result<String, LmError>) -> Result<()> {
    out.write_all(piece?.as_bytes())?;
    Ok(out.flush()?)
}
