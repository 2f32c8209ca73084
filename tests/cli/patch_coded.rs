//! Patches on quantized models: the touched tensors are quantized again, and the base's own bytes come back.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::convert::llama;
use crate::patch::{assert_same, run, tuned};
use crate::support::{Cmd, Dir};
use crate::synthetic::{Random, Tensor, tensors, write_file, write_folder};

/// The weights of a folder, to be made again.
fn read(folder: &Path, skip: &[&str]) -> Vec<Tensor> {
    let config = fs::read(folder.join("model.safetensors")).expect("the weights are there");
    let length = u64::from_le_bytes(*config.first_chunk().expect("a header")) as usize;
    let header: Value = serde_json::from_slice(&config[8..8 + length]).expect("JSON");
    let shape = |name: &str| -> Vec<usize> {
        header[name]["shape"].as_array().expect("a shape").iter().filter_map(|n| Some(n.as_u64()? as usize)).collect()
    };
    let all = tensors(&folder.join("model.safetensors")).into_iter();
    let kept = all.filter(|(name, _)| !skip.iter().any(|skip| name.contains(skip)));
    kept.map(|(name, bytes)| Tensor { shape: shape(&name), name, dtype: "BF16", bytes }).collect()
}

/// A llama `source`, two models near it, and patches from it to them: `a.patch` in f32, `b.patch` in 4 bits.
pub(crate) fn workshop() -> Dir {
    let dir = llama();
    let source = read(&dir.path().join("source"), &[]);
    let config: Value =
        serde_json::from_slice(&fs::read(dir.path().join("source/config.json")).expect("it is there")).expect("JSON");
    for (name, seed) in [("near", 5), ("other", 6)] {
        write_folder(&dir.path().join(name), &tuned(&source, seed), &config);
    }
    run(&dir, "patch diff source near a.patch");
    run(&dir, "patch diff source other b.patch --bits 4");
    dir
}

/// Squared differences of two models, summed over the tensors that hold `part` in their name.
fn squared(dir: &Dir, a: &str, b: &str, part: &str) -> f64 {
    let found: Value = run(dir, &format!("diff {a} {b} --json")).document();
    let rows = found["tensors"].as_array().expect("a list").clone();
    let n = |name: &str| if name.contains("mlp") { 512.0 * 256.0 } else { 256.0 * 256.0 };
    let rows = rows.iter().filter_map(|row| Some((row["name"].as_str()?, row["mse"].as_f64()?)));
    rows.filter(|(name, _)| name.contains(part)).map(|(name, mse)| mse * n(name)).sum()
}

/// Adding in any order is the same, removing gives the base byte for byte, and what is said to survive does.
#[track_caller]
fn goes_round(dir: &Dir, base: &str, extension: &str, options: &str) {
    let name = |name: &str| format!("{name}{extension}");
    let told: Value =
        run(dir, &format!("patch add {base} {} --patch a.patch=2{options} --json", name("one"))).document();
    let survived = told["patches"][0]["survived"].as_f64().expect("the share is told");
    assert!((0.0..=1.0).contains(&survived), "{base}: {survived}");
    run(dir, &format!("patch add {} {} --patch b.patch=-1{options}", name("one"), name("both")));
    run(dir, &format!("patch add {base} {} --patch b.patch{options}", name("other-one")));
    run(dir, &format!("patch add {} {} --patch a.patch{options}", name("other-one"), name("other-two")));
    run(dir, &format!("patch scale {} {} a=2 b=-1", name("other-two"), name("again")));
    run(dir, &format!("patch add {base} {} --patch b.patch=-1 a.patch=2{options} --threads 1", name("once")));
    for model in ["again", "once"] {
        same(dir, &name("both"), &name(model));
    }
    run(dir, &format!("patch remove {} {} b", name("both"), name("without")));
    same(dir, &name("one"), &name("without"));
    run(dir, &format!("patch verify {}", name("both")));
    run(dir, &format!("patch remove {} {} --all", name("both"), name("back")));
    same(dir, base, &name("back"));
    run(dir, &format!("patch add {} --in-place --patch b.patch{options}", name("one")));
    run(dir, &format!("patch remove {} --in-place --all", name("one")));
    same(dir, base, &name("one"));
}

#[track_caller]
fn same(dir: &Dir, a: &str, b: &str) {
    let (left, right) = (dir.path().join(a), dir.path().join(b));
    if left.is_dir() {
        return assert_same(dir, a, b);
    }
    assert!(fs::read(left).expect("a model") == fs::read(right).expect("a model"), "{a} and {b} are the same");
}

