//! The bodies of `/chat/completions` and `/completions`: what is asked, and what a server makes of it.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::policy::{Completion, Finish, Options, Usage};

/// What a call asks for.
#[derive(Debug, Clone)]
pub struct Call {
    pub model: String,
    pub input: Input,
    pub options: Options,
    pub logprobs: bool,
}

/// The prompt, as one of the interfaces takes it.
#[derive(Debug, Clone)]
pub enum Input {
    /// The user's message, and how the answer begins.
    Chat { prompt: String, partial: String },
    /// The whole text, as the model is to see it.
    Text(String),
}

impl Call {
    /// Returns the body for `count` completions. What only vLLM and its like know (`top_k`, `min_p`, `repetition_penalty`, the continuation of a
    /// message) is sent where it is set alone.
    pub fn body(&self, count: usize, seed: u64) -> Value {
        let Options {
            max_new_tokens,
            sampling,
            stop,
        } = &self.options;
        let mut body = Map::new();
        let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
        set("model", json!(self.model));
        match &self.input {
            Input::Chat { prompt, partial } => {
                let mut messages = vec![json!({"role": "user", "content": prompt})];
                if !partial.is_empty() {
                    messages.push(json!({"role": "assistant", "content": partial}));
                    set("add_generation_prompt", json!(false));
                    set("continue_final_message", json!(true));
                }
                set("messages", json!(messages));
                if self.logprobs {
                    set("logprobs", json!(true));
                }
            }
            Input::Text(text) => {
                set("prompt", json!(text));
                if self.logprobs {
                    set("logprobs", json!(1));
                }
            }
        }
        set("n", json!(count));
        // 31 bits, which every server takes.
        set("seed", json!(seed >> 33));
        set("max_tokens", json!(max_new_tokens));
        set("temperature", json!(sampling.temperature));
        set("top_p", json!(sampling.top_p));
        if sampling.top_k > 0 {
            set("top_k", json!(sampling.top_k));
        }
        if sampling.min_p > 0.0 {
            set("min_p", json!(sampling.min_p));
        }
        if sampling.repetition_penalty != 1.0 {
            set("repetition_penalty", json!(sampling.repetition_penalty));
        }
        if !stop.is_empty() {
            set("stop", json!(stop));
        }
        Value::Object(body)
    }

    /// Returns the completions in a response, at most `count`, and the tokens that the server counted.
    ///
    /// # Errors
    /// What the response lacks.
    pub fn read(&self, body: &str, count: usize) -> Result<(Vec<Completion>, Usage), String> {
        let mut response: Response =
            serde_json::from_str(body).map_err(|error| format!("not a completion: {error}"))?;
        if response.choices.is_empty() {
            return Err("no choices in it".to_owned());
        }
        response.choices.sort_by_key(|choice| choice.index);
        response.choices.truncate(count);
        let counted = response.usage.unwrap_or_default();
        let usage = Usage {
            prompt_tokens: counted.prompt_tokens.unwrap_or(0),
            completion_tokens: counted.completion_tokens.unwrap_or(0),
        };
        let share = Share::new(&response.choices, usage.completion_tokens);
        let completions = response
            .choices
            .into_iter()
            .map(|choice| self.completion(choice, &share))
            .collect::<Result<_, _>>()?;
        Ok((completions, usage))
    }

    fn completion(&self, choice: Choice, share: &Share) -> Result<Completion, String> {
        let finish = self.finish(&choice);
        let logprobs = choice.token_logprobs();
        let text = choice.text().ok_or("a choice without text")?;
        let num_tokens = logprobs
            .as_ref()
            .filter(|list| !list.is_empty())
            .map_or_else(|| share.of(&text).min(self.options.max_new_tokens), Vec::len);
        Ok(Completion {
            num_tokens,
            // A server that gives no number for a token gives none for the whole.
            sum_logprob: logprobs
                .filter(|list| !list.is_empty())
                .and_then(|list| list.into_iter().sum()),
            text,
            finish,
        })
    }

