//! Any bytes as `reweight.json`, as a record of the journal, and as a scheme; what parses prints as it was.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use reweight_quant::pattern::Pattern;
use reweight_quant::scheme::Scheme;
use reweight_quant::stream::Record;
use reweight_quant::verify::{read_manifest, verify};

fuzz_target!(|data: &[u8]| {
    reweight_fuzz::limit();
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(scheme) = text.parse::<Scheme>() {
            assert_eq!(scheme.to_string(), text);
        }
        if let Ok(pattern) = Pattern::new(text) {
            std::hint::black_box(pattern.matches("model.layers.0.mlp.up_proj.weight"));
        }
        if let Ok(record) = serde_json::from_str::<Record>(text) {
            let again = serde_json::to_string(&record).expect("strings and numbers make JSON");
            assert!(serde_json::from_str::<Record>(&again).is_ok());
        }
    }
    let folder = tempfile::tempdir().expect("the system has a folder for temporary files");
    fs::write(folder.path().join("reweight.json"), data).expect("the folder can be written");
    fs::write(folder.path().join("model.safetensors"), b"\x02\0\0\0\0\0\0\0{}").expect("the folder can be written");
    if let Ok(manifest) = read_manifest(folder.path()) {
        assert!(!manifest.to_json().is_empty());
    }
    drop(verify(folder.path()));
});