#[test]
fn containers_are_quantized_again_and_come_back() {
    for (container, options) in [
        ("compressed-tensors", "--scheme int4-g32"),
        ("compressed-tensors", "--scheme int3-g64-sym --method rtn"),
        ("awq", "--scheme int4-g32 --dtype f16"),
        ("gptq", "--scheme int4-g32-sym --dtype f16"),
        ("gptq-v2", "--scheme int8-channel --dtype f16"),
    ] {
        let dir = workshop();
        run(&dir, &format!("quantize source base --to {container} {options}"));
        goes_round(&dir, "base", "", "");
    }
}

#[test]
fn gguf_blocks_are_quantized_again_and_come_back() {
    for scheme in ["q4_0", "q8_0", "q4_k", "q6_k", "iq4_nl", "f16"] {
        let dir = workshop();
        run(&dir, &format!("quantize source base.gguf --to gguf --scheme {scheme}"));
        run(&dir, "patch add base.gguf t.gguf --patch a.patch --transfer");
        let told: Value = run(&dir, "patch list t.gguf --json").document();
        assert_eq!(told["patches"][0]["survived"].is_null(), scheme == "f16", "{scheme}: {told}");
        run(&dir, "patch remove t.gguf back.gguf --all");
        same(&dir, "base.gguf", "back.gguf");
    }
}

#[test]
fn gguf_stacks_in_any_order() {
    let dir = workshop();
    run(&dir, "quantize source base.gguf --to gguf --scheme q4_k");
    // A GGUF file does not say what it was made from.
    goes_round(&dir, "base.gguf", ".gguf", " --transfer");
}

#[test]
fn the_share_that_survives_is_that_of_the_weights() {
    let dir = workshop();
    run(&dir, "quantize source base --scheme int4-g32");
    // What is added to the quantized values, as an unquantized model.
    run(&dir, "convert base plain --to f32");
    run(&dir, "patch add plain wanted --patch a.patch --transfer");
    let told: Value = run(&dir, "patch add base patched --patch a.patch --json").document();
    let said = told["patches"][0]["survived"].as_f64().expect("it is told");
    let share = 1.0 - squared(&dir, "patched", "wanted", "_proj") / squared(&dir, "plain", "wanted", "_proj");
    assert!((said - share).abs() < 1e-6, "said {said}, found {share}");
    assert!(said > 0.5, "a change of two steps is mostly there: {said}");
}

#[test]
fn a_change_that_is_lost_is_warned_of_and_nothing_changes_without_one() {
    let dir = workshop();
    run(&dir, "quantize source base --scheme int4-g32");
    let ran = Cmd::new("patch add base weak --patch a.patch=0.01").in_dir(&dir).run().expect_status(0);
    assert!(ran.stderr.contains("a: only ") && ran.stderr.contains("% of the change is there"), "{}", ran.stderr);
    let ran = Cmd::new("patch add base none --patch a.patch=0").in_dir(&dir).run().expect_status(0);
    assert!(!ran.stderr.contains("only"), "{}", ran.stderr);
    let weights = |model: &str| fs::read(dir.path().join(model).join("model.safetensors")).expect("a model");
    assert!(weights("base") == weights("none"), "nothing is asked for, nothing changes");
}

#[test]
fn what_was_scaled_before_it_was_quantized_is_another_base() {
    let dir = workshop();
    run(&dir, "quantize near base --scheme int4-g32");
    let ran = Cmd::new("patch add base t --patch a.patch").in_dir(&dir).run().expect_status(2);
    assert!(ran.stderr.contains("another base"), "{}", ran.stderr);
}

#[test]
fn what_cannot_be_quantized_again_is_refused() {
    let dir = Dir::new();
    let bytes: Vec<u8> = (0..64_u8).collect();
    let ints = Tensor { name: "a.weight".to_owned(), dtype: "I32", shape: vec![4, 4], bytes };
    write_file(&dir.path().join("ints.safetensors"), &[ints]);
    let mut random = Random::new(3);
    let plain = |random: &mut Random| vec![Tensor::random("a.weight", &[4, 4], random)];
    for name in ["x", "y"] {
        write_folder(&dir.path().join(name), &plain(&mut random), &json!({}));
    }
    run(&dir, "patch diff x y d.patch");
    let ran = Cmd::new("patch add ints.safetensors t.safetensors --patch d.patch --transfer").in_dir(&dir).run();
    let ran = ran.expect_status(2);
    assert!(ran.stderr.contains("stored as I32, which cannot be given other values"), "{}", ran.stderr);
}

