//! Importance matrices of llama.cpp: the same second moments under GGUF names.
//!
//! Both formats of its `imatrix` tool (tools/imatrix/imatrix.cpp): GGUF with, for each weight, `NAME.in_sum2` F32 \[experts, channels\] (sums of
//! x^2) and `NAME.counts` F32 \[experts, 1\] (tokens), and the older `.dat`: count of entries, then name, calls, and means times calls.
//! Neither holds |x|, so sums of it read as zero; nor a Gram matrix.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use super::{ExactSums, InputStatistics, Key, Provenance, Statistics, TextProvenance};
use crate::error::FileError;
use crate::store::gguf::GgufFile;
use crate::store::{Bytes, rename};

/// Modules of a block whose weights have inputs: GGUF stem, Hugging Face modules that it may stand for. `*` is the number of an expert.
const MODULES: [(&str, &[&str]); 17] = [
    ("attn_q", &["self_attn.q_proj"]),
    ("attn_k", &["self_attn.k_proj"]),
    ("attn_v", &["self_attn.v_proj"]),
    ("attn_qkv", &["self_attn.qkv_proj"]),
    ("attn_output", &["self_attn.o_proj"]),
    ("ffn_gate", &["mlp.gate_proj"]),
    ("ffn_up", &["mlp.up_proj", "mlp.gate_up_proj"]),
    ("ffn_down", &["mlp.down_proj"]),
    ("ffn_gate_inp", &["mlp.gate", "block_sparse_moe.gate"]),
    ("ffn_gate_exps", &["mlp.experts.*.gate_proj", "block_sparse_moe.experts.*.w1"]),
    ("ffn_up_exps", &["mlp.experts.*.up_proj", "block_sparse_moe.experts.*.w3"]),
    ("ffn_down_exps", &["mlp.experts.*.down_proj", "block_sparse_moe.experts.*.w2"]),
    ("ffn_gate_inp_shexp", &["mlp.shared_expert_gate"]),
    ("ffn_gate_shexp", &["mlp.shared_expert.gate_proj"]),
    ("ffn_up_shexp", &["mlp.shared_expert.up_proj"]),
    ("ffn_down_shexp", &["mlp.shared_expert.down_proj"]),
    ("output", &["lm_head"]),
];

/// One weight of an importance matrix: sums and counts of each expert, or of the one matrix.
#[derive(Default)]
struct Entry {
    sums: Vec<Vec<f64>>,
    counts: Vec<u64>,
}

/// Writes statistics as an importance matrix: `.dat` in the old format, anything else as GGUF. Layers that llama.cpp has no name for
/// are left out.
///
/// # Errors
/// `FileError::Io`.
pub fn write(statistics: &Statistics, path: &Path) -> Result<(), FileError> {
    let entries = entries(statistics);
    let bytes = if path.extension().is_some_and(|extension| extension == "dat") {
        legacy(&entries, statistics)
    } else {
        gguf(&entries, statistics)
    };
    rename::write(path, |file| file.write_all(&bytes))
}

/// Reads either format.
///
/// # Errors
/// `FileError` where the file is neither, or holds numbers that cannot be sums of squares.
pub fn read(path: &Path) -> Result<Statistics, FileError> {
    let bytes = Bytes::map(path)?;
    let entries = if bytes.starts_with(b"GGUF") { read_gguf(path, bytes)? } else { read_legacy(path, &bytes)? };
    let malformed = |what: String| FileError::Malformed { path: path.to_owned(), format: "imatrix", what };
    let mut statistics = Statistics::default();
    let mut tokens = 0;
    for (name, entry) in entries {
        for (expert, (sums, count)) in entry.sums.iter().zip(&entry.counts).enumerate() {
            if let Some(sum) = sums.iter().find(|sum| !sum.is_finite() || **sum < 0.0) {
                return Err(malformed(format!("{:?} holds {sum}, expected a sum of squares", name.0)));
            }
            let names = hugging_face(&name.0, expert);
            let Some(first) = names.first() else { continue };
            let mut input = InputStatistics::new(sums.len(), false);
            input.tokens = *count;
            input.square_sum.add(sums);
            input.abs_sum = ExactSums::zeros(sums.len());
            tokens = tokens.max(*count);
            let key = Key(first.clone());
            statistics.layers.extend(names.into_iter().map(|name| (Key(name), key.clone())));
            statistics.inputs.insert(key, input);
        }
    }
    if statistics.inputs.is_empty() {
        return Err(malformed("no weight of a known name".to_owned()));
    }
    let digest = blake3::hash(&Bytes::map(path)?).to_string();
    statistics.provenance =
        Provenance { model: String::new(), context: 0, texts: vec![TextProvenance { digest, tokens }] };
    Ok(statistics)
}

