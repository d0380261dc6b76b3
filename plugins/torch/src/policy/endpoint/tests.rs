//! Against a server whose answers each test writes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use serde_json::{Value, json};

use super::client::Backoff;
use super::secret::Secret;
use super::{Api, Endpoint, EndpointConfig, Limits};
use crate::lm::sampler::Sampling;
use crate::lm::{LmError, Tokenizer};
use crate::policy::{Completion, Finish, Follower, Options, Policy, Request};

#[path = "../../../tests/support/http.rs"]
mod http;
use http::{Reply, Server};

const KEY: &str = "sk-very-secret";

/// Tries follow each other at once.
const AT_ONCE: Backoff = Backoff {
    first: Duration::ZERO,
    longest: Duration::ZERO,
};

const LIMITS: Limits = Limits {
    max_concurrency: 4,
    request_timeout: 60.0,
    max_retries: 3,
};

fn config(api: Api) -> EndpointConfig {
    EndpointConfig {
        version: EndpointConfig::VERSION,
        model: "served".to_owned(),
        api,
        base_url: Some("http://localhost".to_owned()),
        base_url_env: None,
        api_key_env: None,
        logprobs: true,
    }
}

fn endpoint(server: &Server, limits: Limits, backoff: Backoff) -> Endpoint {
    let key = Some(Secret::new(KEY.to_owned()));
    Endpoint::new(config(Api::Chat), &(server.url() + "/v1"), key, None, limits, backoff).expect("an endpoint")
}

fn requests(count: usize) -> Vec<Request> {
    let request = |idx: usize| Request {
        prompt: format!("question {idx}"),
        partial: String::new(),
        seeds: vec![(idx as u64) << 33],
    };
    (0..count).map(request).collect()
}

fn options() -> Options {
    Options {
        max_new_tokens: 16,
        sampling: Sampling {
            temperature: 0.7,
            top_p: 0.9,
            ..Sampling::PLAIN
        },
        stop: Vec::new(),
    }
}

