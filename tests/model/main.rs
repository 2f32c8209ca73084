//! The forward pass against transformers: a tiny random model of every architecture and every rotation.
//!
//! `tools/make-model-fixtures.py` made the folders; each names the versions of transformers and torch in the metadata of its
//! `expected.safetensors`.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use reweight::model::{Network, Nobody, Run};
use reweight_quant::awq::{Mapping, Previous, fold};
use reweight_quant::kernels::{self, Kernels, supported};
use reweight_quant::store::Model;
use reweight_quant::tensor::Dtype;
use safetensors::SafeTensors;
use serde_json::{Value, json};

/// Agreement asked for: far above the rounding of f32 (logits here are at most some tens), far below what any missing term
/// would do (the fixtures' script holds each above 1e-2).
const BOUND: f32 = 1e-4;

struct Expected {
    bytes: Vec<u8>,
}

impl Expected {
    fn read(folder: &Path) -> Self {
        Self { bytes: std::fs::read(folder.join("expected.safetensors")).expect("a fixture") }
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let tensors = SafeTensors::deserialize(&self.bytes).expect("a fixture is a safetensors file");
        let tensor = tensors.tensor(name).expect("a fixture has what its kind of model gives");
        tensor.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    fn ids(&self, name: &str) -> Option<Vec<u32>> {
        let tensors = SafeTensors::deserialize(&self.bytes).expect("a fixture is a safetensors file");
        let tensor = tensors.tensor(name).ok()?;
        let ids = tensor.data().as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes));
        Some(ids.map(|id| u32::try_from(id).expect("a token is not negative")).collect())
    }
}

fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the fixtures are committed")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    found
}

fn outputs(network: &Network<'_>, expected: &Expected, kernels: &Kernels) -> (Vec<f32>, Vec<f32>) {
    let stop = AtomicBool::new(false);
    let run = Run { stop: &stop, progress: &|_, _| {}, observe: &Nobody };
    if network.is_image_encoder() {
        let image = expected.floats("pixel_values");
        let mut logits = network.classify(&[&image], &run).expect("classes");
        return (logits.remove(0), expected.floats("logits"));
    }
    let tokens = expected.ids("input_ids").expect("a fixture of a language model has tokens");
    let kinds = expected.ids("token_type_ids");
    let kinds = kinds.as_deref().map(|kinds| [kinds]);
    let kinds = kinds.as_ref().map(<[_; 1]>::as_slice);
    let hidden = network.hidden_states_of_kinds(&[&tokens], kinds, &run).expect("hidden states");
    if network.is_decoder() {
        let logits = network.head().expect("an output layer").all_logits(kernels, hidden.window(0));
        return (logits, expected.floats("logits"));
    }
    (hidden.window(0).to_vec(), expected.floats("last_hidden_state"))
}

