//! Random sequences of adding, rescaling and taking off on every kind of base: after each step the files are those that the set gives from
//! the base at once, and when nothing is left they are the base's own.
//!
//! What the set gives is held to its definition elsewhere: for floats by `patches/tests/sequences.rs`, for quantized tensors by
//! `patch_coded` and the interop suite.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use reweight_patches::rewrite::Destination;
use reweight_patches::{Applied, Control, Patch, adapter, open, rewrite};
use serde_json::json;

use crate::patch::{run, tuned};
use crate::support::Dir;
use crate::synthetic::{Random, Tensor, files, write_file, write_folder};

/// Sequences of each run; `REWEIGHT_SEQUENCES` asks for more.
const SEQUENCES: usize = 25;
/// Steps of a sequence.
const STEPS: usize = 6;

const BASES: [&str; 5] = ["f32", "bf16", "f16", "int4", "q4_0.gguf"];
const DOWN: &str = "model.layers.0.mlp.down_proj";
const QUERY: &str = "model.layers.0.self_attn.q_proj";

/// A llama so small that a step takes milliseconds.
fn tiny(dir: &Dir) {
    let random = &mut Random::new(31);
    let block = |name: &str| format!("model.layers.0.{name}.weight");
    let mut weights = vec![Tensor::random("model.embed_tokens.weight", &[32, 64], random)];
    for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
        weights.push(Tensor::random(&block(&format!("self_attn.{name}")), &[64, 64], random));
    }
    for (name, shape) in [("gate_proj", [96, 64]), ("up_proj", [96, 64]), ("down_proj", [64, 96])] {
        weights.push(Tensor::random(&block(&format!("mlp.{name}")), &shape, random));
    }
    for name in ["input_layernorm", "post_attention_layernorm"] {
        weights.push(Tensor::random(&block(name), &[64], random));
    }
    weights.push(Tensor::random("model.norm.weight", &[64], random));
    let config = json!({
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "vocab_size": 32,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": true, "torch_dtype": "bfloat16", "architectures": ["LlamaForCausalLM"],
    });
    write_folder(&dir.path().join("source"), &weights, &config);
    for seed in 2..5 {
        write_folder(&dir.path().join(format!("near{seed}")), &tuned(&weights, seed), &config);
    }
}

fn peft(dir: &Dir, name: &str, tensors: &[Tensor], config: &serde_json::Value) {
    let folder = dir.path().join(name);
    fs::create_dir_all(&folder).expect("the folder can be made");
    write_file(&folder.join("adapter_model.safetensors"), tensors);
    fs::write(folder.join("adapter_config.json"), config.to_string()).expect("the folder can be written");
}

/// The bases, and five patches: differences in f32, 4 and 2 bits, a LoRA and a MiSS.
fn workshop() -> (Dir, Vec<Arc<Patch>>) {
    let dir = Dir::new();
    tiny(&dir);
    run(&dir, "convert source f32 --to f32");
    run(&dir, "convert source bf16 --to bf16");
    run(&dir, "convert source f16 --to f16");
    run(&dir, "quantize source int4 --scheme int4-g32");
    run(&dir, "quantize source q4_0.gguf --to gguf --scheme q4_0");
    run(&dir, "patch diff source near2 a.patch");
    run(&dir, "patch diff source near3 b.patch --bits 4");
    run(&dir, "patch diff source near4 c.patch --bits 2 --layers *_proj*");
    let mut random = Random::new(7);
    let mut f32s = |name: String, shape: [usize; 2]| {
        let values: Vec<f32> = (0..shape[0] * shape[1]).map(|_| random.weight()).collect();
        Tensor::f32(&name, &shape, values)
    };
    let factors = [
        f32s(format!("base_model.model.{QUERY}.lora_A.weight"), [2, 64]),
        f32s(format!("base_model.model.{QUERY}.lora_B.weight"), [64, 2]),
    ];
    peft(&dir, "d", &factors, &json!({ "peft_type": "LORA", "r": 2, "lora_alpha": 60, "target_modules": ["q_proj"] }));
    let block = [f32s(format!("base_model.model.{DOWN}.miss_block"), [5, 64])];
    peft(&dir, "e", &block, &json!({ "peft_type": "MISS", "r": 5, "target_modules": ["down_proj"] }));
    let opened = ["a.patch", "b.patch", "c.patch", "d", "e"].map(|name| adapter::open(&dir.path().join(name), None));
    (dir, opened.map(|patch| Arc::new(patch.expect("the patch opens"))).into())
}

