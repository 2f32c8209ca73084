//! What older versions of others wrote, read bit for bit as they read it; and values that a narrower type does not hold.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Cmd, Dir};
use crate::synthetic::{Random, Tensor, tensors, write_folder};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

#[test]
fn padded_words_and_ordered_columns_are_read_as_their_writer_reads_them() {
    let dir = Dir::new();
    let folder = Path::new(FIXTURES).join("compressed-tensors-0.17");
    Cmd::new("convert").arg(&folder).arg("f32").arg("--to").arg("f32").in_dir(&dir).run().expect_status(0);
    let found = tensors(&dir.path().join("f32/model.safetensors"));
    let expected = tensors(&Path::new(FIXTURES).join("compressed-tensors-0.17-expected.safetensors"));
    assert_eq!(expected.len(), 70);
    let wrong: Vec<&String> = expected.keys().filter(|name| found.get(*name) != expected.get(*name)).collect();
    assert!(wrong.is_empty() && found.len() == expected.len(), "{wrong:?}");
    let told: Value = Cmd::new("inspect --json --for transformers").arg(&folder).run().expect_status(1).document();
    assert!(told["engine"].to_string().contains("padded layout"), "{}", told["engine"]);
}

#[test]
fn a_padded_folder_becomes_a_dense_one_of_the_same_values() {
    let dir = Dir::new();
    let folder = Path::new(FIXTURES).join("compressed-tensors-0.17");
    let convert = || Cmd::new("convert").arg(dir.path().join("old")).arg("new").arg("--to").arg("compressed-tensors");
    copy(&folder, &dir.path().join("old"));
    let ran = convert().in_dir(&dir).run().expect_status(2);
    assert!(ran.stderr.contains("its columns are grouped in another order than their own"), "{}", ran.stderr);
    // Without what has its columns in another order.
    let place = dir.path().join("old/model.safetensors");
    let in_order: Vec<Tensor> = stored(&place).into_iter().filter(|tensor| !ordered(&tensor.name)).collect();
    crate::synthetic::write_file(&place, &in_order);
    let told: Value = convert().arg("--json").in_dir(&dir).run().expect_status(0).document();
    assert!(told["values_digest"].is_string(), "{told}");
    let same: Value = Cmd::new("diff old new --json").in_dir(&dir).run().expect_status(0).document();
    assert_eq!(same["identical"], true);
}

/// The modules of the fixture with columns in the order of activations: the fourth of each five.
fn ordered(name: &str) -> bool {
    let number = name.split('.').nth(2).and_then(|number| number.parse::<usize>().ok());
    number.is_some_and(|number| number % 5 == 3)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("the folder is new");
    for name in ["config.json", "model.safetensors"] {
        fs::copy(from.join(name), to.join(name)).expect("the fixture is in the repository");
    }
}

/// The tensors of a file as they stand there.
fn stored(path: &Path) -> Vec<Tensor> {
    let bytes = fs::read(path).expect("the file is there");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let header: BTreeMap<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).expect("the header is JSON");
    let entries = header.into_iter().filter(|(name, _)| name != "__metadata__");
    entries
        .map(|(name, info)| {
            let sizes = |key: &str| -> Vec<usize> {
                info[key]
                    .as_array()
                    .expect("a list")
                    .iter()
                    .map(|size| size.as_u64().expect("a size") as usize)
                    .collect()
            };
            let place = sizes("data_offsets");
            let dtype = match info["dtype"].as_str() {
                Some("I32") => "I32",
                Some("I64") => "I64",
                _ => "F32",
            };
            let bytes = bytes[8 + length + place[0]..8 + length + place[1]].to_vec();
            Tensor { name, dtype, shape: sizes("shape"), bytes }
        })
        .collect()
}

#[test]
fn a_value_beyond_f16_is_an_error_that_names_it() {
    let dir = Dir::new();
    let random = &mut Random::new(3);
    let mut norm = vec![1.0; 64];
    norm[5] = -70000.0;
    let weights = [
        Tensor::random("model.layers.0.mlp.up_proj.weight", &[64, 64], random),
        Tensor::f32("model.norm.weight", &[64], norm),
    ];
    write_folder(&dir.path().join("source"), &weights, &json!({ "model_type": "llama" }));
    for (words, status) in [
        ("quantize source t --to awq", 2),
        ("quantize source t --to gptq", 2),
        ("quantize source t --dtype f16", 2),
        ("convert source t --to f16", 2),
        ("quantize source a --to awq --dtype bf16 --scale-dtype f16", 0),
        ("quantize source b --to gptq --dtype bf16", 0),
        ("convert source c --to bf16", 0),
    ] {
        let ran = Cmd::new(words).in_dir(&dir).run().expect_status(status);
        if status == 2 {
            let expected = "tensor \"model.norm.weight\" of `source/model.safetensors` holds -70000 at index 5, more than F16 can hold";
            assert!(ran.stderr.contains(expected), "{words}: {}", ran.stderr);
            assert!(ran.stderr.contains("hint: bf16 and f32 hold it"), "{words}: {}", ran.stderr);
        }
    }
}
