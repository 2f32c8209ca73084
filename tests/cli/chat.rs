//! `calibrate --chat`.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Cmd, Dir};

/// The bundled model in a folder, with a chat template.
fn model(dir: &Dir, template: &str) {
    let (from, to) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo"), dir.path().join("model"));
    fs::create_dir_all(&to).expect("the folder can be made");
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        fs::copy(from.join(name), to.join(name)).expect("the folder can be written");
    }
    fs::write(to.join("chat_template.jinja"), template).expect("the folder can be written");
}

const TEMPLATE: &str = "{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}";

#[test]
fn conversations_give_the_statistics_of_their_texts() {
    let dir = Dir::new();
    model(&dir, TEMPLATE);
    let talks = [("Who was there?", "The captain, said the mate."), ("And then?", "Nothing more.")];
    let line = |(question, answer): (&str, &str)| json!({ "messages": [{ "role": "user", "content": question }, { "role": "assistant", "content": answer }] });
    let text = |(question, answer)| json!({ "text": format!("<user> {question}\n<assistant> {answer}\n") });
    let lines = |values: [Value; 2]| values.map(|value| value.to_string()).join("\n");
    fs::write(dir.path().join("talks.jsonl"), lines(talks.map(line))).expect("the folder can be written");
    fs::write(dir.path().join("texts.jsonl"), lines(talks.map(text))).expect("the folder can be written");
    Cmd::new("calibrate model chat.st --text talks.jsonl --chat -q").in_dir(&dir).run().expect_status(0);
    Cmd::new("calibrate model text.st --text texts.jsonl -q").in_dir(&dir).run().expect_status(0);
    let bytes = |name: &str| fs::read(dir.path().join(name)).expect("it was written");
    assert!(bytes("chat.st") == bytes("text.st"), "the template does not give these texts");
}

#[test]
fn what_is_no_conversation_is_refused_with_its_line() {
    let dir = Dir::new();
    model(&dir, "{{ raise_exception('System role not supported') }}");
    fs::write(dir.path().join("book.txt"), "Call me").expect("the folder can be written");
    let talk = json!({ "messages": [{ "role": "system", "content": "a" }], "talk": "b" }).to_string();
    fs::write(dir.path().join("talk.jsonl"), format!("\n{talk}\n")).expect("the folder can be written");
    let rows = [
        ("calibrate model st --text book.txt --chat", "`book.txt` holds no conversations", "without `--chat`"),
        ("calibrate model st --text talk.jsonl --chat", "`talk.jsonl`, line 2: the chat template of `model`", ""),
        ("calibrate model st --text talk.jsonl --chat", "refuses the conversation: System role not supported", ""),
        ("calibrate model st --text talk.jsonl --chat --field talk", "expected a list of messages", "`--field NAME`"),
        ("calibrate demo st --text talk.jsonl --chat", "has no chat template", "chat_template.jinja"),
        ("calibrate model st --text talk.jsonl --chat --chat-date 2023-02-29", "expected a day as YYYY-MM-DD", ""),
        ("calibrate model st --text talk.jsonl --chat-date 2023-02-28", "--chat", ""),
    ];
    for (words, error, hint) in rows {
        let ran = Cmd::new(words).in_dir(&dir).run().expect_status(2);
        assert!(ran.stderr.contains(error) && ran.stderr.contains(hint), "reweight {words}: {}", ran.stderr);
    }
    assert!(!dir.path().join("st").exists());
}

/// 2^40 kilobytes, made in one instruction: fuel comes too late, the watch does not. Only Linux tells how much memory there is in use.
#[cfg(target_os = "linux")]
#[test]
fn a_template_that_grows_within_one_instruction_is_stopped() {
    let dir = Dir::new();
    let doubling = "{% set a = [a, a] %}".repeat(40);
    model(&dir, &format!("{{% set a = 'x' * 1000 %}}{doubling}{{{{ a ~ '' }}}}"));
    let talk = json!({ "messages": [{ "role": "user", "content": "a" }] }).to_string();
    fs::write(dir.path().join("talk.jsonl"), talk).expect("the folder can be written");
    let ran = Cmd::new("calibrate model st --text talk.jsonl --chat").in_dir(&dir).run().expect_status(2);
    assert!(ran.stderr.contains("takes too much work or memory"), "{}", ran.stderr);
}