fn apply(from: &Path, patches: &[Arc<Patch>], set: &BTreeMap<usize, usize>, target: Option<&Path>) {
    static STOP: AtomicBool = AtomicBool::new(false);
    let control = Control { stop: &STOP, progress: &|_, _| {} };
    let state = open(from).expect("the model opens");
    let applied: Vec<Applied> = set
        .iter()
        .map(|(&index, &strength)| Applied {
            name: format!("p{index}"),
            patch: Arc::clone(&patches[index]),
            strength: STRENGTHS[strength],
            transfer: true,
            side: false,
        })
        .collect();
    let destination = match target {
        Some(path) => Destination::Target { path, force: true, fsync: false },
        None => Destination::InPlace,
    };
    rewrite(&state, &applied, destination, &control).expect("the set is applied");
}

const STRENGTHS: [f64; 3] = [1.0, -0.5, 0.125];

/// Every file of a model, by name; of a single file, the file and its ledger.
fn content(path: &Path) -> BTreeMap<String, Vec<u8>> {
    if path.is_dir() {
        return files(path);
    }
    let ledger = path.with_file_name(format!("{}.ledger", path.file_name().unwrap_or_default().to_string_lossy()));
    let mut content = if ledger.is_dir() { files(&ledger) } else { BTreeMap::new() };
    content.insert(String::new(), fs::read(path).expect("the model is there"));
    content
}

fn clear(path: &Path) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for path in [path.to_owned(), path.with_file_name(format!("{name}.ledger"))] {
        // What is not there need not be removed.
        let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    }
}

#[test]
fn any_sequence_on_any_base_is_what_its_set_gives() {
    let (dir, patches) = workshop();
    let n = std::env::var("REWEIGHT_SEQUENCES").ok().and_then(|n| n.parse().ok()).unwrap_or(SEQUENCES);
    // What each set gives, by a digest of all files.
    let mut known: BTreeMap<(usize, Vec<(usize, usize)>), blake3::Hash> = BTreeMap::new();
    let digest = |path: &Path| {
        let mut hasher = blake3::Hasher::new();
        for (name, bytes) in content(path) {
            hasher.update(name.as_bytes()).update(&bytes);
        }
        hasher.finalize()
    };
    let mut random = Random::new(99);
    let mut below = |n: usize| ((random.fraction() * n as f64) as usize).min(n - 1);
    for sequence in 0..n {
        let kind = sequence % BASES.len();
        let base = dir.path().join(BASES[kind]);
        let place = |count: usize| -> PathBuf { dir.path().join(format!("work{count}-{}", BASES[kind])) };
        let (mut path, mut set) = (base.clone(), BTreeMap::new());
        for count in 0..=STEPS {
            let index = below(patches.len());
            if count == STEPS {
                set.clear();
            } else if set.contains_key(&index) && below(2) == 0 {
                set.remove(&index);
            } else {
                set.insert(index, below(STRENGTHS.len()));
            }
            if path == base || below(2) == 0 {
                let target = place(count % 2 + if path == place(count % 2) { 2 } else { 0 });
                clear(&target);
                apply(&path, &patches, &set, Some(&target));
                path = target;
            } else {
                apply(&path, &patches, &set, None);
            }
            let key = (kind, set.iter().map(|(&index, &strength)| (index, strength)).collect());
            let expected = *known.entry(key).or_insert_with(|| {
                let at_once = dir.path().join(format!("once-{}", BASES[kind]));
                clear(&at_once);
                apply(&base, &patches, &set, Some(&at_once));
                digest(&at_once)
            });
            assert_eq!(digest(&path), expected, "sequence {sequence} on {}, step {count}: {set:?}", BASES[kind]);
        }
        assert!(content(&path) == content(&base), "sequence {sequence} on {}: the base comes back", BASES[kind]);
    }
}