#[test]
fn every_architecture_and_rotation_agrees_with_transformers() {
    let mut failures = Vec::new();
    let fixtures = fixtures();
    assert!(fixtures.len() >= 30, "only {} fixtures", fixtures.len());
    for folder in &fixtures {
        let expected = Expected::read(folder);
        let model = Model::open(folder).expect("a fixture opens");
        for kernels in supported() {
            let network = match Network::open(&model, kernels) {
                Ok(network) => network,
                Err(error) => {
                    failures.push(format!("{}: {error}", folder.display()));
                    continue;
                }
            };
            let (found, wanted) = outputs(&network, &expected, kernels);
            assert_eq!(found.len(), wanted.len(), "{}", folder.display());
            let worst = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            if worst.is_nan() || worst > BOUND {
                failures.push(format!("{} ({}): off by {worst}", folder.display(), kernels.name));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Every mapping at once, with factors of any size: the model computes what it did.
#[test]
fn folding_changes_no_output() {
    let kernels = kernels::best();
    let mut n_mappings = 0;
    for folder in fixtures() {
        let expected = Expected::read(&folder);
        let model = Model::open(&folder).expect("a fixture opens");
        let network = Network::open(&model, kernels).expect("a fixture runs");
        let mut scaled = model.clone();
        let mappings = network.mappings();
        assert!(mappings.len() >= network.n_blocks(), "{}", folder.display());
        for (index, mapping) in mappings.iter().enumerate() {
            let n = match &mapping.previous {
                Previous::Norm { weight, .. } => model.weight(weight).expect("it is there").n_elements(),
                Previous::Linear { outputs, .. } => outputs.len(),
            };
            let scales: Vec<f32> =
                (0..n).map(|j| 2.0_f32.powf(((j * 7 + index * 3) % 11) as f32 * 0.7 - 3.5)).collect();
            let fold = fold(&scaled, kernels, mapping, &scales, Some(Dtype::F32)).expect("the weights fit together");
            assert!(fold.len() > mapping.consumers.len(), "{}", mapping.name);
            scaled = scaled.scaled(&fold);
        }
        n_mappings += mappings.len();
        let folded = Network::open(&scaled, kernels).expect("a scaled fixture runs");
        for block in 0..network.n_blocks() {
            let difference = network.block_difference(&folded, block).expect("both run");
            assert!(difference < reweight::awq::TOLERANCE, "{}, block {block}: {difference:e}", folder.display());
        }
        let (found, wanted) = outputs(&folded, &expected, kernels);
        let largest = wanted.iter().map(|x| x.abs()).fold(0.0, f32::max);
        let worst = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= 1e-4 * largest.max(1.0), "{}: off by {worst} of {largest}", folder.display());
    }
    assert!(n_mappings > 200, "only {n_mappings} mappings");
}

/// Of each kind of mistake, one: the check on a block sees it.
#[test]
fn a_fold_that_forgets_a_reader_or_an_offset_is_seen() {
    let kernels = kernels::best();
    for (name, spoil) in [
        ("mixtral", (|mapping| drop(mapping.consumers.remove(0))) as fn(&mut Mapping)),
        ("llama", |mapping| drop(mapping.consumers.pop())),
        ("gemma", |mapping| {
            if let Previous::Norm { offset, .. } = &mut mapping.previous {
                *offset = false;
            }
        }),
    ] {
        let model = Model::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name));
        let model = model.expect("a fixture opens");
        let network = Network::open(&model, kernels).expect("a fixture runs");
        let mappings = network.mappings();
        let of_norm = |mapping: &&Mapping| matches!(mapping.previous, Previous::Norm { .. });
        let mut mapping = mappings.iter().rfind(of_norm).expect("blocks have norms").clone();
        spoil(&mut mapping);
        let scales: Vec<f32> = (0..network.width()).map(|j| 1.0 + 0.1 * (j % 5) as f32).collect();
        let fold = fold(&model, kernels, &mapping, &scales, Some(Dtype::F32)).expect("the weights fit together");
        let scaled = model.scaled(&fold);
        let spoiled = Network::open(&scaled, kernels).expect("a scaled fixture runs");
        let difference = network.block_difference(&spoiled, mapping.block).expect("both run");
        assert!(difference > reweight::awq::TOLERANCE, "{name}: {difference:e}");
    }
}

/// Whatever a configuration says, the answer is a result or an error: never a panic, never memory for what is not there.
#[test]
fn hostile_configurations_are_errors_or_results() {
    let values = [
        Value::Null,
        json!(0),
        json!(1),
        json!(-1),
        json!(7),
        json!(2_147_483_648_u64),
        json!(u64::MAX),
        json!(1e300),
        json!(-0.5),
        json!("x"),
        json!([]),
        json!({}),
        json!(true),
    ];
    let mut n_errors = 0;
    for name in ["llama", "gemma3", "qwen3-moe", "phi3-longrope-long", "gpt2", "bert", "rope-yarn"] {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name);
        let text = std::fs::read_to_string(source.join("config.json")).expect("a fixture");
        let config: Value = serde_json::from_str(&text).expect("a fixture is JSON");
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::copy(source.join("model.safetensors"), folder.path().join("model.safetensors")).expect("copied");
        for changed in changed(&config, &values) {
            std::fs::write(folder.path().join("config.json"), changed.to_string()).expect("written");
            n_errors += usize::from(!runs(folder.path()));
        }
    }
    assert!(n_errors > 500, "only {n_errors} errors");
}

/// The configuration with each value, also of the parts, replaced by each of `values`.
fn changed(config: &Value, values: &[Value]) -> Vec<Value> {
    let mut all = Vec::new();
    for (key, old) in config.as_object().expect("a configuration is an object") {
        let parts = old.as_object().map_or(0, serde_json::Map::len);
        let inner = if parts > 0 { changed(old, values) } else { Vec::new() };
        for value in values.iter().cloned().chain(inner) {
            let mut config = config.clone();
            config[key] = value;
            all.push(config);
        }
    }
    all
}

/// Whether a model opens and runs over a few tokens.
fn runs(folder: &Path) -> bool {
    let model = Model::open(folder).expect("the files are as they were");
    let kernels = kernels::best();
    let Ok(network) = Network::open(&model, kernels) else { return false };
    let stop = AtomicBool::new(false);
    let run = Run { stop: &stop, progress: &|_, _| {}, observe: &Nobody };
    let Ok(hidden) = network.hidden_states(&[&[1, 2, 3, 4, 5], &[6]], &run) else { return false };
    network.head().is_ok_and(|head| !head.all_logits(kernels, hidden.window(1)).is_empty())
}