/// `model.layers.3.self_attn.q_proj.weight` to `blk.3.attn_q.weight` and the number of its expert.
fn ggml(layer: &str) -> Option<(String, usize)> {
    let module = layer.strip_suffix(".weight")?;
    if module == "lm_head" {
        return Some(("output.weight".to_owned(), 0));
    }
    let (block, module) = module.strip_prefix("model.layers.")?.split_once('.')?;
    let mut expert = 0;
    let mut general = String::new();
    for part in module.split('.') {
        let number = part.parse().ok().filter(|_| general.ends_with("experts"));
        expert = number.unwrap_or(expert);
        general.push_str(if general.is_empty() { "" } else { "." });
        general.push_str(if number.is_some() { "*" } else { part });
    }
    let (stem, _) = MODULES.iter().find(|(_, names)| names.contains(&general.as_str()))?;
    Some((format!("blk.{block}.{stem}.weight"), expert))
}

/// The reverse: every name that a GGUF weight may stand for.
fn hugging_face(name: &str, expert: usize) -> Vec<String> {
    let Some(module) = name.strip_suffix(".weight") else { return Vec::new() };
    if module == "output" {
        return vec!["lm_head.weight".to_owned()];
    }
    let Some((block, stem)) = module.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
        return Vec::new();
    };
    let names = MODULES.iter().find(|(known, _)| *known == stem).map_or(&[][..], |(_, names)| names);
    let number = expert.to_string();
    names.iter().map(|name| format!("model.layers.{block}.{}.weight", name.replace('*', &number))).collect()
}

fn entries(statistics: &Statistics) -> BTreeMap<Key, Entry> {
    let mut entries: BTreeMap<Key, Entry> = BTreeMap::new();
    for (layer, key) in &statistics.layers {
        let (Some((name, expert)), Some(input)) = (ggml(&layer.0), statistics.inputs.get(key)) else { continue };
        let entry = entries.entry(Key(name)).or_default();
        if entry.sums.len() <= expert {
            entry.sums.resize(expert + 1, vec![0.0; input.width()]);
            entry.counts.resize(expert + 1, 0);
        }
        (entry.sums[expert], entry.counts[expert]) = (input.square_sum.values(), input.tokens);
    }
    entries
}

fn chunks(statistics: &Statistics) -> u32 {
    let context = statistics.provenance.context.max(1) as u64;
    u32::try_from(statistics.tokens().div_ceil(context)).unwrap_or(u32::MAX).max(1)
}

