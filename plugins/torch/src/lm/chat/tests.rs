//! Against transformers (`tests/fixtures/chat`), and what templates must not be able to do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json, json};

use super::{ChatOptions, ChatTemplate, cut_marks};
use crate::lm::LmError;

fn template(text: &str) -> Result<ChatTemplate, LmError> {
    let tokens = json!({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<p>"});
    ChatTemplate::new(
        BTreeMap::from([("default".to_owned(), text.to_owned())]),
        tokens.as_object().cloned().unwrap_or_default(),
    )
}

fn render(text: &str) -> Result<String, String> {
    let messages = [json!({"role": "user", "content": "hi"})];
    template(text)
        .and_then(|template| template.render(&messages, &ChatOptions::default()))
        .map(|rendered| rendered.text)
        .map_err(|error| error.to_string())
}

fn options(json: &Json) -> ChatOptions {
    let mut variables = json.as_object().cloned().unwrap_or_default();
    let mut list = |name: &str| variables.remove(name).and_then(|list| list.as_array().cloned());
    let (tools, documents) = (list("tools"), list("documents"));
    let add_generation_prompt = variables
        .remove("add_generation_prompt")
        .is_some_and(|flag| flag == true);
    ChatOptions {
        add_generation_prompt,
        tools,
        documents,
        variables,
        ..ChatOptions::default()
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

#[test]
fn conversations_are_rendered_as_by_transformers() {
    let text = std::fs::read(fixtures().join("chat/cases.json")).expect("the fixture is there");
    let cases: Vec<Json> = serde_json::from_slice(&text).expect("a list of cases");
    assert!(cases.len() > 20);
    for (idx, case) in cases.iter().enumerate() {
        let what = format!("case {idx}, {}", case["name"]);
        let messages: Vec<Json> = case["messages"].as_array().cloned().expect("a list of messages");
        let rendered = template(case["template"].as_str().expect("a text"))
            .and_then(|template| template.render(&messages, &options(&case["options"])));
        match (rendered, case["error"].as_str()) {
            (Ok(rendered), None) => assert_eq!(Some(rendered.text.as_str()), case["text"].as_str(), "{what}"),
            (Err(error), Some(expected)) => assert!(error.to_string().contains(expected), "{what}: {error}"),
            (result, expected) => panic!("{what}: {result:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn a_template_that_does_not_end_is_an_error() {
    for (text, expected) in [
        ("{% for i in range(10**9) %}{% endfor %}", "range has too many elements"),
        (
            "{% set items = range(1000) | list %}{% for i in items %}{% for j in items %}{% for k in items %}{% endfor %}{% endfor %}{% endfor %}",
            "fuel",
        ),
        (
            "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
            "its ranges have more than 1000000 items",
        ),
        ("{{ 'x' * 10**9 }}", "repeated string is too large"),
        (
            "{% for i in range(1000) %}{{ 'x' * 10**6 }}{% endfor %}",
            "a conversation became more than 67108864 bytes",
        ),
        (
            "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
            "recursion",
        ),
    ] {
        let error = render(text).expect_err("it does not end");
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    assert_eq!(
        render("line\n{{ raise_exception('no system messages, please') }}"),
        Err("chat template: line 2: no system messages, please".to_owned())
    );
    assert!(render("{% if %}").is_err_and(|error| error.contains("syntax error")));
    assert!(render("{{ messages[0].content.explode() }}").is_err_and(|error| error.contains("explode")));
    assert!(render("{{ missing.field }}").is_err());
    let empty = template("x").and_then(|template| template.render(&[], &ChatOptions::default()));
    assert!(empty.is_err_and(|error| error.to_string().contains("at least one message")));
}

#[test]
fn templates_are_found_where_transformers_finds_them() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let find = |settings: Json| ChatTemplate::find(dir.path(), &settings, Map::new());
    let text = |settings: Json, options: &ChatOptions| {
        let found = find(settings).expect("readable").expect("there is one");
        let message = json!({"role": "user", "content": "hi"});
        found
            .render(&[message], options)
            .map(|rendered| rendered.text)
            .map_err(|error| error.to_string())
    };
    let plain = ChatOptions::default();
    let with_tools = ChatOptions {
        tools: Some(Vec::new()),
        ..ChatOptions::default()
    };
    let named = |name: &str| ChatOptions {
        template: Some(name.to_owned()),
        ..ChatOptions::default()
    };
    assert!(find(json!({})).expect("readable").is_none());
    assert!(find(json!({"chat_template": 3})).is_err());
    assert!(find(json!({"chat_template": [{"name": "default"}]})).is_err());
    assert_eq!(text(json!({"chat_template": "one"}), &with_tools).as_deref(), Ok("one"));
    let list = json!({"chat_template": [
        {"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"},
        {"name": "rag", "template": "texts"},
    ]});
    assert_eq!(text(list.clone(), &plain).as_deref(), Ok("plain"));
    assert_eq!(text(list.clone(), &with_tools).as_deref(), Ok("tools"));
    assert_eq!(text(list.clone(), &named("rag")).as_deref(), Ok("texts"));
    let missing = text(list.clone(), &named("nix")).expect_err("no such template");
    assert!(missing.contains("default, rag, tool_use"), "{missing}");
    // Files take the place of all that.
    std::fs::write(dir.path().join("chat_template.jinja"), "file").expect("a file");
    std::fs::create_dir(dir.path().join("chat_templates")).expect("a folder");
    std::fs::write(dir.path().join("chat_templates/tool_use.jinja"), "tool file").expect("a file");
    assert_eq!(text(list.clone(), &plain).as_deref(), Ok("file"));
    assert_eq!(text(list.clone(), &with_tools).as_deref(), Ok("tool file"));
    assert!(text(list, &named("rag")).is_err());
}

#[test]
fn generation_blocks_are_marked_in_bytes() {
    let (text, ranges) = cut_marks("ä\u{fdd0}bc\u{fdd1}d\u{fdd0}\u{fdd1}", ['\u{fdd0}', '\u{fdd1}']);
    assert_eq!((text.as_str(), ranges), ("äbcd", vec![2..4, 5..5]));
    let template = template("{% generation %}x{% endgeneration %}").expect("a template");
    let forged = template.render(
        &[json!({"role": "user", "content": "\u{fdd1}"})],
        &ChatOptions::default(),
    );
    assert!(forged.is_err_and(|error| error.to_string().contains("U+FDD0")));
}

/// The parts of the text that the assistant wrote.
fn turns(text: &str, messages: &Json) -> Result<Vec<String>, String> {
    let messages = messages.as_array().cloned().unwrap_or_default();
    let (text, turns) = template(text)
        .and_then(|template| template.render_with_turns(&messages, &ChatOptions::default()))
        .map_err(|error| error.to_string())?;
    Ok(turns.into_iter().map(|turn| text[turn].to_owned()).collect())
}

#[test]
fn without_generation_blocks_a_turn_is_what_it_adds_to_its_prompt() {
    let chatml = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>\n{% endfor %}\
                  {% if add_generation_prompt %}<assistant>{% endif %}";
    let messages = json!([
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"},
    ]);
    assert_eq!(
        turns(chatml, &messages),
        Ok(vec!["b</>\n".to_owned(), "d</>\n".to_owned()])
    );
    assert_eq!(
        turns(chatml, &json!([{"role": "user", "content": "a"}])),
        Ok(Vec::new())
    );
    // A template that thinks aloud in its last turn alone, so that an earlier one was written otherwise.
    let forgetful =
        "{% for m in messages %}<{{ m.role }}>{% if loop.last %}aloud {% endif %}{{ m.content }}</>{% endfor %}";
    let error = turns(forgetful, &messages).expect_err("its turns have no place");
    assert!(error.contains("message 2") && error.contains("generation"), "{error}");
}

#[test]
fn a_pipe_is_no_template_and_no_settings() {
    for name in ["chat_template.jinja", "tokenizer_config.json", "tokenizer.json"] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let from = fixtures().join("models/smollm-tied");
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(from.join(file), dir.path().join(file)).expect("it is copied");
        }
        let path = dir.path().join(name);
        let _ = std::fs::remove_file(&path);
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.is_ok_and(|status| status.success()), "a pipe");
        // Nobody writes into it: who opened it would wait for ever.
        let error = crate::lm::Tokenizer::load(dir.path())
            .map(drop)
            .expect_err("it is no file");
        assert!(
            error.to_string().ends_with(&format!("{name}: is not a file")),
            "{error}"
        );
    }
}

#[test]
fn a_completion_is_what_its_prompt_does_not_have() {
    let completion = |text: &str, messages: &Json| {
        let messages = messages.as_array().cloned().unwrap_or_default();
        let options = ChatOptions::generation_prompt(false);
        let (text, start) = template(text)
            .and_then(|template| template.render_with_completion(&messages, &options))
            .map_err(|error| error.to_string())?;
        Ok::<_, String>(text[start..].to_owned())
    };
    let messages = json!([
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"}, {"role": "assistant", "content": "dé"},
    ]);
    let turn = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}";
    for (prompt, expected) in [
        ("<assistant>", "dé</>"),
        // Thoughts that the prompt opens and a finished answer lacks must not hide its first letters.
        ("<assistant><think>\n", "dé</>"),
        ("<assistant>d\u{e8}", "é</>"),
        ("", "<assistant>dé</>"),
    ] {
        let text = format!("{turn}{{% if add_generation_prompt %}}{prompt}{{% endif %}}");
        assert_eq!(completion(&text, &messages), Ok(expected.to_owned()), "{prompt}");
    }
    assert_eq!(completion(turn, &json!([messages[0]])), Ok("<user>a</>".to_owned()));
    let forgetful =
        "{% for m in messages %}<{{ m.role }}>{% if loop.last %}aloud {% endif %}{{ m.content }}</>{% endfor %}";
    let error = completion(forgetful, &messages).expect_err("it has no place");
    assert!(error.contains("message 4"), "{error}");
}
