//! `--for ENGINE`: what an engine would not load, said before a run and of what is there.

use serde_json::{Value, json};

use crate::support::{Cmd, Dir, Ran};
use crate::synthetic::{Random, Tensor, write_folder};

fn run(dir: &Dir, words: &str) -> Ran {
    Cmd::new(words).in_dir(dir).run()
}

/// A block of a model whose sizes are no multiples of 64, and one that engines like.
fn source() -> Dir {
    let dir = Dir::new();
    let random = &mut Random::new(41);
    for (folder, width) in [("odd", 96), ("even", 128)] {
        let weights: Vec<Tensor> = ["q_proj", "k_proj", "v_proj", "o_proj"]
            .iter()
            .map(|name| Tensor::random(&format!("model.layers.0.self_attn.{name}.weight"), &[width, width], random))
            .collect();
        write_folder(&dir.path().join(folder), &weights, &json!({ "model_type": "llama" }));
    }
    dir
}

/// Source, options of `quantize`, engine, whether it loads, and a part of each finding.
const ROWS: [(&str, &str, &str, bool, &[&str]); 15] = [
    ("even", "--scheme int4-g128", "vllm", true, &[]),
    ("even", "--scheme int4-g128-sym", "transformers", true, &[]),
    ("even", "--scheme int3-g64", "vllm", false, &["with zero points has 4 or 8 bits"]),
    ("even", "--scheme int3-g64-sym", "vllm", true, &["need a version of mid-2026"]),
    ("even", "--tensor *q_proj*=int8-g32-sym --scheme int4-g128-sym", "vllm", false, &["need one scheme"]),
    ("even", "--tensor *q_proj*=int8-g32-sym --scheme int4-g128-sym", "transformers", true, &[]),
    ("even", "--tensor *q_proj*=int8-g32 --scheme int4-g128-sym", "transformers", false, &["all are symmetric"]),
    ("even", "--keep *v_proj*", "vllm", false, &["need one scheme"]),
    ("odd", "--scheme int4-g32-sym", "vllm", true, &["multiples of 64"]),
    ("even", "--to awq", "vllm", true, &[]),
    ("even", "--to awq", "transformers", true, &["gptqmodel"]),
    ("even", "--to gptq --scheme int2-g64-sym", "vllm", true, &["ExLlama"]),
    ("even", "--to gptq-v2 --scheme int4-g64", "vllm", true, &["version 2 of GPTQ", "ExLlama"]),
    ("even", "--to awq", "llama.cpp", false, &["reads GGUF alone"]),
    ("even", "", "llama.cpp", false, &["reads GGUF alone"]),
];

#[test]
fn what_is_said_before_is_what_is_said_after() {
    let dir = source();
    let mut failures = Vec::new();
    for (index, (source, options, engine, loads, parts)) in ROWS.into_iter().enumerate() {
        let before = run(&dir, &format!("quantize {source} t --dry-run {options} --for {engine}"));
        run(&dir, &format!("quantize {source} t{index} {options}")).expect_status(0);
        let after = run(&dir, &format!("inspect t{index} --for {engine} --json"));
        let told: Value = after.document();
        let findings = told["engine"]["findings"].as_array().expect("findings are a list");
        let found: Vec<String> = findings.iter().map(ToString::to_string).collect();
        let as_expected =
            found.len() == parts.len() && parts.iter().zip(&found).all(|(part, found)| found.contains(part));
        let told_before = parts.iter().all(|part| before.stderr.contains(part));
        let statuses = (before.status, after.status, told["engine"]["loads"].as_bool());
        let expected = if loads { (0, 0, Some(true)) } else { (2, 1, Some(false)) };
        if !as_expected || !told_before || statuses != expected {
            failures.push(format!("{source} {options} {engine}: {statuses:?} {found:?}\n{}", before.stderr));
        }
    }
    assert!(failures.is_empty(), "{} rows fail:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn a_model_that_does_not_load_is_told_in_words() {
    let dir = source();
    run(&dir, "quantize even t --keep *v_proj*").expect_status(0);
    let ran = run(&dir, "inspect t --for vllm").expect_status(1);
    let expected = "vLLM does not load it\n  refused: the parts of a layer that it fuses need one scheme: \
                    model.layers.0.self_attn.qkv_proj [vLLM, layers/quantization/compressed_tensors/utils.py";
    assert!(ran.stdout.contains(expected), "{}", ran.stdout);
    let ran = run(&dir, "inspect even --for transformers").expect_status(0);
    assert!(ran.stdout.contains("transformers loads it, as far as its limits tell"), "{}", ran.stdout);
    let ran = run(&dir, "quantize even u --keep *v_proj* --for vllm").expect_status(2);
    assert!(ran.stderr.contains("vLLM would not load the target") && ran.stderr.contains("\nhint: "), "{}", ran.stderr);
    assert!(!dir.path().join("u").exists());
}
