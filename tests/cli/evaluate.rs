//! `calibrate` and `eval` on the bundled model and on what was made from it.

use std::fs;

use serde::Deserialize;

use crate::support::{Cmd, Dir};

/// What `eval` prints of a decoder. Every key is listed; another one is an error.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the set of keys and their types is what is checked")]
struct Evaluated {
    schema: u32,
    tokens: usize,
    nll: f64,
    nll_standard_error: f64,
    perplexity: f64,
    perplexity_standard_error: f64,
    reference_nll: Option<f64>,
    kl_mean: Option<f64>,
    kl_p99: Option<f64>,
    kl_max: Option<f64>,
    top1_agreement: Option<f64>,
    context: usize,
    windows: usize,
    texts: Vec<EvaluatedText>,
    seconds: f64,
    tokens_per_s: f64,
    peak_rss_bytes: usize,
    peak_anonymous_bytes: usize,
    kernels: String,
    threads: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the set of keys and their types is what is checked")]
struct EvaluatedText {
    text: String,
    tokens: usize,
    nll: f64,
    nll_standard_error: f64,
    perplexity: f64,
    reference_nll: Option<f64>,
    kl_mean: Option<f64>,
    kl_p99: Option<f64>,
    kl_max: Option<f64>,
    top1_agreement: Option<f64>,
}

fn evaluated(words: &str, dir: &Dir) -> Evaluated {
    Cmd::new(words).in_dir(dir).run().expect_status(0).document()
}

/// The model card of the bundled model: loss on its held-out text by transformers in f32, windows of 512.
const CARD_NLL: f64 = 3.2204;

#[test]
fn the_bundled_model_has_the_loss_of_its_card() {
    let found = evaluated("eval demo --json", &Dir::new());
    assert!((found.nll - CARD_NLL).abs() < 1e-4, "{} beside {CARD_NLL}", found.nll);
    assert!((found.perplexity - found.nll.exp()).abs() < 1e-9);
    assert_eq!((found.context, found.tokens), (512, found.windows * 511));
    assert_eq!(found.kl_mean, None);
}

#[test]
fn a_model_is_no_distance_from_itself_and_some_from_what_quantizing_left() {
    let dir = Dir::new();
    Cmd::new("quantize demo small --scheme int3-g64 -q").in_dir(&dir).run().expect_status(0);
    let same = evaluated("eval demo --reference demo --max-tokens 2048 --json", &dir);
    assert!(same.kl_max < Some(1e-9) && same.top1_agreement == Some(1.0), "{:?}", same.kl_max);
    write_heldout(&dir);
    let quantized = evaluated("eval small --reference demo --text demo.txt --max-tokens 2048 --json", &dir);
    assert!(
        quantized.kl_mean > Some(1e-3) && quantized.kl_mean <= quantized.kl_p99 && quantized.kl_p99 <= quantized.kl_max
    );
    assert!(quantized.nll > quantized.reference_nll.expect("there is a reference"));
    assert!(quantized.top1_agreement < Some(1.0));
    for (bound, status) in [("1e-3", 1), ("10", 0)] {
        let words = format!("eval small --reference demo --text demo.txt --max-tokens 1024 --fail-above {bound} -q");
        Cmd::new(&words).in_dir(&dir).run().expect_status(status);
    }
}

fn write_heldout(dir: &Dir) {
    fs::write(dir.path().join("demo.txt"), reweight::demo::HELDOUT_TEXT).expect("the folder can be written");
}

/// A part of a text of about so many bytes.
fn part(text: &str, from: usize, to: usize) -> &str {
    &text[text.floor_char_boundary(from)..text.floor_char_boundary(to)]
}

#[test]
fn several_texts_are_scored_apart_and_together() {
    let dir = Dir::new();
    let text = reweight::demo::HELDOUT_TEXT;
    let (a, b) = (part(text, 0, 40_000), part(text, 40_000, text.len()));
    fs::write(dir.path().join("a.txt"), a).expect("the folder can be written");
    let lines: Vec<String> = b.lines().map(|line| serde_json::json!({ "body": line }).to_string()).collect();
    fs::write(dir.path().join("b.jsonl"), lines.join("\n")).expect("the folder can be written");
    let found = evaluated("eval demo --text a.txt b.jsonl --field body --context 128 --max-tokens 4096 --json", &dir);
    let [first, second] = found.texts.as_slice() else { panic!("two texts") };
    assert_eq!((first.tokens, second.tokens), (16 * 127, 16 * 127));
    assert!((found.nll - f64::midpoint(first.nll, second.nll)).abs() < 1e-12);
}

#[test]
fn what_cannot_be_evaluated_is_named() {
    let dir = Dir::new();
    fs::write(dir.path().join("short.txt"), "a few words").expect("the folder can be written");
    let rows = [
        ("eval demo --text short.txt", "has 3 tokens", "give more text"),
        ("eval demo --text none.txt", "cannot read `none.txt`", ""),
        ("eval demo --context 1", "predicts nothing", "`--context 2`"),
        ("calibrate demo", "no file to write", "reweight calibrate MODEL STATS"),
        ("calibrate demo short.txt", "exists already", "--force"),
    ];
    for (words, error, hint) in rows {
        let ran = Cmd::new(words).in_dir(&dir).run().expect_status(2);
        assert!(ran.stderr.contains(error) && ran.stderr.contains(hint), "reweight {words}: {}", ran.stderr);
    }
}

/// What `calibrate` prints.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the set of keys and their types is what is checked")]
struct Calibrated {
    schema: u32,
    tokens: u64,
    windows: Option<usize>,
    inputs: Vec<CalibratedInput>,
    layers: usize,
    bytes_out: u64,
    seconds: f64,
    tokens_per_s: Option<f64>,
    peak_rss_bytes: usize,
    kernels: String,
    threads: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the set of keys and their types is what is checked")]
struct CalibratedInput {
    name: String,
    channels: usize,
    tokens: u64,
    gram: bool,
}

#[test]
fn statistics_do_not_depend_on_threads_and_halves_merge_to_the_whole() {
    let dir = Dir::new();
    let text = reweight::demo::CALIBRATION_TEXT;
    fs::write(dir.path().join("a.txt"), part(text, 0, 8_000)).expect("the folder can be written");
    fs::write(dir.path().join("b.txt"), part(text, 20_000, 29_000)).expect("the folder can be written");
    let options = "--context 256 --gram -q --json";
    for words in [
        format!("calibrate demo both.st --text a.txt b.txt {options}"),
        format!("calibrate demo single.st --text a.txt b.txt --threads 1 {options}"),
        format!("calibrate demo a.st --text a.txt {options}"),
        format!("calibrate demo b.st --text b.txt {options}"),
        "calibrate merged.st --merge b.st a.st --json".to_owned(),
    ] {
        let done: Calibrated = Cmd::new(&words).in_dir(&dir).run().expect_status(0).document();
        assert_eq!((done.layers, done.inputs.len()), (42, 24), "reweight {words}");
        assert!(done.inputs.iter().all(|input| input.gram && input.tokens == done.tokens), "reweight {words}");
    }
    let bytes = |name: &str| fs::read(dir.path().join(name)).expect("it was written");
    assert!(bytes("both.st") == bytes("single.st"), "threads change the statistics");
    assert!(bytes("both.st") == bytes("merged.st"), "two halves are not the whole");
    write_heldout(&dir);
    Cmd::new("calibrate other.st --merge a.st demo.txt").in_dir(&dir).run().expect_status(2);
}

/// What `inspect` prints of statistics.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the set of keys and their types is what is checked")]
struct Inspected {
    schema: u32,
    layout: String,
    tokens: u64,
    context: usize,
    texts: usize,
    layers: usize,
    inputs: Vec<InspectedInput>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the set of keys and their types is what is checked")]
struct InspectedInput {
    name: String,
    channels: usize,
    tokens: u64,
    gram: bool,
    abs_mean: f64,
    rms: f64,
    peak: f64,
}

#[test]
fn statistics_can_be_looked_at_and_a_cut_file_is_refused() {
    let dir = Dir::new();
    fs::write(dir.path().join("ids.jsonl"), "{\"text\": [1, 2, 3, 4, 5, 6, 7, 8]}\n")
        .expect("the folder can be written");
    Cmd::new("calibrate demo stats.safetensors --text ids.jsonl --context 4 -q").in_dir(&dir).run().expect_status(0);
    let found: Inspected = Cmd::new("inspect stats.safetensors --json").in_dir(&dir).run().expect_status(0).document();
    assert_eq!((found.tokens, found.context, found.texts, found.inputs.len()), (8, 4, 1, 24));
    assert!(found.inputs.iter().all(|input| input.rms > 0.0 && input.abs_mean <= input.rms && input.peak >= 1.0));
    let table = Cmd::new("inspect stats.safetensors --tensors *layers.0*").in_dir(&dir).run().expect_status(0).stdout;
    assert!(
        table.contains("statistics of 8 tokens in 1 text(s)") && table.contains("layers.0.mlp.down_proj"),
        "{table}"
    );
    let bytes = fs::read(dir.path().join("stats.safetensors")).expect("it was written");
    fs::write(dir.path().join("cut.safetensors"), &bytes[..bytes.len() - 8]).expect("the folder can be written");
    Cmd::new("calibrate again.st --merge cut.safetensors").in_dir(&dir).run().expect_status(2);
}

#[test]
fn an_importance_matrix_keeps_the_second_moments() {
    let dir = Dir::new();
    Cmd::new("calibrate demo stats.st --tokens 2000 -q").in_dir(&dir).run().expect_status(0);
    for name in ["imatrix.gguf", "imatrix.dat"] {
        Cmd::new(&format!("calibrate {name} --merge stats.st -q")).in_dir(&dir).run().expect_status(0);
        let back: Calibrated = Cmd::new(&format!("calibrate back-{name}.st --merge {name} --json"))
            .in_dir(&dir)
            .run()
            .expect_status(0)
            .document();
        // Every layer has an entry of its own there.
        assert_eq!(back.inputs.len(), 42, "{name}");
    }
}
