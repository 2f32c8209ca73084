//! Templates against transformers, and templates that mean harm.

use std::path::Path;
use std::time::{Duration, Instant};

use reweight_quant::store::Model;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use super::{ChatError, ChatTemplate, Conversation, conversations, without_generation};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fixtures {
    #[serde(rename = "made_by")]
    _made_by: String,
    special: Json,
    templates: std::collections::BTreeMap<String, String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    template: String,
    messages: Json,
    tools: Option<Json>,
    date: Option<String>,
    expected: Option<String>,
    refused: Option<String>,
}

/// Names and texts.
type Files<'a> = &'a [(&'a str, &'a str)];

/// A model's folder with files of its own.
fn model(files: Files<'_>) -> (TempDir, Model) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo/model.safetensors");
    std::fs::copy(demo, folder.path().join("model.safetensors")).expect("the folder can be written");
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).expect("the folder can be written");
    }
    let model = Model::open(folder.path()).expect("it is a model");
    (folder, model)
}

fn template(text: &str) -> ChatTemplate {
    let (_folder, model) = model(&[("chat_template.jinja", text)]);
    ChatTemplate::of(&model, None).expect("the template can be read")
}

fn conversation() -> Conversation {
    Conversation::new(&json!([{ "role": "user", "content": "Hello" }]), None).expect("it is a conversation")
}

fn refused(text: &str) -> String {
    template(text).render(&[conversation()]).expect_err("it is refused").1.to_string()
}