    fn finish(&self, choice: &Choice) -> Finish {
        match choice.finish_reason.as_deref() {
            Some("length") => Finish::Length,
            Some("stop") if !self.options.stop.is_empty() => match &choice.stop_reason {
                // vLLM and SGLang say which text it was, or null or a token's id for the end token.
                Some(Value::Null | Value::Number(_)) => Finish::Eos,
                Some(_) => Finish::Stop,
                None if self.ends_with_an_end_token(choice) => Finish::Eos,
                // Without word of it a stop text is likelier: a step of a search ends with one, but for the last.
                None => Finish::Stop,
            },
            _ => Finish::Eos,
        }
    }

    /// Whether the tokens of an answer show that its turn ended, where the server does not say so (llama.cpp): they are the
    /// text, and one more that is not in it and is no part of a stop text.
    fn ends_with_an_end_token(&self, choice: &Choice) -> bool {
        let Some((tokens, text)) = choice.tokens().zip(choice.text()) else {
            return false;
        };
        let Some((last, before)) = tokens.split_last() else {
            return false;
        };
        let of_a_stop = |stop: &String| !last.is_empty() && (stop.contains(last) || last.contains(stop.as_str()));
        before.concat() == text && !self.options.stop.iter().any(of_a_stop)
    }
}

/// How the tokens of several choices are told apart where the server counts them all together: by the lengths of the texts.
struct Share {
    num_tokens: u64,
    num_bytes: usize,
}

impl Share {
    fn new(choices: &[Choice], num_tokens: u64) -> Self {
        let num_bytes = choices.iter().filter_map(Choice::text).map(|text| text.len()).sum();
        Self { num_tokens, num_bytes }
    }

    fn of(&self, text: &str) -> usize {
        (self.num_tokens as f64 * text.len() as f64 / self.num_bytes.max(1) as f64).round() as usize
    }
}

#[derive(Debug, Deserialize)]
struct Response {
    choices: Vec<Choice>,
    usage: Option<CountedTokens>,
}

#[derive(Debug, Default, Deserialize)]
struct CountedTokens {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    #[serde(default)]
    index: usize,
    text: Option<String>,
    message: Option<ChoiceMessage>,
    finish_reason: Option<String>,
    /// What ended it, in vLLM's and in SGLang's words. A field that is null is not one that is absent.
    #[serde(default, alias = "matched_stop", deserialize_with = "some")]
    stop_reason: Option<Value>,
    logprobs: Option<Logprobs>,
}

#[derive(Debug, Deserialize)]
struct ChoiceMessage {
    content: Option<String>,
    /// A model's thoughts, where a server takes them apart from the answer.
    reasoning_content: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Logprobs {
    /// Of `/chat/completions`.
    content: Option<Vec<TokenLogprob>>,
    /// Of `/completions`.
    token_logprobs: Option<Vec<Option<f64>>>,
    tokens: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct TokenLogprob {
    token: Option<String>,
    logprob: Option<f64>,
}

fn some<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl Choice {
    fn text(&self) -> Option<String> {
        if let Some(text) = &self.text {
            return Some(text.clone());
        }
        let message = self.message.as_ref()?;
        let content = message.content.clone().unwrap_or_default();
        Some(match message.reasoning_content.as_deref() {
            None | Some("") => content,
            Some(thoughts) => format!("<think>{thoughts}</think>{content}"),
        })
    }

    /// The texts of the tokens.
    fn tokens(&self) -> Option<Vec<String>> {
        let logprobs = self.logprobs.as_ref()?;
        match &logprobs.content {
            Some(content) => content.iter().map(|token| token.token.clone()).collect(),
            None => logprobs.tokens.clone(),
        }
    }

    fn token_logprobs(&self) -> Option<Vec<Option<f64>>> {
        let logprobs = self.logprobs.as_ref()?;
        match (&logprobs.content, &logprobs.token_logprobs) {
            (Some(content), _) => Some(content.iter().map(|token| token.logprob).collect()),
            (None, list) => list.clone(),
        }
    }
}
