//! Nothing is lost: no output takes the place of a source, of what is no model, or of numbers that a type does not hold.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Cmd, Dir, Ran};
use crate::synthetic::{Random, Tensor, files, write_file, write_folder};

#[track_caller]
fn run(dir: &Dir, words: &str) -> Ran {
    Cmd::new(words).in_dir(dir).run()
}

/// The bundled model in a folder, as a source that may not change.
fn source() -> Dir {
    let dir = Dir::new();
    run(&dir, "convert demo s --to bf16").expect_status(0);
    dir
}

#[test]
fn no_output_beside_a_model_replaces_a_file_of_a_source() {
    let dir = source();
    let before = files(&dir.path().join("s"));
    let lines = [
        "quantize s t --method rtn --report s/config.json",
        "quantize s t --method rtn --report s/config.json --force",
        "quantize s t --method awq --text demo --scales-out s/model.safetensors --force",
        "plan s --target-bpw 4 --recipe-out s/config.json --force",
        "calibrate s s/model.safetensors --text demo --force",
        "eval s --text demo --save-logits s/tokenizer.json --force",
        "patch diff s s s/model.safetensors --force",
        "quantize s/model.safetensors s --method rtn --force",
    ];
    for line in lines {
        let ran = run(&dir, line).expect_status(2);
        assert!(ran.stderr.contains("the source"), "`{line}`: {}", ran.stderr);
        assert!(before == files(&dir.path().join("s")), "`{line}` changed its source");
    }
    assert_eq!(dir.names(), ["s"]);
}

#[test]
fn a_file_with_no_folder_to_be_in_is_told_before_the_work() {
    let dir = source();
    for line in
        ["quantize s t --method rtn --report nowhere/r.json", "plan s --target-bpw 4 --recipe-out nowhere/r.toml"]
    {
        let ran = run(&dir, line).expect_status(2);
        assert!(ran.stderr.contains("there is no folder"), "`{line}`: {}", ran.stderr);
    }
    assert_eq!(dir.names(), ["s"]);
}

#[test]
fn force_replaces_models_only() {
    let dir = source();
    fs::create_dir(dir.path().join("letters")).expect("made");
    fs::write(dir.path().join("letters/one.txt"), "dear").expect("written");
    fs::write(dir.path().join("letter"), "dear").expect("written");
    fs::create_dir(dir.path().join("empty")).expect("made");
    for target in ["letters", "letter", ".", ".."] {
        let ran = run(&dir, &format!("quantize demo {target} --method rtn --force")).expect_status(2);
        assert!(ran.stderr.contains("is no model") || ran.stderr.contains("a name"), "{target}: {}", ran.stderr);
    }
    assert_eq!(fs::read_to_string(dir.path().join("letters/one.txt")).expect("still there"), "dear");
    assert_eq!(fs::read_to_string(dir.path().join("letter")).expect("still there"), "dear");
    run(&dir, "quantize demo empty --method rtn --force").expect_status(0);
    run(&dir, "quantize demo empty --method rtn --scheme int3-g64 --force").expect_status(0);
    run(&dir, "verify empty").expect_status(0);
}

#[test]
fn a_part_of_a_split_source_is_not_replaced() {
    let dir = source();
    run(&dir, "quantize s g --to gguf --scheme q8_0 --max-shard-size 2MB").expect_status(0);
    let before = files(&dir.path().join("g"));
    let names: Vec<&String> = before.keys().collect();
    assert!(names.len() > 2, "{names:?}");
    let line = format!("quantize g/{} g/{} --to gguf --scheme q4_0 --force", names[0], names[1]);
    let ran = run(&dir, &line).expect_status(2);
    assert!(before == files(&dir.path().join("g")), "{}", ran.stderr);
}

fn llama(up: impl Fn(usize) -> f32) -> (Vec<Tensor>, Value) {
    let mut random = Random::new(7);
    let mut tensors = vec![
        Tensor::random("model.embed_tokens.weight", &[64, 64], &mut random),
        Tensor::random("model.norm.weight", &[64], &mut random),
    ];
    for name in ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj"] {
        tensors.push(Tensor::random(&format!("model.layers.0.{name}.weight"), &[64, 64], &mut random));
    }
    for name in ["input_layernorm", "post_attention_layernorm"] {
        tensors.push(Tensor::random(&format!("model.layers.0.{name}.weight"), &[64], &mut random));
    }
    tensors.push(Tensor::f32("model.layers.0.mlp.up_proj.weight", &[64, 64], (0..64 * 64).map(up)));
    tensors.push(Tensor::random("model.layers.0.mlp.down_proj.weight", &[64, 64], &mut random));
    let config = json!({
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 2, "vocab_size": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
        "max_position_embeddings": 64,
    });
    (tensors, config)
}

/// Numbers that f16 does not hold are not made infinite, and scales are not cut off, in whatever they were to be stored.
#[test]
fn what_a_type_does_not_hold_is_an_error_that_names_the_tensor() {
    let dir = Dir::new();
    let (tensors, config) = llama(|index| if index == 100 { 2e7 } else { 0.01 });
    write_folder(&dir.path().join("s"), &tensors, &config);
    let lines = [
        "quantize s t.gguf --scheme f16",
        "quantize s t.gguf --scheme q4_0",
        "quantize s t.gguf --scheme q8_0 --method rtn",
        "quantize s t --scheme int4-g64-sym --scale-dtype f16 --method rtn",
        "quantize s t --scheme int4-g64-sym --to gptq --method rtn",
    ];
    for line in lines {
        let ran = run(&dir, line).expect_status(2);
        let named = ran.stderr.contains("mlp.up_proj.weight") && ran.stderr.contains("at index 100");
        assert!(named && ran.stderr.contains("20000000"), "`{line}`: {}", ran.stderr);
    }
    run(&dir, "quantize s t.gguf --scheme bf16").expect_status(0);
    run(&dir, "quantize s t --scheme int4-g64-sym --scale-dtype bf16 --method rtn").expect_status(0);
}