fn legacy(entries: &BTreeMap<Key, Entry>, statistics: &Statistics) -> Vec<u8> {
    let n_chunks = chunks(statistics);
    let mut out = (entries.len() as i32).to_le_bytes().to_vec();
    for (name, entry) in entries {
        out.extend((name.0.len() as i32).to_le_bytes());
        out.extend(name.0.as_bytes());
        out.extend((n_chunks as i32).to_le_bytes());
        out.extend((entry.sums.iter().map(Vec::len).sum::<usize>() as i32).to_le_bytes());
        for (sums, count) in entry.sums.iter().zip(&entry.counts) {
            // The reader divides by the calls. An expert that saw nothing counts as indifferent, as the tool itself has it.
            let scale = f64::from(n_chunks) / (*count).max(1) as f64;
            let value = |sum: &f64| if *count == 0 { n_chunks as f32 } else { (sum * scale) as f32 };
            out.extend(sums.iter().flat_map(|sum| value(sum).to_le_bytes()));
        }
    }
    let dataset = b"reweight calibrate";
    out.extend((n_chunks as i32).to_le_bytes());
    out.extend((dataset.len() as i32).to_le_bytes());
    out.extend(dataset);
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn gguf(entries: &BTreeMap<Key, Entry>, statistics: &Statistics) -> Vec<u8> {
    const STRING: u32 = 8;
    const ARRAY: u32 = 9;
    const U32: u32 = 4;
    const ALIGNMENT: usize = 32;
    let mut out = b"GGUF".to_vec();
    out.extend(3_u32.to_le_bytes());
    out.extend((2 * entries.len() as u64).to_le_bytes());
    out.extend(4_u64.to_le_bytes());
    text(&mut out, "general.type");
    out.extend(STRING.to_le_bytes());
    text(&mut out, "imatrix");
    text(&mut out, "imatrix.datasets");
    out.extend([ARRAY.to_le_bytes(), STRING.to_le_bytes()].concat());
    out.extend(1_u64.to_le_bytes());
    text(&mut out, "reweight calibrate");
    for (key, value) in [
        ("imatrix.chunk_count", chunks(statistics)),
        ("imatrix.chunk_size", statistics.provenance.context.max(1) as u32),
    ] {
        text(&mut out, key);
        out.extend([U32.to_le_bytes(), value.to_le_bytes()].concat());
    }
    let mut data: Vec<u8> = Vec::new();
    for (name, entry) in entries {
        let n_experts = entry.sums.len();
        let width = entry.sums.first().map_or(0, Vec::len);
        let sums = entry.sums.iter().flatten().map(|sum| *sum as f32).collect::<Vec<f32>>();
        let counts = entry.counts.iter().map(|count| *count as f32).collect::<Vec<f32>>();
        for (what, inner, values) in [("in_sum2", width, sums), ("counts", 1, counts)] {
            text(&mut out, &format!("{}.{what}", name.0));
            out.extend(2_u32.to_le_bytes());
            out.extend([(inner as u64).to_le_bytes(), (n_experts as u64).to_le_bytes()].concat());
            out.extend(0_u32.to_le_bytes());
            out.extend((data.len() as u64).to_le_bytes());
            data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            data.resize(data.len().next_multiple_of(ALIGNMENT), 0);
        }
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    out.extend(data);
    out
}

fn read_gguf(path: &Path, bytes: Bytes) -> Result<BTreeMap<Key, Entry>, FileError> {
    let file = GgufFile::parse(path, bytes)?;
    let malformed = |what: String| FileError::Malformed { path: path.to_owned(), format: "imatrix", what };
    let floats = |name: &str| -> Result<(usize, Vec<f32>), FileError> {
        let index = file.tensor_index(name).ok_or_else(|| malformed(format!("tensor {name:?} is missing")))?;
        let tensor = file.tensor(index).ok_or_else(|| malformed(format!("tensor {name:?} is missing")))?;
        if tensor.info().ty != crate::store::gguf::GgmlType::F32 {
            return Err(malformed(format!("tensor {name:?}: expected F32, found {}", tensor.info().ty)));
        }
        let values = tensor.bytes().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        Ok((tensor.info().shape.last().copied().unwrap_or(1), values))
    };
    let mut entries = BTreeMap::new();
    let names: Vec<String> = file.tensors().iter().map(|info| info.name.clone()).collect();
    for name in names.iter().filter_map(|name| name.strip_suffix(".in_sum2")) {
        let (width, sums) = floats(&format!("{name}.in_sum2"))?;
        let (_, counts) = floats(&format!("{name}.counts"))?;
        if width == 0 || sums.len() != width * counts.len() {
            return Err(malformed(format!(
                "{name:?}: {} sums of {width} channels and {} counts",
                sums.len(),
                counts.len()
            )));
        }
        let entry = Entry {
            sums: sums.chunks_exact(width).map(|row| row.iter().map(|x| f64::from(*x)).collect()).collect(),
            counts: counts.iter().map(|count| count.max(0.0) as u64).collect(),
        };
        entries.insert(Key(name.to_owned()), entry);
    }
    Ok(entries)
}

fn read_legacy(path: &Path, bytes: &[u8]) -> Result<BTreeMap<Key, Entry>, FileError> {
    let malformed =
        |what: &str| FileError::Malformed { path: path.to_owned(), format: "imatrix", what: what.to_owned() };
    let mut rest = bytes;
    let mut take = |n: usize| -> Result<&[u8], FileError> {
        let (taken, after) = rest.split_at_checked(n).ok_or_else(|| malformed("the file ends early"))?;
        rest = after;
        Ok(taken)
    };
    let number = |bytes: &[u8]| {
        let number = bytes.first_chunk().map(|bytes| i32::from_le_bytes(*bytes));
        number.and_then(|n| usize::try_from(n).ok()).ok_or_else(|| malformed("a count is negative"))
    };
    let n_entries = number(take(4)?)?;
    let mut entries = BTreeMap::new();
    for _ in 0..n_entries {
        let length = number(take(4)?)?;
        let name = String::from_utf8(take(length)?.to_vec()).map_err(|_| malformed("a name is not UTF-8"))?;
        let (n_calls, n_values) = (number(take(4)?)?, number(take(4)?)?);
        let values = take(n_values.checked_mul(4).ok_or_else(|| malformed("too many values"))?)?;
        let sums = values.as_chunks::<4>().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect();
        // Experts cannot be told apart without the model; calls stand for tokens, as only their ratio matters.
        entries.insert(Key(name), Entry { sums: vec![sums], counts: vec![n_calls as u64] });
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::{Key, ggml, hugging_face, read, write};
    use crate::stats::{InputStatistics, Provenance, Statistics, TextProvenance};

    #[test]
    fn names_go_there_and_back() {
        for (layer, name, expert) in [
            ("model.layers.3.self_attn.q_proj.weight", "blk.3.attn_q.weight", 0),
            ("model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight", 0),
            ("model.layers.12.mlp.experts.7.up_proj.weight", "blk.12.ffn_up_exps.weight", 7),
            ("model.layers.1.block_sparse_moe.experts.2.w1.weight", "blk.1.ffn_gate_exps.weight", 2),
            ("lm_head.weight", "output.weight", 0),
        ] {
            assert_eq!(ggml(layer), Some((name.to_owned(), expert)));
            assert!(hugging_face(name, expert).iter().any(|back| back == layer), "{name}");
        }
        assert_eq!(ggml("model.layers.0.input_layernorm.weight"), None);
        assert!(hugging_face("blk.0.other.weight", 0).is_empty());
    }

    #[test]
    fn both_formats_keep_the_second_moments() {
        let mut statistics = Statistics {
            provenance: Provenance {
                model: "m".into(),
                context: 4,
                texts: vec![TextProvenance { digest: "t".into(), tokens: 8 }],
            },
            ..Statistics::default()
        };
        for (expert, tokens) in [(0, 5), (1, 3)] {
            let key = Key(format!("model.layers.0.mlp.experts.{expert}.up_proj.weight"));
            let mut input = InputStatistics::new(2, false);
            input.tokens = tokens;
            input.square_sum.add(&[1.5, 2.0 + expert as f64]);
            statistics.layers.insert(key.clone(), key.clone());
            statistics.inputs.insert(key, input);
        }
        let key = Key("model.layers.0.self_attn.q_proj.weight".into());
        let mut input = InputStatistics::new(3, false);
        input.tokens = 8;
        input.square_sum.add(&[8.0, 16.0, 0.5]);
        statistics.layers.insert(key.clone(), key.clone());
        statistics.inputs.insert(key, input);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("imatrix.gguf");
        write(&statistics, &path).expect("written");
        let found = read(&path).expect("read");
        for (key, input) in &statistics.inputs {
            let again = found.of_layer(&key.0).expect("every layer has a name there");
            assert_eq!((again.tokens, again.second_moment()), (input.tokens, input.second_moment()), "{}", key.0);
        }
        let path = folder.path().join("imatrix.dat");
        write(&statistics, &path).expect("written");
        let found = read(&path).expect("read");
        let moments = found.of_layer("model.layers.0.self_attn.q_proj.weight").expect("a layer").second_moment();
        assert_eq!(moments, [1.0, 2.0, 0.0625]);
    }

    #[test]
    fn cut_files_are_errors() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("cut.dat");
        for bytes in [&[][..], &[1, 0, 0], &[9, 0, 0, 0, 255, 255, 255, 127, 65]] {
            std::fs::write(&path, bytes).expect("written");
            assert!(read(&path).is_err(), "{bytes:?}");
        }
    }
}
