//! Layers that engines compute as one: their parts are stored alike, or the run says who will not load them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::{Cmd, Dir};
use crate::synthetic::{Random, Tensor, write_folder};

/// A block whose matrices have these shapes.
fn source(shapes: &[(&str, [usize; 2])]) -> Dir {
    let dir = Dir::new();
    let random = &mut Random::new(31);
    let weights: Vec<Tensor> = shapes
        .iter()
        .map(|(name, shape)| Tensor::random(&format!("model.layers.0.{name}.weight"), shape, random))
        .collect();
    write_folder(&dir.path().join("source"), &weights, &json!({ "model_type": "llama" }));
    dir
}

/// Scheme and reason of each tensor by its name in the block, and standard error.
fn quantize(dir: &Dir, options: &str) -> (BTreeMap<String, (String, String)>, String) {
    let ran = Cmd::new(&format!("quantize source target --dry-run --json {options}")).in_dir(dir).run();
    let told: Value = ran.expect_status(0).document();
    let ran = Cmd::new(&format!("quantize source target --dry-run {options}")).in_dir(dir).run();
    let text = |value: &Value| value.as_str().expect("it is text").to_owned();
    let tensors = told["tensors"].as_array().expect("tensors are a list").iter();
    let short = |name: &str| name.replace("model.layers.0.", "").replace(".weight", "");
    let by_name = tensors
        .map(|tensor| (short(&text(&tensor["name"])), (text(&tensor["scheme"]), text(&tensor["reason"]))))
        .collect();
    (by_name, ran.stderr)
}

const ATTENTION: [(&str, [usize; 2]); 4] = [
    ("self_attn.q_proj", [64, 64]),
    ("self_attn.k_proj", [36, 64]),
    ("self_attn.v_proj", [36, 64]),
    ("self_attn.o_proj", [64, 64]),
];

#[test]
fn what_cannot_be_packed_takes_its_fellows_with_it() {
    let dir = source(&ATTENTION);
    let (tensors, told) = quantize(&dir, "--to awq");
    for (name, why) in [
        (
            "self_attn.q_proj",
            "part of model.layers.0.self_attn.qkv_proj, and model.layers.0.self_attn.k_proj.weight is kept",
        ),
        ("self_attn.k_proj", "awq packs 8 output channels to a word, and it has 36"),
        ("self_attn.v_proj", "awq packs 8 output channels to a word, and it has 36"),
    ] {
        assert_eq!(tensors[name], ("F16".to_owned(), why.to_owned()), "{name}");
    }
    assert_eq!(tensors["self_attn.o_proj"].0, "int4-g64");
    assert!(!told.contains("vLLM"), "{told}");
}

#[test]
fn experts_share_the_group_that_all_of_them_can_have() {
    let dir = source(&[
        ("mlp.experts.0.gate_proj", [96, 128]),
        ("mlp.experts.0.up_proj", [96, 128]),
        ("mlp.experts.0.down_proj", [128, 96]),
        ("mlp.experts.1.gate_proj", [96, 128]),
        ("mlp.experts.1.up_proj", [96, 128]),
        ("mlp.experts.1.down_proj", [128, 96]),
        ("self_attn.o_proj", [128, 128]),
    ]);
    let (tensors, told) = quantize(&dir, "--scheme int4-g64-sym");
    for (name, (scheme, reason)) in &tensors {
        let (expected, why) = match name.as_str() {
            "self_attn.o_proj" => ("int4-g64-sym", ""),
            name if name.ends_with("down_proj") => ("int4-g32-sym", "64 does not divide 96"),
            _ => ("int4-g32-sym", "the parts of model.layers.0.mlp.experts share a group"),
        };
        assert_eq!((scheme.as_str(), reason.as_str()), (expected, why), "{name}");
    }
    assert!(!told.contains("vLLM"), "{told}");
}

#[test]
fn what_is_asked_for_is_done_and_told() {
    let dir = source(&ATTENTION);
    let k = "model.layers.0.self_attn.k_proj.weight";
    let rows = [
        (
            "--tensor *q_proj*=int8-g32",
            format!("{k} as int4-g64, model.layers.0.self_attn.q_proj.weight as int8-g32; so in 1 layer"),
        ),
        ("--keep *v_proj*", format!("{k} as int4-g64, model.layers.0.self_attn.v_proj.weight as BF16; so in 1 layer")),
        ("--keep *{q,k,v}_proj*", String::new()),
        ("--tensor *{q,k,v}_proj*=int8-g32", String::new()),
        ("--tensor *o_proj*=int8-g32", String::new()),
    ];
    for (options, expected) in rows {
        let (_, told) = quantize(&dir, options);
        assert_eq!(told.contains("vLLM computes the parts of"), !expected.is_empty(), "{options}: {told}");
        assert!(told.contains(&expected), "{options}: {told}");
    }
}