/// An answer of `/chat/completions` with these texts.
fn answer(texts: &[&str]) -> Reply {
    let choices: Vec<Value> = texts
        .iter()
        .enumerate()
        .map(|(index, text)| json!({"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}))
        .collect();
    Reply::Json(
        200,
        json!({"choices": choices, "usage": {"prompt_tokens": 10, "completion_tokens": 4}}),
    )
}

/// Repeats the question.
fn echo(request: &http::Received) -> Reply {
    answer(&[request.body["messages"][0]["content"].as_str().unwrap_or("?")])
}

/// Keeps what a call tells.
#[derive(Default)]
struct Notes {
    known: BTreeMap<usize, Vec<Completion>>,
    finished: Vec<usize>,
    progress: Vec<(usize, usize)>,
}

impl Follower for Notes {
    fn recall(&mut self, request_idx: usize) -> Option<Vec<Completion>> {
        self.known.get(&request_idx).cloned()
    }

    fn finished(&mut self, requests: &[usize], completions: &[Vec<Completion>]) {
        assert_eq!(requests.len(), completions.len());
        self.finished.extend(requests);
    }

    fn progress(&mut self, num_done: usize, num_tokens: usize) {
        self.progress.push((num_done, num_tokens));
    }
}

fn ask(endpoint: &mut Endpoint, requests: &[Request]) -> anyhow::Result<Vec<Vec<Completion>>> {
    endpoint.complete(requests, &options(), &mut Notes::default())
}

fn texts(lists: &[Vec<Completion>]) -> Vec<Vec<&str>> {
    lists
        .iter()
        .map(|list| list.iter().map(|completion| completion.text.as_str()).collect())
        .collect()
}

/// The error of one question to a server that always does this, and how often it was asked.
fn failure(limits: Limits, reply: impl Fn() -> Reply + Send + Sync + 'static) -> (String, usize) {
    let server = Server::start(move |_, _| reply());
    let error = ask(&mut endpoint(&server, limits, AT_ONCE), &requests(1)).expect_err("it must fail");
    (format!("{error:#}"), server.received().len())
}

#[test]
fn results_come_in_the_order_of_the_requests_and_several_calls_are_in_flight() {
    // No answer is given before four calls are there, and then the later ones may come first.
    let barrier = Arc::new(Barrier::new(4));
    let server = Server::start(move |_, request| {
        barrier.wait();
        echo(request)
    });
    let requests = requests(12);
    let mut notes = Notes::default();
    let mut endpoint = endpoint(&server, LIMITS, AT_ONCE);
    let lists = endpoint.complete(&requests, &options(), &mut notes).expect("answers");
    let expected: Vec<Vec<&str>> = requests.iter().map(|request| vec![request.prompt.as_str()]).collect();
    assert_eq!(texts(&lists), expected);
    notes.finished.sort_unstable();
    assert_eq!(notes.finished, (0..12).collect::<Vec<_>>());
    assert_eq!(
        (notes.progress.first(), notes.progress.last()),
        (Some(&(0, 0)), Some(&(12, 48)))
    );
    let usage = endpoint.usage().expect("a server counts");
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (120, 48));
}

#[test]
fn what_is_known_is_not_asked_again() {
    let server = Server::start(|_, request| echo(request));
    let known = Completion {
        text: "known".to_owned(),
        num_tokens: 3,
        sum_logprob: None,
        finish: Finish::Eos,
    };
    let mut notes = Notes {
        known: BTreeMap::from([(1, vec![known.clone()]), (2, vec![known.clone(), known])]),
        ..Notes::default()
    };
    let lists = endpoint(&server, LIMITS, AT_ONCE)
        .complete(&requests(3), &options(), &mut notes)
        .expect("answers");
    // The second request is known; of the third there are two completions, but one is wanted.
    assert_eq!(texts(&lists), [["question 0"], ["known"], ["question 2"]]);
    assert_eq!((notes.progress[0], server.received().len()), ((1, 3), 2));
}

#[test]
fn several_samples_are_one_call_or_more_where_a_server_gives_one_at_a_time() {
    let request = Request {
        prompt: "q".to_owned(),
        partial: String::new(),
        seeds: vec![1 << 33, 2 << 33, 3 << 33],
    };
    let all = Server::start(|_, _| {
        let choice =
            |index: usize, text: &str| json!({"index": index, "message": {"content": text}, "finish_reason": "stop"});
        Reply::Json(
            200,
            json!({"choices": [choice(2, "c"), choice(0, "a"), choice(1, "b")]}),
        )
    });
    let lists = ask(&mut endpoint(&all, LIMITS, AT_ONCE), std::slice::from_ref(&request)).expect("answers");
    assert_eq!(texts(&lists), [["a", "b", "c"]]);
    assert_eq!(all.received()[0].body["n"], 3);

    let one = Server::start(|number, _| answer(&[["a", "b", "c"][number]]));
    let lists = ask(&mut endpoint(&one, LIMITS, AT_ONCE), &[request]).expect("answers");
    assert_eq!(texts(&lists), [["a", "b", "c"]]);
    let asked: Vec<(Value, Value)> = one
        .received()
        .iter()
        .map(|r| (r.body["n"].clone(), r.body["seed"].clone()))
        .collect();
    assert_eq!(
        asked,
        [(json!(3), json!(1)), (json!(2), json!(2)), (json!(1), json!(3))]
    );
}

#[test]
fn faults_that_may_pass_are_tried_again() {
    let faults: [fn() -> Reply; 8] = [
        || Reply::Json(500, json!({"error": "sorry"})),
        || Reply::Json(503, json!(null)),
        || Reply::Json(429, json!({"error": {"message": "slow down"}})),
        || Reply::Json(408, json!(null)),
        || Reply::Hangup,
        || Reply::Raw(200, String::new(), "<html>".to_owned()),
        || Reply::CutOff("{\"choices\": [".to_owned()),
        || Reply::Json(200, json!({"choices": []})),
    ];
    for (idx, fault) in faults.into_iter().enumerate() {
        let server = Server::start(move |number, request| if number < 2 { fault() } else { echo(request) });
        let lists = ask(&mut endpoint(&server, LIMITS, AT_ONCE), &requests(1)).expect("the third try is answered");
        assert_eq!(
            (texts(&lists), server.received().len()),
            (vec![vec!["question 0"]], 3),
            "fault {idx}"
        );
        let (error, tries) = failure(LIMITS, fault);
        assert!(
            error.starts_with("given up after 4 tries: http://127.0.0.1"),
            "fault {idx}: {error}"
        );
        assert_eq!(tries, 4, "fault {idx}");
    }
}

#[test]
fn a_server_may_say_how_long_to_wait() {
    // Without the header the second try would come in an hour.
    let patient = Backoff {
        first: Duration::from_secs(3600),
        longest: Duration::from_secs(3600),
    };
    let server = Server::start(|number, request| match number {
        0 => Reply::Raw(429, "Retry-After: 0\r\n".to_owned(), "{}".to_owned()),
        _ => echo(request),
    });
    let lists = ask(&mut endpoint(&server, LIMITS, patient), &requests(1)).expect("an answer");
    assert_eq!(texts(&lists), [["question 0"]]);
}

#[test]
fn what_will_not_pass_is_said_once_and_without_the_key() {
    let (error, tries) = failure(LIMITS, || {
        Reply::Json(
            401,
            json!({"error": {"message": format!("wrong key {KEY},\n go away")}}),
        )
    });
    assert!(
        error.ends_with("/v1/chat/completions answered 401: wrong key [redacted], go away"),
        "{error}"
    );
    assert_eq!(tries, 1);
    let (error, _) = failure(LIMITS, || {
        Reply::Raw(404, String::new(), format!("{KEY} {}", "x".repeat(5000)))
    });
    assert!(
        error.contains("404") && error.len() < 500 && !error.contains(KEY),
        "{error}"
    );
    // The same key, as JSON may write it too.
    let escaped = KEY.replace('-', "\\u002d");
    let body = format!("{{\"detail\": \"not {escaped}\"}}");
    let (error, _) = failure(LIMITS, move || Reply::Raw(403, String::new(), body.clone()));
    assert!(error.ends_with("answered 403: not [redacted]"), "{error}");
    let (error, tries) = failure(LIMITS, || {
        Reply::Raw(302, "Location: http://127.0.0.1:9/\r\n".to_owned(), String::new())
    });
    assert!(error.contains("answered 302"), "{error}");
    assert_eq!(tries, 1);
}

#[test]
fn an_answer_beyond_reason_is_refused() {
    let (error, tries) = failure(LIMITS, || {
        Reply::Raw(200, "Content-Length: 99999999999\r\n".to_owned(), "{".to_owned())
    });
    assert!(error.contains("more than 67108864 bytes"), "{error}");
    assert_eq!(tries, 1);
    let number = "9".repeat(30);
    let (error, _) = failure(LIMITS, move || {
        Reply::Raw(
            200,
            String::new(),
            format!("{{\"choices\": [{{\"text\": \"\"}}], \"usage\": {{\"completion_tokens\": {number}}}}}"),
        )
    });
    assert!(error.contains("no completion"), "{error}");
}

#[test]
fn a_call_that_takes_too_long_is_a_fault() {
    let hang = Arc::new(Barrier::new(2));
    let waiting = hang.clone();
    let limits = Limits {
        request_timeout: 0.2,
        max_retries: 0,
        ..LIMITS
    };
    let (error, _) = failure(limits, move || {
        waiting.wait();
        Reply::Hangup
    });
    assert!(error.contains("no answer in time"), "{error}");
    hang.wait();
}

#[test]
fn nobody_listening_is_said() {
    let closed = {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        listener.local_addr().expect("an address")
    };
    let limits = Limits {
        max_retries: 1,
        ..LIMITS
    };
    let mut endpoint = Endpoint::new(
        config(Api::Chat),
        &format!("http://{closed}/v1"),
        None,
        None,
        limits,
        AT_ONCE,
    )
    .expect("an endpoint");
    let error = ask(&mut endpoint, &requests(1))
        .expect_err("nobody is there")
        .to_string();
    assert!(
        error.contains("given up after 2 tries") && error.contains("no connection"),
        "{error}"
    );
}

#[test]
fn a_stop_ends_calls_in_flight_and_waiting_ones() {
    static STOPPED: AtomicBool = AtomicBool::new(false);
    let server = Server::start(|_, _| {
        STOPPED.store(true, Ordering::SeqCst);
        // Longer than any test: neither this answer nor the next try is waited for.
        Reply::Raw(503, "Retry-After: 300\r\n".to_owned(), String::new())
    });
    let mut endpoint = endpoint(&server, LIMITS, AT_ONCE);
    endpoint.is_stopped = || STOPPED.load(Ordering::SeqCst);
    let error = ask(&mut endpoint, &requests(9)).expect_err("it was stopped");
    assert!(matches!(error.downcast_ref(), Some(LmError::Stopped)), "{error}");
}

#[test]
fn one_failure_ends_the_call() {
    let server = Server::start(
        |_, request| match request.body["messages"][0]["content"] == "question 1" {
            true => Reply::Json(400, json!({"detail": "no such model"})),
            false => echo(request),
        },
    );
    let error = ask(&mut endpoint(&server, LIMITS, AT_ONCE), &requests(3)).expect_err("one of them fails");
    assert!(error.to_string().ends_with("answered 400: no such model"), "{error}");
}

#[test]
fn a_chat_call_says_what_is_set_and_no_more() {
    let server = Server::start(|_, request| echo(request));
    let mut endpoint = endpoint(&server, LIMITS, AT_ONCE);
    ask(&mut endpoint, &requests(1)).expect("an answer");
    let plain = &server.received()[0];
    assert_eq!(plain.path, "/v1/chat/completions");
    assert_eq!(plain.header("authorization"), Some(format!("Bearer {KEY}").as_str()));
    assert_eq!(
        plain.body,
        json!({
            "model": "served", "messages": [{"role": "user", "content": "question 0"}], "logprobs": true, "n": 1, "seed": 0,
            "max_tokens": 16, "temperature": 0.7, "top_p": 0.9,
        })
    );
    let more = Options {
        sampling: Sampling {
            top_k: 5,
            min_p: 0.1,
            repetition_penalty: 1.2,
            ..options().sampling
        },
        stop: vec!["\n\n".to_owned()],
        ..options()
    };
    let request = Request {
        partial: "First, ".to_owned(),
        ..requests(1).remove(0)
    };
    endpoint
        .complete(&[request], &more, &mut Notes::default())
        .expect("an answer");
    let body = &server.received()[1].body;
    for (name, value) in [
        ("top_k", json!(5)),
        ("min_p", json!(0.1)),
        ("repetition_penalty", json!(1.2)),
        ("stop", json!(["\n\n"])),
        ("add_generation_prompt", json!(false)),
        ("continue_final_message", json!(true)),
    ] {
        assert_eq!(body[name], value, "{name}");
    }
    assert_eq!(body["messages"][1], json!({"role": "assistant", "content": "First, "}));
}

#[test]
fn a_prompt_of_completions_is_written_by_the_chat_template() {
    let server = Server::start(|_, _| {
        let logprobs = json!({"token_logprobs": [-0.5, -0.25]});
        Reply::Json(
            200,
            json!({"choices": [{"text": "ok", "finish_reason": "length", "logprobs": logprobs}]}),
        )
    });
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/qwen2-bias-tied");
    let tokenizer = Tokenizer::load(&folder).expect("a tokenizer");
    let mut endpoint = Endpoint::new(
        config(Api::Completions),
        &server.url(),
        None,
        Some(tokenizer),
        LIMITS,
        AT_ONCE,
    )
    .expect("an endpoint");
    let request = Request {
        partial: "First, ".to_owned(),
        ..requests(1).remove(0)
    };
    let lists = ask(&mut endpoint, &[request]).expect("an answer");
    let expected = Completion {
        text: "ok".to_owned(),
        num_tokens: 2,
        sum_logprob: Some(-0.75),
        finish: Finish::Length,
    };
    assert_eq!(lists, [[expected]]);
    let received = &server.received()[0];
    assert_eq!(
        (received.path.as_str(), received.header("authorization")),
        ("/completions", None)
    );
    let prompt = received.body["prompt"].as_str().expect("a text");
    assert!(
        prompt.ends_with("<|im_start|>user\nquestion 0<|im_end|>\n<|im_start|>assistant\nFirst, "),
        "{prompt}"
    );
}

#[test]
fn what_ended_a_completion_is_told_apart() {
    let with_stops = Options {
        stop: vec!["\n".to_owned()],
        ..options()
    };
    for (choice, expected) in [
        (json!({"finish_reason": "length"}), Finish::Length),
        (json!({"finish_reason": "stop", "stop_reason": "\n"}), Finish::Stop),
        (json!({"finish_reason": "stop", "stop_reason": null}), Finish::Eos),
        (json!({"finish_reason": "stop", "stop_reason": 128_009}), Finish::Eos),
        (json!({"finish_reason": "stop", "matched_stop": "\n"}), Finish::Stop),
        (json!({"finish_reason": "stop", "matched_stop": 2}), Finish::Eos),
        (json!({"finish_reason": "stop"}), Finish::Stop),
    ] {
        let mut body = choice.clone();
        body["message"] = json!({"content": "x"});
        let server = Server::start(move |_, _| Reply::Json(200, json!({"choices": [body]})));
        let lists = endpoint(&server, LIMITS, AT_ONCE)
            .complete(&requests(1), &with_stops, &mut Notes::default())
            .expect("an answer");
        assert_eq!(lists[0][0].finish, expected, "{choice}");
    }
}

#[test]
fn the_tokens_of_an_answer_tell_where_the_server_does_not() {
    let with_stops = Options {
        stop: vec!["\n\n".to_owned()],
        ..options()
    };
    // As llama.cpp answers: an end token is among the tokens and not in the text, those of a stop text are cut off.
    for (text, tokens, expected) in [
        ("a b", ["a", " b", "<|im_end|>"].as_slice(), Finish::Eos),
        ("a b", &["a", " b", ""], Finish::Eos),
        ("", &["<|im_end|>"], Finish::Eos),
        ("a b", &["a", " b"], Finish::Stop),
        ("a b", &["a", " b", "\n"], Finish::Stop),
        ("a b", &["a", " b", "\n\n\n"], Finish::Stop),
        ("a b.", &["a", " b", ".\n\n"], Finish::Stop),
        ("", &[], Finish::Stop),
    ] {
        let chat: Vec<Value> = tokens
            .iter()
            .map(|token| json!({"token": token, "logprob": -1.0}))
            .collect();
        let numbers = vec![-1.0; tokens.len()];
        for choice in [
            json!({"message": {"content": text}, "finish_reason": "stop", "logprobs": {"content": chat}}),
            json!({"text": text, "finish_reason": "stop", "logprobs": {"tokens": tokens, "token_logprobs": numbers}}),
        ] {
            let body = json!({"choices": [choice]});
            let server = Server::start(move |_, _| Reply::Json(200, body.clone()));
            let lists = endpoint(&server, LIMITS, AT_ONCE)
                .complete(&requests(1), &with_stops, &mut Notes::default())
                .expect("an answer");
            assert_eq!(lists[0][0].finish, expected, "{choice}");
        }
    }
}

#[test]
fn a_key_that_is_a_word_stays_in_answers() {
    let said = |key: &str| {
        let answered = format!("the key is {key}.");
        let server = Server::start(move |_, _| answer(&[&answered]));
        let key = Some(Secret::new(key.to_owned()));
        let mut endpoint =
            Endpoint::new(config(Api::Chat), &server.url(), key, None, LIMITS, AT_ONCE).expect("an endpoint");
        texts(&ask(&mut endpoint, &requests(1)).expect("an answer"))[0][0].to_owned()
    };
    assert_eq!(said("EMPTY"), "the key is EMPTY.");
    assert_eq!(said("e"), "the key is e.");
    assert_eq!(said("sk-0123456789-secret"), "the key is [redacted].");
}

#[test]
fn a_key_goes_where_whoever_runs_it_says() {
    let mut config = config(Api::Chat);
    config.api_key_env = Some("PATH".to_owned());
    let mut key = |url: Option<&str>, hosts: &str| {
        config.base_url = url.map(str::to_owned);
        config.base_url_env = url.is_none().then(|| "URL".to_owned());
        config
            .key_for(hosts)
            .map(|key| key.is_some())
            .map_err(|error| error.to_string())
    };
    // Someone else's file names a variable of ours and a place of theirs.
    let theirs = Some("https://evil.example/v1");
    let refused = key(theirs, "api.example, llm.example:8000").expect_err("it is not sent");
    for part in [
        "PATH",
        "evil.example",
        "VOLVELLE_KEY_HOSTS=evil.example",
        "base_url_env",
    ] {
        assert!(refused.contains(part), "{refused}");
    }
    assert!(key(theirs, "").is_err() && key(theirs, "*").is_err() && key(theirs, "example").is_err());
    assert_eq!(key(theirs, "api.example, Evil.Example"), Ok(true));
    // This machine, and what the environment itself says, are trusted.
    assert_eq!(key(Some("http://127.0.0.1:8000/v1"), ""), Ok(true));
    assert_eq!(key(None, ""), Ok(true));
    // Without a key there is nothing to lose.
    config.api_key_env = None;
    config.base_url = theirs.map(str::to_owned);
    assert_eq!(config.key_for("").map(|key| key.is_some()).ok(), Some(false));
}

#[test]
fn a_key_is_not_shown() {
    let server = Server::start(|_, request| echo(request));
    let endpoint = endpoint(&server, LIMITS, AT_ONCE);
    assert!(!format!("{endpoint:?} {:#?}", endpoint).contains(KEY));
    let key = Some(Secret::new("line\nbreak".to_owned()));
    let error =
        Endpoint::new(config(Api::Chat), &server.url(), key, None, LIMITS, AT_ONCE).expect_err("it can't be sent");
    assert!(!format!("{error} {error:?}").contains("break"), "{error}");
}

#[test]
fn settings_that_can_not_be_are_refused() {
    let set = |change: &dyn Fn(&mut EndpointConfig)| {
        let mut config = config(Api::Chat);
        change(&mut config);
        config.check().err().unwrap_or_default()
    };
    assert_eq!(set(&|_| ()), "");
    assert!(set(&|c| c.model.clear()).contains("model is empty"));
    assert!(set(&|c| c.version = 2).contains("version 2"));
    assert!(set(&|c| c.base_url = None).contains("either base_url or base_url_env"));
    assert!(set(&|c| c.base_url_env = Some("URL".to_owned())).contains("either base_url or base_url_env"));
    assert!(set(&|c| c.base_url = Some("localhost:8000".to_owned())).contains("http://"));
    let with_password = set(&|c| c.base_url = Some("http://me:secret@host/v1".to_owned()));
    assert!(
        with_password.contains("api_key_env") && !with_password.contains("secret"),
        "{with_password}"
    );
    let exposes = |url: &str, key: Option<&str>| {
        let mut config = config(Api::Chat);
        (config.base_url, config.api_key_env) = (Some(url.to_owned()), key.map(str::to_owned));
        config.exposes_key()
    };
    assert!(exposes("http://example.org/v1", Some("KEY")) && !exposes("http://example.org/v1", None));
    assert!(!exposes("https://example.org/v1", Some("KEY")) && !exposes("http://[::1]:8000/v1", Some("KEY")));
    // A key in the place of its name is not repeated.
    let key = set(&|c| c.api_key_env = Some(KEY.to_owned()));
    assert!(key.contains("api_key_env") && !key.contains(KEY), "{key}");
    let mut config = config(Api::Chat);
    (config.base_url, config.base_url_env) = (None, Some("VOLVELLE_NO_SUCH_VARIABLE".to_owned()));
    let error = config.url().expect_err("it is not set").to_string();
    assert!(
        error.contains("VOLVELLE_NO_SUCH_VARIABLE") && error.contains("base_url_env"),
        "{error}"
    );
}
