//! Adapters as patches: llama.cpp's GGUF files beside the PEFT folder that they were converted from, and adapters made of a difference.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::patch::{assert_same, run};
use crate::support::{Cmd, Dir};
use crate::synthetic::{Random, Tensor, write_folder};

/// Made by PEFT 0.21.2 and converted by `convert_lora_to_gguf.py` of llama-cpp-python 0.3.36 (tools/make-lora-fixture.py).
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lora").join(name)
}

/// Folder `base`, of the fixture's configuration.
fn workshop() -> Dir {
    let dir = Dir::new();
    let mut random = Random::new(17);
    let config: Value =
        serde_json::from_slice(&fs::read(fixture("config.json")).expect("it is committed")).expect("JSON");
    let block = |name: &str| format!("model.layers.0.{name}.weight");
    let mut weights = vec![
        Tensor::random("model.embed_tokens.weight", &[10, 24], &mut random),
        Tensor::random("lm_head.weight", &[10, 24], &mut random),
        Tensor::random("model.norm.weight", &[24], &mut random),
    ];
    for (name, shape) in [
        ("self_attn.q_proj", &[32, 24][..]),
        ("self_attn.k_proj", &[16, 24]),
        ("self_attn.v_proj", &[16, 24]),
        ("self_attn.o_proj", &[24, 32]),
        ("mlp.gate_proj", &[40, 24]),
        ("mlp.up_proj", &[40, 24]),
        ("mlp.down_proj", &[24, 40]),
        ("input_layernorm", &[24]),
        ("post_attention_layernorm", &[24]),
    ] {
        weights.push(Tensor::random(&block(name), shape, &mut random));
    }
    write_folder(&dir.path().join("bf16"), &weights, &config);
    run(&dir, "convert bf16 base --to f32");
    dir
}

fn add(dir: &Dir, base: &str, target: &str, patch: &Path) {
    Cmd::new(&format!("patch add {base} {target} --patch")).arg(patch).in_dir(dir).run().expect_status(0);
}

#[test]
fn a_gguf_adapter_is_the_folder_that_it_was_converted_from() {
    let dir = workshop();
    add(&dir, "base", "peft", &fixture("adapter"));
    add(&dir, "base", "gguf", &fixture("f32.gguf"));
    let weights = |model: &str| fs::read(dir.path().join(model).join("model.safetensors")).expect("the weights");
    assert!(weights("peft") == weights("gguf") && weights("peft") != weights("base"));
    let listed: Value = run(&dir, "patch list gguf --json").document();
    assert_eq!((&listed["patches"][0]["kind"], &listed["patches"][0]["name"]), (&json!("lora"), &json!("f32")));
    run(&dir, "patch remove gguf back --all");
    assert_same(&dir, "base", "back");
    // On a GGUF file, whose queries and keys are in another order.
    run(&dir, "quantize base base.gguf --to gguf --scheme f32");
    add(&dir, "base.gguf", "on.gguf", &fixture("f32.gguf"));
    let same: Value = run(&dir, "diff peft on.gguf --json").document();
    assert_eq!(same["identical"], json!(true), "{same}");
    // Factors in F16, and one in Q8_0, that tensor by tensor are off by less than a hundredth of the change.
    add(&dir, "base", "coarse", &fixture("q8_0.gguf"));
    let squared = |a: &str, b: &str| -> BTreeMap<String, f64> {
        let found: Value = run(&dir, &format!("diff {a} {b} --json")).document();
        let rows = found["tensors"].as_array().expect("a list").iter();
        rows.filter_map(|row| Some((row["name"].as_str()?.to_owned(), row["mse"].as_f64()?))).collect()
    };
    let (change, off) = (squared("base", "peft"), squared("peft", "coarse"));
    assert_eq!(change.values().filter(|mse| **mse > 0.0).count(), 6);
    for (name, off) in off {
        let change = change.get(&name).copied().unwrap_or(0.0);
        assert!(off <= 1e-4 * change, "{name}: {off} of {change}");
    }
}