#[test]
fn floats_may_be_infinite_where_they_are_kept() {
    let dir = Dir::new();
    let (tensors, config) = llama(|index| if index == 100 { f32::INFINITY } else { 0.01 });
    write_folder(&dir.path().join("s"), &tensors, &config);
    let ran = run(&dir, "quantize s t.gguf --scheme q4_0").expect_status(2);
    assert!(ran.stderr.contains("mlp.up_proj.weight") && ran.stderr.contains("--keep"), "{}", ran.stderr);
    run(&dir, "quantize s t.gguf --scheme q4_0 --keep *up_proj*").expect_status(0);
}

#[test]
fn an_empty_tensor_is_told_before_a_gguf_file_is_made() {
    let dir = Dir::new();
    let (mut tensors, config) = llama(|_| 0.01);
    for tensor in tensors.iter_mut().filter(|tensor| tensor.name == "model.norm.weight") {
        (tensor.shape, tensor.bytes) = (vec![0], Vec::new());
    }
    write_folder(&dir.path().join("s"), &tensors, &config);
    let ran = run(&dir, "quantize s t.gguf --scheme f16").expect_status(2);
    assert!(ran.stderr.contains("model.norm.weight"), "{}", ran.stderr);
    assert_eq!(dir.names(), ["s"]);
}

#[test]
fn names_in_a_gguf_file_are_verified_too() {
    let dir = source();
    run(&dir, "quantize s t.gguf --scheme q8_0").expect_status(0);
    let path = dir.path().join("t.gguf");
    let mut bytes = fs::read(&path).expect("written");
    let at = |bytes: &[u8], name: &[u8]| bytes.windows(name.len()).position(|window| window == name).expect("a name");
    let (k, v) = (at(&bytes, b"blk.0.attn_k.weight"), at(&bytes, b"blk.0.attn_v.weight"));
    (bytes[k + 11], bytes[v + 11]) = (b'v', b'k');
    fs::write(&path, bytes).expect("written");
    let ran = run(&dir, "verify t.gguf").expect_status(1);
    assert!(ran.stdout.contains("metadata"), "{}", ran.stdout);
}

#[test]
fn a_recipe_that_names_one_part_of_a_layer_has_its_way() {
    let dir = source();
    fs::write(
        dir.path().join("r.toml"),
        "schema = 1\n[tensors]\n\"model.layers.0.mlp.up_proj.weight\" = \"int4-g64\"\n",
    )
    .expect("written");
    let document: Value = run(&dir, "quantize s t --method rtn --recipe r.toml --json").expect_status(0).document();
    let quantized: Vec<&str> = document["tensors"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|tensor| tensor["scheme"] == "int4-g64")
        .filter_map(|tensor| tensor["name"].as_str())
        .collect();
    assert_eq!(quantized, ["model.layers.0.mlp.up_proj.weight"]);
}

#[test]
fn a_recipe_or_a_budget_of_other_levels_finds_their_layout() {
    let dir = source();
    run(&dir, "plan s --target-bpw 2.6 --schemes statsq2,statsq3 --recipe-out r.toml").expect_status(0);
    run(&dir, "quantize s t --method rtn --recipe r.toml").expect_status(0);
    for engine in ["vllm", "transformers"] {
        let ran = run(&dir, &format!("inspect t --for {engine}")).expect_status(1);
        assert!(ran.stdout.contains("own"), "{}", ran.stdout);
    }
    run(&dir, "quantize s b --method rtn --to reweight --target-bpw 4").expect_status(0);
}

#[test]
fn layers_cannot_be_tried_on_nothing_to_predict() {
    let dir = source();
    fs::write(dir.path().join("one.txt"), "a").expect("written");
    for line in [
        "quantize s t --target-bpw 3 --schemes int2-g64,int4-g64 --text one.txt --method rtn",
        "plan s --target-bpw 3 --schemes int2-g64,int4-g64 --text demo --probe-tokens 1",
    ] {
        let ran = run(&dir, line).expect_status(2);
        assert!(ran.stderr.contains("to predict"), "`{line}`: {}", ran.stderr);
    }
}

#[test]
fn a_master_makes_gguf_files_too() {
    let dir = source();
    run(&dir, "quantize s m --scheme int8-g32 --method search --text demo --tokens 1024 --keep-stats").expect_status(0);
    run(&dir, "quantize m t.gguf --scheme q4_0").expect_status(0);
    run(&dir, "quantize s n --scheme int4-g32 --method rtn").expect_status(0);
    run(&dir, "quantize n u.gguf --scheme q4_0").expect_status(2);
}

/// One `.safetensors` file is a model as well.
#[test]
fn a_target_named_like_a_file_of_weights_is_replaced_as_one() {
    let dir = Dir::new();
    write_file(&dir.path().join("a.safetensors"), &llama(|_| 0.01).0);
    run(&dir, "convert a.safetensors b.safetensors --to bf16").expect_status(0);
    run(&dir, "convert a.safetensors b.safetensors --to f32").expect_status(2);
    run(&dir, "convert a.safetensors b.safetensors --to f32 --force").expect_status(0);
}