#[test]
fn templates_give_what_transformers_gives() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/chat.json");
    let text = std::fs::read_to_string(path).expect("the fixtures are there");
    let fixtures: Fixtures = serde_json::from_str(&text).expect("the fixtures are as written");
    let mut failures = Vec::new();
    for (index, case) in fixtures.cases.iter().enumerate() {
        let mut config = fixtures.special.clone();
        config["chat_template"] = json!(fixtures.templates[&case.template]);
        let (_folder, model) = model(&[("tokenizer_config.json", &config.to_string())]);
        let date = case.date.as_ref().map(|date| date.parse().expect("it is a day"));
        let template = ChatTemplate::of(&model, date).expect("the template can be read");
        let conversation = Conversation::new(&case.messages, case.tools.as_ref()).expect("it is a conversation");
        let found = template.render(&[conversation]).map(|mut texts| texts.remove(0)).map_err(|(_, error)| error);
        let same = match (&found, &case.expected, &case.refused) {
            (Ok(found), Some(expected), None) => found == expected,
            (Err(error), None, Some(refused)) => error.to_string().contains(refused.as_str()),
            _ => false,
        };
        if !same {
            let (name, expected, refused) = (&case.template, &case.expected, &case.refused);
            failures.push(format!("case {index}, {name}:\nexpected {expected:?} {refused:?}\nfound    {found:?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(fixtures.cases.len() >= 20 && fixtures.cases.iter().filter(|case| case.refused.is_some()).count() >= 4);
}

#[test]
fn the_template_is_taken_from_where_it_is() {
    let config = |template: Json| json!({ "chat_template": template, "bos_token": { "content": "<s>" } }).to_string();
    let named = json!([{ "name": "default", "template": "D{{ bos_token }}" }, { "name": "tool_use", "template": "T" }]);
    let rows: [(Files<'_>, Option<Json>, &str); 5] = [
        (&[("tokenizer_config.json", &config(json!("C{{ bos_token }}")))], None, "C<s>"),
        (&[("tokenizer_config.json", &config(named.clone()))], None, "D<s>"),
        (&[("tokenizer_config.json", &config(named))], Some(json!([])), "T"),
        (&[("tokenizer_config.json", &config(json!("C"))), ("chat_template.jinja", "J\n")], None, "J"),
        (
            &[
                ("chat_template.jinja", "J{{ eos_token }}{{ pad_token }}"),
                ("special_tokens_map.json", "{\"eos_token\":\"E\"}"),
            ],
            None,
            "JE",
        ),
    ];
    for (files, tools, expected) in rows {
        let (_folder, model) = model(files);
        let template = ChatTemplate::of(&model, None).expect("the template can be read");
        let conversation =
            Conversation::new(&json!([{ "role": "user" }]), tools.as_ref()).expect("it is a conversation");
        assert_eq!(template.render(&[conversation]).expect("it renders"), [expected], "{files:?}");
    }
}

#[test]
fn what_is_no_template_is_named() {
    let rows: [(Files<'_>, &str); 7] = [
        (&[], "has no chat template"),
        (&[("tokenizer_config.json", "{\"chat_template\": null}")], "has no chat template"),
        (&[("tokenizer_config.json", "{")], "tokenizer_config.json: EOF"),
        (
            &[("tokenizer_config.json", "{\"chat_template\": 3}")],
            "expected a template or a list of them, found a number",
        ),
        (&[("tokenizer_config.json", "{\"chat_template\": [3]}")], "expected a list of objects with a name"),
        (
            &[("tokenizer_config.json", "{\"chat_template\": [{\"name\": \"rag\", \"template\": \"\"}]}")],
            "expected a template named \"default\", found [\"rag\"]",
        ),
        (&[("chat_template.jinja", "{% for %}")], "chat_template.jinja: the template cannot be read"),
    ];
    for (files, expected) in rows {
        let (_folder, model) = model(files);
        let error = ChatTemplate::of(&model, None).err().expect("it is refused").to_string();
        assert!(error.contains(expected), "{error}");
    }
    let long = "x".repeat((1 << 20) + 1);
    let (_folder, model) = model(&[("chat_template.jinja", &long)]);
    let error = ChatTemplate::of(&model, None).err().expect("it is refused").to_string();
    assert!(error.contains("at most 1048576 bytes, found 1048577"), "{error}");
}

#[test]
fn a_template_that_would_run_or_grow_without_end_is_stopped() {
    let doubling = "{% set a = a ~ a %}".repeat(60);
    let nested = "{% for x in range(90000) %}{% set ns.v = [ns.v] %}{% endfor %}";
    let rows = [
        ("loops", "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}".to_owned()),
        ("output", "{% for a in range(99999) %}{{ 'x' * 100000 }}{% endfor %}".to_owned()),
        ("doubling", format!("{{% set a = 'xxxxxxxx' %}}{doubling}")),
        ("repeat", "{{ ('x' * 90000000) }}".to_owned()),
        ("replace", "{% set a = 'x' * 100000 %}{{ a.replace('x', a) }}".to_owned()),
        ("join", "{{ ''.join(['x' * 100000] * 100000) }}".to_owned()),
        ("join filter", "{{ (['x' * 100000] * 100000) | join }}".to_owned()),
        ("tojson", format!("{{% set a = 'x' * 1000 %}}{}{{{{ a | tojson }}}}", "{% set a = [a, a] %}".repeat(40))),
        ("indent", "{{ ([[1] * 10000] * 1000) | tojson(indent=64) }}".to_owned()),
        // Made whole before it is paid for, and still refused.
        (
            "string of lists",
            format!("{{% set a = 'x' * 1000 %}}{}{{{{ a | string }}}}", "{% set a = [a, a] %}".repeat(18)),
        ),
        ("deep tojson", format!("{{% set ns = namespace(v=0) %}}{nested}{{{{ ns.v | tojson }}}}")),
        ("macro", "{% macro f(x) %}{{ f(x ~ x) }}{% endmacro %}{{ f('x') }}".to_owned()),
        ("format", "{{ '{:>999999999}'.format('x') }}".to_owned()),
        ("format filter", "{{ '%999999999s' | format('x') }}".to_owned()),
        ("center", "{{ 'x' | center(999999999) }}".to_owned()),
        ("indent filter", "{{ ('\n' * 100000) | indent(100000) }}".to_owned()),
        ("include", "{% include '/etc/passwd' %}".to_owned()),
    ];
    for (name, text) in rows {
        let started = Instant::now();
        let (_folder, model) = model(&[("chat_template.jinja", &text)]);
        let error = match ChatTemplate::of(&model, None) {
            Ok(template) => template.render(&[conversation()]).expect_err(name).1,
            Err(error) => error,
        };
        assert!(matches!(error, ChatError::Render { .. } | ChatError::Template { .. }), "{name}");
        assert!(error.to_string().len() < 600, "{name}: {:.300}", error.to_string());
        // Measured: 0.1 s for the slowest in a release build, four times that without optimization.
        assert!(started.elapsed() < Duration::from_secs(20), "{name} took {:?}", started.elapsed());
    }
    // Nested as deeply as fuel allows and dropped again.
    let text = format!("{{% set ns = namespace(v=0) %}}{nested}ok");
    assert_eq!(template(&text).render(&[conversation()]).expect("it renders"), ["ok"]);
}

#[test]
fn a_date_is_known_only_where_it_is_given() {
    let (_folder, model) = model(&[("chat_template.jinja", "{{ strftime_now('%-d %B %Y') }}")]);
    let without = ChatTemplate::of(&model, None).expect("the template can be read");
    let (_, error) = without.render(&[conversation()]).expect_err("there is no date");
    assert!(error.hint().is_some_and(|hint| hint.contains("--chat-date")), "{error}");
    let date = "2026-11-05".parse().expect("it is a day");
    let with = ChatTemplate::of(&model, Some(date)).expect("the template can be read");
    assert_eq!(with.render(&[conversation()]).expect("it renders"), ["5 November 2026"]);
    assert!(refused("{{ raise_exception('no\u{1b}') }}").contains("refuses the conversation: no"));
}

#[test]
fn lines_without_a_conversation_are_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("chat.jsonl");
    let good = "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}";
    for (line, expected) in [
        ("{\"text\": \"a\"}", "line 3: expected a field \"messages\", found none"),
        ("{\"messages\": \"a\"}", "line 3: field \"messages\": expected a list of messages"),
        ("{\"messages\": [\"a\"]}", "objects with a role and a content, found a list of something else"),
        ("{\"messages\": []}", "objects with a role and a content, found an empty list"),
        ("{\"messages\": [{}], \"tools\": 3}", "expected a list of tools, found a number"),
        ("{", "line 3: EOF"),
    ] {
        std::fs::write(&path, format!("{good}\n\n{line}\n")).expect("the folder can be written");
        let error = conversations(&path, "messages").expect_err("it is refused").to_string();
        assert!(error.contains(expected), "{error}");
    }
    std::fs::write(&path, good).expect("the folder can be written");
    assert_eq!(conversations(&path, "messages").expect("one").len(), 1);
    let error = conversations(Path::new("book.txt"), "messages").expect_err("it is a text").to_string();
    assert!(error.contains("`book.txt`"), "{error}");
}

#[test]
fn marks_of_generation_become_scopes() {
    let rows = [
        ("{% generation %}a{% endgeneration %}", "{% with %}a{% endwith %}"),
        ("{%- generation -%}a{%-endgeneration-%}", "{%- with -%}a{%-endwith-%}"),
        ("{{ generation }}{% if generation %}{%", "{{ generation }}{% if generation %}{%"),
    ];
    for (text, expected) in rows {
        assert_eq!(without_generation(text), expected);
    }
}
