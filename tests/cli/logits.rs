//! `eval --save-logits`, and comparing with the file that it leaves.

use std::fs;

use serde::Deserialize;
use serde_json::Value;

use crate::support::{Cmd, Dir};
use crate::synthetic::{Random, Tensor, write_folder};

const TEXT: &str = "--text held-out.txt --context 128 --max-tokens 1024";

/// A folder with a text, a quantized model, and the logits of the bundled one.
fn prepared() -> Dir {
    let dir = Dir::new();
    fs::write(dir.path().join("held-out.txt"), reweight::demo::HELDOUT_TEXT).expect("the folder can be written");
    Cmd::new("quantize demo small --scheme int3-g64 -q").in_dir(&dir).run().expect_status(0);
    let saved = Cmd::new(&format!("eval demo {TEXT} --save-logits original.logits")).in_dir(&dir).run();
    let note = saved.expect_status(0).stderr;
    let found = fs::metadata(dir.path().join("original.logits")).expect("it was written").len();
    assert!(note.contains("original.logits will take ") && note.contains(" MB"), "{found} bytes: {note}");
    dir
}

/// What does not depend on the time it took.
fn figures(words: &str, dir: &Dir) -> Value {
    let mut document: Value = Cmd::new(words).in_dir(dir).run().expect_status(0).document();
    let object = document.as_object_mut().expect("an object");
    object.retain(|key, _| !["seconds", "tokens_per_s", "peak_rss_bytes", "peak_anonymous_bytes"].contains(&&**key));
    document
}

#[test]
fn saved_logits_give_the_figures_of_the_model_bit_for_bit() {
    let dir = prepared();
    let live = figures(&format!("eval small {TEXT} --reference demo --json"), &dir);
    for threads in [1, 2] {
        let words = format!("eval small {TEXT} --reference original.logits --threads {threads} --json");
        let mut saved = figures(&words, &dir);
        saved["threads"] = live["threads"].clone();
        assert_eq!(live, saved);
    }
    assert!(live["kl_mean"].as_f64() > Some(1e-3));
    let itself = figures(&format!("eval demo {TEXT} --reference original.logits --json"), &dir);
    assert_eq!(itself["top1_agreement"], 1.0);
}

#[test]
fn the_file_is_a_plain_safetensors_file_and_the_same_from_any_number_of_threads() {
    let dir = prepared();
    let words = format!("eval demo {TEXT} --save-logits single.safetensors --threads 1 --json -q");
    let again = figures(&words, &dir);
    let bytes = fs::read(dir.path().join("single.safetensors")).expect("it was written");
    assert!(bytes == fs::read(dir.path().join("original.logits")).expect("it was written"), "threads change the file");
    assert_eq!(again["logits_bytes"], bytes.len());
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("another reader takes it");
    let (names, rows): (Vec<_>, Vec<_>) =
        file.iter().map(|(name, tensor)| (name.to_owned(), tensor.shape().to_vec())).unzip();
    assert!(names.contains(&"logits.00000".to_owned()) && rows.iter().all(|shape| shape[0] == 8 * 127), "{rows:?}");
    // The loss that these logits give is the one that was printed.
    let ran = Cmd::new(&format!("eval small {TEXT} --reference single.safetensors --json")).in_dir(&dir).run();
    let against: Value = ran.expect_status(0).document();
    assert_eq!(against["reference_nll"], again["nll"]);
}

#[test]
fn several_slices_of_the_vocabulary_come_back_in_their_places() {
    const VOCABULARY: usize = 17_000;
    let dir = Dir::new();
    let random = &mut Random::new(7);
    let mut tensors = vec![Tensor::random("model.embed_tokens.weight", &[VOCABULARY, 32], random)];
    for name in ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"] {
        tensors.push(Tensor::random(&format!("model.layers.0.{name}.weight"), &[32, 32], random));
    }
    for (name, shape) in [("gate_proj", [64, 32]), ("up_proj", [64, 32]), ("down_proj", [32, 64])] {
        tensors.push(Tensor::random(&format!("model.layers.0.mlp.{name}.weight"), &shape, random));
    }
    for name in ["layers.0.input_layernorm", "layers.0.post_attention_layernorm", "norm"] {
        tensors.push(Tensor::bf16(&format!("model.{name}.weight"), &[32], [1.0; 32]));
    }
    let config = serde_json::json!({
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": VOCABULARY, "tie_word_embeddings": true,
        "rms_norm_eps": 1e-5, "hidden_act": "silu", "max_position_embeddings": 512, "rope_theta": 10000.0,
    });
    write_folder(&dir.path().join("wide"), &tensors, &config);
    let tokenizer = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo/tokenizer.json");
    fs::copy(tokenizer, dir.path().join("wide/tokenizer.json")).expect("the folder can be written");
    // Two windows, of more rows than are worked on together.
    let ids: Vec<usize> = (0..600).map(|i| i * 7919 % VOCABULARY).collect();
    fs::write(dir.path().join("ids.jsonl"), serde_json::json!({ "text": ids }).to_string())
        .expect("the folder can be written");
    Cmd::new("quantize wide narrow --scheme int2-g32 -q").in_dir(&dir).run().expect_status(0);
    let text = "--text ids.jsonl --context 300";
    Cmd::new(&format!("eval wide {text} --save-logits wide.logits -q")).in_dir(&dir).run().expect_status(0);
    let live = figures(&format!("eval narrow {text} --reference wide --json"), &dir);
    assert_eq!(live, figures(&format!("eval narrow {text} --reference wide.logits --json"), &dir));
    let bytes = fs::read(dir.path().join("wide.logits")).expect("it was written");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("another reader takes it");
    assert_eq!((file.len(), live["windows"].as_u64()), (3, Some(2)));
}