/// A patch of low rank on two matrices of `demo`, as PEFT writes it.
fn adapter(dir: &Dir) {
    let mut random = Random::new(9);
    let mut tensors = Vec::new();
    let model = run(dir, "inspect demo --json").document::<Value>();
    for weight in model["tensors"].as_array().expect("a list") {
        let name = weight["name"].as_str().expect("a name");
        let shape = |index: usize| weight["shape"][index].as_u64().expect("a size") as usize;
        if ["q_proj.weight", "down_proj.weight"].iter().any(|end| name.ends_with(end)) {
            let module = format!("base_model.model.{}", name.trim_end_matches(".weight"));
            let mut factor = |part: &str, shape: [usize; 2]| {
                let values: Vec<f32> = (0..shape[0] * shape[1]).map(|_| random.weight() * 2.0).collect();
                tensors.push(Tensor::f32(&format!("{module}.{part}.weight"), &shape, values));
            };
            factor("lora_A", [4, shape(1)]);
            factor("lora_B", [shape(0), 4]);
        }
    }
    let folder = dir.path().join("lora");
    fs::create_dir_all(&folder).expect("the folder can be made");
    write_file(&folder.join("adapter_model.safetensors"), &tensors);
    let config = json!({ "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"] });
    fs::write(folder.join("adapter_config.json"), config.to_string()).expect("the folder can be written");
}

#[test]
fn beside_the_weights_a_patch_is_seen_and_no_byte_changes() {
    let dir = Dir::new();
    adapter(&dir);
    fs::write(dir.path().join("text"), reweight::demo::HELDOUT_TEXT).expect("the folder can be written");
    let nll_of = |model: &str| -> f64 {
        let words = format!("eval {model} --text text --max-tokens 512 --context 128 --json");
        run(&dir, &words).document::<Value>()["nll"].as_f64().expect("a loss")
    };
    run(&dir, "quantize demo base --scheme int4-g32 --method rtn");
    run(&dir, "convert base plain --to f32");
    run(&dir, "patch add plain merged --patch lora=4");
    run(&dir, "patch add base beside --side --patch lora=4");
    let weights = |model: &str| fs::read(dir.path().join(model).join("model.safetensors")).expect("a model");
    assert!(weights("base") == weights("beside"), "no byte of the weights changes");
    let (clean, merged, beside) = (nll_of("plain"), nll_of("merged"), nll_of("beside"));
    assert!((merged - beside).abs() < 2e-3 && (merged - clean).abs() > 0.05, "{clean} {merged} {beside}");
    let told: Value = run(&dir, "diff merged beside --json").document();
    let worst = told["tensors"].as_array().expect("a list").iter().filter_map(|row| row["max_abs"].as_f64());
    assert!(worst.fold(0.0, f64::max) < 1e-6, "{told}");
    run(&dir, "convert beside baked --to f32");
    let told: Value = run(&dir, "diff merged baked --json").document();
    let worst = told["tensors"].as_array().expect("a list").iter().filter_map(|row| row["max_abs"].as_f64());
    assert!(worst.fold(0.0, f64::max) < 1e-6, "{told}");
    let list: Value = run(&dir, "patch list beside --json").document();
    assert_eq!((&list["patches"][0]["side"], &list["touched_bytes"]), (&json!(true), &json!(0)));
    run(&dir, "patch verify beside");
    let ran = Cmd::new("convert beside t --to gptq").in_dir(&dir).run().expect_status(2);
    assert!(ran.stderr.contains("has a patch beside its bytes"), "{}", ran.stderr);
    let ran = Cmd::new("patch add beside t --patch lora").in_dir(&dir).run().expect_status(2);
    assert!(ran.stderr.contains("is on `beside` already"), "{}", ran.stderr);
    run(&dir, "patch scale beside --in-place lora=0");
    assert!((nll_of("beside") - clean).abs() < 2e-3);
    run(&dir, "patch remove beside back --all");
    assert_same(&dir, "base", "back");
}

#[test]
fn some_patches_beside_and_some_in_the_weights() {
    let dir = workshop();
    run(&dir, "quantize source base --scheme int4-g32");
    run(&dir, "patch add base one --patch a.patch");
    run(&dir, "patch add one both --side --patch b.patch");
    run(&dir, "patch add base beside --side --patch b.patch");
    run(&dir, "patch add beside both-again --patch a.patch");
    same(&dir, "both", "both-again");
    run(&dir, "patch remove both without a");
    same(&dir, "beside", "without");
    run(&dir, "patch remove both --in-place --all");
    same(&dir, "base", "both");
    // Weights that change under a patch beside them are noticed.
    let path = dir.path().join("beside/model.safetensors");
    let mut file = fs::read(&path).expect("a model");
    let last = file.len() - 1;
    file[last] ^= 1;
    fs::write(&path, file).expect("the file can be written");
    Cmd::new("patch verify beside").in_dir(&dir).run().expect_status(1);
    let ran = Cmd::new("patch scale beside t b=2").in_dir(&dir).run().expect_status(2);
    assert!(ran.stderr.contains("was changed since"), "{}", ran.stderr);
}
