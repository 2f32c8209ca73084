//! The forward pass against transformers: a tiny random model of every architecture and every rotation.
//!
//! `tools/make-model-fixtures.py` made the folders; each names the versions of transformers and torch in the metadata of its
//! `expected.safetensors`.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use reweight::model::{Network, Nobody, Run};
use reweight_quant::kernels::{Kernels, supported};
use reweight_quant::store::Model;
use safetensors::SafeTensors;

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
