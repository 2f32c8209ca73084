//! Weights near a decision boundary: what `inspect --stats` and the report of `quantize` say of them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::support::{Cmd, Dir, Ran};

/// What `inspect --stats` prints. Every key is listed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the set of keys and their types is what is checked")]
struct Inspected {
    schema: u32,
    layout: String,
    model_type: Option<String>,
    quant_method: Option<String>,
    n_tensors: usize,
    n_parameters: usize,
    bytes: usize,
    bits_per_weight: f64,
    stored_as: BTreeMap<String, usize>,
    band: f64,
    tensors: Vec<Tensor>,
    files: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the set of keys and their types is what is checked")]
struct Tensor {
    name: String,
    shape: Vec<usize>,
    stored_as: String,
    role: String,
    bytes: usize,
    stats: Option<Stats>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stats {
    kurtosis: f64,
    skew: f64,
    scheme: Option<String>,
    low_confidence: Option<f64>,
}

fn run(dir: &Dir, words: &str) -> Ran {
    Cmd::new(words).in_dir(dir).run()
}

/// Shares by tensor.
fn shares(inspected: &Inspected) -> BTreeMap<&str, f64> {
    let stats = inspected.tensors.iter().filter_map(|tensor| Some((tensor.name.as_str(), tensor.stats.as_ref()?)));
    stats.filter_map(|(name, stats)| Some((name, stats.low_confidence?))).collect()
}

#[test]
fn the_shares_that_inspect_expects_are_about_those_that_quantize_finds() {
    let dir = Dir::new();
    let before: Inspected =
        run(&dir, "inspect demo --stats --scheme int3-g64 --band 0.05 --json").expect_status(0).document();
    assert!((before.band - 0.05).abs() < 1e-12);
    let expected = shares(&before);
    assert!(expected.len() > 8, "{expected:?}");
    let linear = before.tensors.iter().filter(|tensor| tensor.role == "linear");
    for tensor in linear {
        let stats = tensor.stats.as_ref().unwrap_or_else(|| panic!("{} is looked at", tensor.name));
        assert_eq!(stats.scheme.as_deref(), Some("int3-g64"), "{}", tensor.name);
        assert!(stats.kurtosis > 1.0 && stats.skew.abs() < 3.0, "{}", tensor.name);
    }

    let done: Value = run(&dir, "quantize demo t --scheme int3-g64 --band 0.05 --json").expect_status(0).document();
    assert_eq!(done["band"], 0.05);
    let tensors = done["tensors"].as_array().expect("there are tensors");
    let found: BTreeMap<&str, f64> =
        tensors.iter().filter_map(|t| Some((t["name"].as_str()?, t["low_confidence"].as_f64()?))).collect();
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, share) in &found {
        // Places are nearly uniform between two boundaries: a band to both sides is a tenth of a step.
        assert!((0.05..0.15).contains(share), "{name}: {share}");
        // 256 rows of some ten thousand weights: a standard error of a three-hundredth.
        assert!((share - expected[name]).abs() < 0.02, "{name}: {share} and {}", expected[name]);
    }

    let after: Inspected = run(&dir, "inspect t --stats --json").expect_status(0).document();
    assert_eq!(shares(&after), found);
    assert!((after.band - 0.05).abs() < 1e-12);
    let text = run(&dir, "inspect t --stats").expect_status(0).stdout;
    assert!(text.contains("low confidence: within 0.05 steps of where rounding would go the other way"), "{text}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let dir = Dir::new();
    run(&dir, "quantize demo t --method rtn --quiet").expect_status(0);
    for (words, why) in [
        ("inspect demo --band 0.1", "--stats"),
        ("inspect demo --stats --band 0.6", "expected a number of steps from 0 to 0.5"),
        ("inspect demo --stats --scheme q4_k_m", "q4_k_m"),
        ("inspect t --stats --scheme int3-g64", "`t` is quantized already"),
        ("quantize demo g.gguf --to gguf --band 0.1", "--band"),
    ] {
        let ran = run(&dir, words).expect_status(2);
        assert!(ran.stderr.contains(why), "{words}: {}", ran.stderr);
    }
}
