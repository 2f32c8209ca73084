//! Any bytes as a safetensors file; what parses is inside the file and reads whole.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use reweight_quant::store::Bytes;
use reweight_quant::store::safetensors::SafetensorsFile;

fuzz_target!(|data: &[u8]| {
    reweight_fuzz::limit();
    if let Ok(file) = SafetensorsFile::parse(Path::new("f"), Bytes::from_vec(data.to_vec())) {
        let covered: usize = file.tensors().iter().map(|tensor| file.bytes()[tensor.range.clone()].len()).sum();
        assert!(covered <= data.len());
    }
});
