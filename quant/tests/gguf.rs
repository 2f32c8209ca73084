//! GGUF files made by the `gguf` Python package, read back: structure, metadata and every bit of the values.

use std::path::{Path, PathBuf};

use reweight_quant::store::Bytes;
use reweight_quant::store::gguf::{Array, GgmlType, GgufFile, Value, dequantize};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf").join(name)
}

fn types() -> GgufFile {
    let path = golden("types.gguf");
    GgufFile::parse(&path, Bytes::map(&path).expect("the fixture is in the repository")).expect("the fixture is valid")
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Golden {
    made_by: serde_json::Value,
    tensors: Vec<GoldenTensor>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct GoldenTensor {
    name: String,
    r#type: String,
    shape: Vec<usize>,
    f32_start: usize,
    data_offset: usize,
    data_bytes: usize,
}

fn expected_tensors() -> Vec<GoldenTensor> {
    let text = std::fs::read(golden("types.json")).expect("the fixture is in the repository");
    let golden: Golden = serde_json::from_slice(&text).expect("the fixture has these fields");
    assert_eq!(golden.made_by["gguf"], "0.19.0");
    golden.tensors
}

#[test]
fn structure_is_what_the_package_reads() {
    let file = types();
    let expected = expected_tensors();
    assert_eq!(file.version(), 3);
    assert_eq!(file.alignment(), 32);
    assert_eq!(file.tensors().len(), expected.len());
    for (info, expected) in file.tensors().iter().zip(&expected) {
        assert_eq!(info.name, expected.name);
        assert_eq!(info.ty.name(), expected.r#type, "{}", info.name);
        assert_eq!(info.shape, expected.shape, "{}", info.name);
        assert_eq!(info.range, expected.data_offset..expected.data_offset + expected.data_bytes, "{}", info.name);
    }
}

#[test]
fn metadata_of_every_type_is_what_was_written() {
    let file = types();
    let strings = |list: &[&str]| list.iter().map(|&s| s.to_owned()).collect();
    let expected = [
        ("general.architecture", Value::String("llama".to_owned())),
        ("value.u8", Value::U8(200)),
        ("value.i8", Value::I8(-100)),
        ("value.u16", Value::U16(60_000)),
        ("value.i16", Value::I16(-30_000)),
        ("value.u32", Value::U32(4_000_000_000)),
        ("value.i32", Value::I32(-2_000_000_000)),
        ("value.u64", Value::U64(1 << 63)),
        ("value.i64", Value::I64(-(1 << 62))),
        ("value.f32", Value::F32(1e-5)),
        ("value.f64", Value::F64(0.1)),
        ("value.bool", Value::Bool(true)),
        ("value.string", Value::String("a \u{e9} \u{4e2d} \n".to_owned())),
        ("value.strings", Value::Array(Array::String(strings(&["", "\u{120}t", "<|im_end|>"])))),
        ("value.f32s", Value::Array(Array::F32(vec![0.5, -2.0]))),
        ("value.i32s", Value::Array(Array::I32(vec![-1, 2, 3]))),
        ("value.bools", Value::Array(Array::Bool(vec![true, false]))),
    ];
    assert_eq!(file.metadata().len(), expected.len());
    for ((key, value), (expected_key, expected)) in file.metadata().iter().zip(&expected) {
        assert_eq!((key.as_str(), value), (*expected_key, expected));
    }
}

#[test]
fn every_type_dequantizes_to_the_bits_of_the_package() {
    let file = types();
    let expected_bytes = std::fs::read(golden("types.f32")).expect("the fixture is in the repository");
    let expected_bits: Vec<u32> = expected_bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
    let mut seen = Vec::new();
    let mut failures = Vec::new();
    for (index, golden) in expected_tensors().iter().enumerate() {
        let tensor = file.tensor(index).expect("as many tensors as the fixture says");
        let info = tensor.info();
        seen.push(info.ty);
        let expected = &expected_bits[golden.f32_start..][..info.shape.iter().product()];
        let mut found = vec![0.0; expected.len()];
        dequantize(info.ty, tensor.bytes(), &mut found);
        for (at, (found, &expected)) in found.iter().zip(expected).enumerate() {
            // Processors differ in which payload a NaN keeps; that it is NaN is what counts.
            let same = found.to_bits() == expected || found.is_nan() && f32::from_bits(expected).is_nan();
            if !same {
                failures.push(format!("{} [{at}]: found {found:e}, expected {:e}", info.ty, f32::from_bits(expected)));
            }
        }
    }
    assert!(failures.is_empty(), "{} differ, such as {:#?}", failures.len(), &failures[..failures.len().min(9)]);
    seen.sort_unstable();
    assert_eq!(seen, GgmlType::ALL, "a type without a fixture, or twice");
}

/// Writes what `hugging_face` presents as a folder with `model.safetensors` in F32, for tools that load such folders.
#[test]
#[ignore = "run by tools/compare-gguf-import.py, which names the source and the target"]
fn export_as_hugging_face_folder() {
    let path = |name| PathBuf::from(std::env::var_os(name).expect("tools/compare-gguf-import.py sets it"));
    let (source, target) = (path("REWEIGHT_GGUF_SOURCE"), path("REWEIGHT_GGUF_TARGET"));
    let file = GgufFile::parse(&source, Bytes::map(&source).expect("the source is there")).expect("a GGUF file");
    let mut view = file.hugging_face().expect("a model with a Hugging Face counterpart");
    view.config["dtype"] = "float32".into();

    let mut header = serde_json::Map::new();
    let mut end = 0;
    for tensor in &view.tensors {
        let start = end;
        end += 4 * tensor.n_rows() * tensor.row_elements();
        let entry = serde_json::json!({ "dtype": "F32", "shape": tensor.shape, "data_offsets": [start, end] });
        assert_eq!(header.insert(tensor.name.clone(), entry), None, "{} twice", tensor.name);
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut weights = (header.len() as u64).to_le_bytes().to_vec();
    weights.extend(header.as_bytes());
    for tensor in &view.tensors {
        let mut values = vec![0.0; tensor.n_rows() * tensor.row_elements()];
        file.dequantize_hf_rows(tensor, 0..tensor.n_rows(), &mut values);
        weights.extend(values.iter().flat_map(|x| x.to_le_bytes()));
    }

    std::fs::create_dir_all(&target).expect("the target can be made");
    view.files.push(("config.json".to_owned(), view.config.to_string().into_bytes()));
    view.files.push(("model.safetensors".to_owned(), weights));
    for (name, bytes) in &view.files {
        std::fs::write(target.join(name), bytes).expect("the target can be written");
    }
}

/// A tensor of a safetensors file: shape and F16 values as `f32`.
fn safetensor(bytes: &[u8], name: &str) -> (Vec<usize>, Vec<f32>) {
    let (length, rest) = bytes.split_first_chunk().expect("a safetensors file begins with a length");
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header: serde_json::Value = serde_json::from_slice(header).expect("a safetensors header is JSON");
    let entry = &header[name];
    assert_eq!(entry["dtype"], "F16", "{name}");
    let numbers = |key: &str| -> Vec<usize> { serde_json::from_value(entry[key].clone()).expect("numbers") };
    let (shape, place) = (numbers("shape"), numbers("data_offsets"));
    let mut values = vec![0.0; (place[1] - place[0]) / 2];
    dequantize(GgmlType::F16, &data[place[0]..place[1]], &mut values);
    (shape, values)
}

#[test]
fn converted_models_come_back_as_they_were() {
    for (model, n_tensors) in [("tiny-llama", 21), ("tiny-mixtral", 2 + 2 * (7 + 3 * 3))] {
        let path = golden(&format!("{model}.gguf"));
        let file = GgufFile::parse(&path, Bytes::map(&path).expect("in the repository")).expect("a GGUF file");
        let view = file.hugging_face().expect("a known architecture");
        let original = std::fs::read(golden(&format!("{model}.safetensors"))).expect("in the repository");

        assert_eq!(view.tensors.len(), n_tensors, "{model}");
        for tensor in &view.tensors {
            let (shape, expected) = safetensor(&original, &tensor.name);
            let mut found = vec![0.0; expected.len()];
            file.dequantize_hf_rows(tensor, 0..tensor.n_rows(), &mut found);
            assert_eq!(tensor.shape, shape, "{model}: {}", tensor.name);
            assert_eq!(found, expected, "{model}: {}", tensor.name);
        }

        let text = std::fs::read(golden(&format!("{model}.json"))).expect("in the repository");
        let expected: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        let expected = expected["config"].as_object().expect("an object");
        let found = view.config.as_object().expect("an object");
        let rope = &expected["rope_parameters"];
        assert_eq!(found["rope_theta"], rope["rope_theta"], "{model}");
        for (key, value) in found["rope_scaling"].as_object().into_iter().flatten() {
            assert_eq!(value, &rope[key], "{model}: {key}");
        }
        assert_eq!(found["rope_scaling"].is_null(), rope["rope_type"] == "default", "{model}");
        for (key, value) in found.iter().filter(|(key, _)| !key.starts_with("rope_")) {
            assert_eq!(Some(value), expected.get(key), "{model}: {key}");
        }
    }
}