/// What `inspect` prints of logits.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Inspected {
    schema: u32,
    layout: String,
    tokens: usize,
    predictions: usize,
    context: usize,
    vocabulary: usize,
    bytes: u64,
    digest: String,
    model: String,
}

#[test]
fn inspect_says_what_it_is() {
    let dir = prepared();
    let found: Inspected = Cmd::new("inspect original.logits --json").in_dir(&dir).run().expect_status(0).document();
    assert_eq!((found.layout.as_str(), found.tokens, found.predictions, found.context), ("logits", 1024, 1016, 128));
    assert_eq!(found.bytes, fs::metadata(dir.path().join("original.logits")).expect("it was written").len());
    assert_eq!((found.digest.len(), found.model.len()), (64, 64));
    let text = Cmd::new("inspect original.logits").in_dir(&dir).run().expect_status(0).stdout;
    assert!(text.starts_with("logits of 1016 predictions over 1024 tokens, windows of up to 128"), "{text}");
}

/// The file with a part of its header replaced by another of the same length.
fn altered(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len(), "the header keeps its length");
    let length = u64::from_le_bytes(*bytes.first_chunk().expect("a header")) as usize;
    let header = std::str::from_utf8(&bytes[8..8 + length]).expect("the header is text");
    assert!(header.contains(from), "{from} is not in {header}");
    [&bytes[..8], header.replacen(from, to, 1).as_bytes(), &bytes[8 + length..]].concat()
}

#[test]
fn a_file_of_something_else_is_refused_with_what_was_expected_and_found() {
    let dir = prepared();
    let bytes = fs::read(dir.path().join("original.logits")).expect("it was written");
    let of: Inspected = Cmd::new("inspect original.logits --json").in_dir(&dir).run().expect_status(0).document();
    let vocabulary = of.vocabulary.to_string();
    let other_digit = |text: &str| text.replacen(&text[..1], if text.starts_with('1') { "2" } else { "1" }, 1);
    let vocabulary_key = format!("\"vocabulary\":\"{vocabulary}\"");
    let files: [(&str, Vec<u8>, &str); 10] = [
        ("cut", bytes[..bytes.len() - 4].to_vec(), "lie outside"),
        ("head", bytes[..100].to_vec(), "header: expected"),
        ("empty", Vec::new(), "header length: expected 8 bytes, found 0"),
        (
            "vocabulary",
            altered(&bytes, &vocabulary_key, &vocabulary_key.replace(&vocabulary, &other_digit(&vocabulary))),
            &format!("another vocabulary: expected {vocabulary}, found {}", other_digit(&vocabulary)),
        ),
        ("digest", altered(&bytes, &of.digest, &other_digit(&of.digest)), "another text: digest of tokens: expected"),
        ("version", altered(&bytes, "\"version\":\"1\"", "\"version\":\"9\""), "version: expected \"1\", found \"9\""),
        ("format", altered(&bytes, "reweight-logits", "reweight-losses"), "format: expected \"reweight-logits\""),
        (
            "number",
            altered(&bytes, "\"tokens\":\"1024\"", "\"tokens\":\"-024\""),
            "tokens: expected a number, found \"-024\"",
        ),
        ("dtype", altered(&bytes, "\"dtype\":\"F32\"", "\"dtype\":\"I32\""), "found \"logits.00000\" of I32"),
        ("name", altered(&bytes, "logits.00000", "logits.00009"), "expected tensor \"logits.00000\" of F32"),
    ];
    for (name, bytes, expected) in files {
        fs::write(dir.path().join(name), bytes).expect("the folder can be written");
        let ran = Cmd::new(&format!("eval small {TEXT} --reference {name}")).in_dir(&dir).run().expect_status(2);
        assert!(ran.stderr.contains(expected) && ran.stderr.contains(&format!("`{name}`")), "{name}: {}", ran.stderr);
    }
    let other = "--text held-out.txt --context 64 --max-tokens 1024";
    for (options, expected) in [
        (other, "another context: expected 64, found 128"),
        ("--text held-out.txt --context 128 --max-tokens 512", "number of tokens: expected 512, found 1024"),
    ] {
        let words = format!("eval small {options} --reference original.logits");
        let ran = Cmd::new(&words).in_dir(&dir).run().expect_status(2);
        assert!(ran.stderr.contains(expected) && ran.stderr.contains("--save-logits"), "{}", ran.stderr);
    }
    let fewer = fs::read_to_string(dir.path().join("held-out.txt")).expect("it was written").replacen("the", "a", 1);
    fs::write(dir.path().join("held-out.txt"), fewer).expect("the folder can be written");
    let ran = Cmd::new(&format!("eval small {TEXT} --reference original.logits")).in_dir(&dir).run().expect_status(2);
    assert!(ran.stderr.contains("another text"), "{}", ran.stderr);
}

#[test]
fn nothing_is_replaced_or_left_half_written() {
    let dir = prepared();
    let before = dir.names();
    let again = Cmd::new(&format!("eval demo {TEXT} --save-logits original.logits")).in_dir(&dir).run();
    assert!(again.expect_status(2).stderr.contains("`original.logits` exists already"));
    let words = format!("eval small {TEXT} --context 64 --reference original.logits --save-logits other.logits");
    Cmd::new(&words.replacen("--context 128 ", "", 1)).in_dir(&dir).run().expect_status(2);
    assert_eq!(dir.names(), before, "a run that failed left something");
    Cmd::new(&format!("eval demo {TEXT} --save-logits original.logits --force -q")).in_dir(&dir).run().expect_status(0);
    assert_eq!(dir.names(), before);
}