#[test]
fn a_gguf_adapter_for_something_else_is_refused() {
    let dir = workshop();
    let config = fs::read_to_string(dir.path().join("base/config.json")).expect("it was written");
    run(&dir, "quantize base base.gguf --to gguf --scheme f32");
    let refused = |words: &str, patch: &Path, expected: &str| {
        let ran = Cmd::new(words).arg(patch).in_dir(&dir).run().expect_status(2);
        assert!(ran.stderr.contains(expected), "{words}: {}", ran.stderr);
        assert!(!dir.path().join("x").exists(), "{words}");
    };
    let adapter = fixture("f32.gguf");
    refused("patch add base x --patch", Path::new("base.gguf"), "general.type \"model\" (expected \"adapter\")");
    refused(&format!("patch compare {}", adapter.display()), &adapter, "without the model that it is for");
    refused("patch add base/model.safetensors x --patch", &adapter, "config.json");
    for (from, to, expected) in [
        ("\"model_type\": \"llama\"", "\"model_type\": \"qwen2\"", "general.architecture \"llama\""),
        ("\"num_attention_heads\": 4", "\"num_attention_heads\": 5", "32 rows are not those of the model's heads"),
        ("\"num_hidden_layers\": 1", "\"num_hidden_layers\": 0", "tensor \"blk.0."),
    ] {
        assert!(config.contains(from), "{from} in {config}");
        fs::write(dir.path().join("base/config.json"), config.replace(from, to)).expect("it can be written");
        refused("patch add base x --patch", &adapter, expected);
    }
}

#[test]
fn a_difference_becomes_an_adapter_of_the_energy_that_is_told() {
    let dir = crate::patch::workshop();
    for name in ["clean", "fog"] {
        run(&dir, &format!("convert {name} {name}-f32 --to f32"));
    }
    for (rank, whole) in [("2", false), ("300", true)] {
        let told: Value =
            run(&dir, &format!("patch diff clean-f32 fog-f32 adapter --rank {rank} --force --json")).document();
        run(&dir, "patch add clean-f32 on --patch adapter");
        let left: Value = run(&dir, "diff on fog-f32 --json").document();
        let rows = told["tensors"].as_array().expect("a list");
        assert_eq!(rows.len(), 6);
        for row in rows {
            let name = row["name"].as_str().expect("a name");
            let (energy, kept) = (row["energy"].as_f64().expect("it"), row["energy_kept"].as_f64().expect("it"));
            let shape = row["shape"].as_array().expect("a shape");
            let elements: f64 = shape.iter().filter_map(Value::as_f64).product();
            let found = left["tensors"].as_array().expect("a list").iter().find(|other| other["name"] == row["name"]);
            let rest = found.and_then(|found| found["mse"].as_f64()).unwrap_or(0.0) * elements;
            // Factors are rounded to f32.
            assert!((energy - kept - rest).abs() <= 1e-6 * energy, "{rank}, {name}: {energy} - {kept} is not {rest}");
            assert_eq!(row["singular_values"].is_null(), shape.len() == 1, "{name}");
            assert!(!whole || shape.len() == 1 || kept >= energy * (1.0 - 1e-9), "{name} is whole at full rank");
        }
        run(&dir, "patch remove on off --all");
        assert_same(&dir, "clean-f32", "off");
        fs::remove_dir_all(dir.path().join("on")).expect("it was made");
        fs::remove_dir_all(dir.path().join("off")).expect("it was made");
    }
    let ran = Cmd::new("patch diff clean-f32 fog-f32 clean --rank 2 --force").in_dir(&dir).run().expect_status(2);
    assert!(ran.stderr.contains("adapter_config.json"), "{}", ran.stderr);
    run(&dir, "patch diff clean-f32 fog-f32 none --rank 2 --dry-run");
    assert!(!dir.path().join("none").exists());
    let ran = Cmd::new("patch diff clean-f32 clean-f32 none --rank 2").in_dir(&dir).run().expect_status(2);
    assert!(ran.stderr.contains("no tensor differs"), "{}", ran.stderr);
}
