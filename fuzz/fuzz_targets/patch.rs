//! Any bytes as a patch file, a ledger, an undo record and an adapter of PEFT or llama.cpp; what parses prints and reads as it was.
#![no_main]

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use reweight_patches::values::Float;
use reweight_patches::{Ledger, Patch, adapter, undo};
use reweight_quant::store::{Bytes, Model};

/// The model for which adapters in GGUF files are read: its configuration matters, and no weight does.
static BASE: OnceLock<Model> = OnceLock::new();

fn base() -> Model {
    let folder = tempfile::tempdir().expect("the system has a folder for temporary files");
    let config = include_bytes!("../../tests/fixtures/lora/config.json");
    fs::write(folder.path().join("config.json"), config).expect("the folder can be written");
    let weights = include_bytes!("../seeds/safetensors/plain");
    fs::write(folder.path().join("model.safetensors"), weights).expect("the folder can be written");
    Model::open(folder.path()).expect("it is a model")
}

fuzz_target!(|data: &[u8]| {
    reweight_fuzz::limit();
    if let Ok(patch) = Patch::parse(Path::new("f"), Bytes::from_vec(data.to_vec())) {
        for entry in &patch.header().tensors {
            assert_eq!(patch.entry(&entry.name), Some(entry));
        }
    }
    if let Ok(ledger) = Ledger::parse(Path::new("f"), data) {
        assert_eq!(Ledger::parse(Path::new("f"), ledger.to_json().as_bytes()).ok(), Some(ledger));
    }
    for float in [Float::Bf16, Float::F32, Float::F64] {
        let mut predicted = vec![0; 40 * float.bytes()];
        std::hint::black_box(undo::decode(float, data, &mut predicted));
    }
    std::hint::black_box(undo::decode_bytes(data, &mut [0; 80]));
    if data.starts_with(b"GGUF") {
        let file = tempfile::NamedTempFile::new().expect("the system has a folder for temporary files");
        fs::write(file.path(), data).expect("the file can be written");
        drop(adapter::open(file.path(), Some(BASE.get_or_init(base))));
    }
    // The first byte says how much of the rest is the configuration.
    if let Some((&length, rest)) = data.split_first() {
        let (config, weights) = rest.split_at(rest.len().min(4 * usize::from(length)));
        let folder = tempfile::tempdir().expect("the system has a folder for temporary files");
        fs::write(folder.path().join("adapter_config.json"), config).expect("the folder can be written");
        fs::write(folder.path().join("adapter_model.safetensors"), weights).expect("the folder can be written");
        drop(adapter::open(folder.path(), None));
    }
});
