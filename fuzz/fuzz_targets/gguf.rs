//! Any bytes as a GGUF file; every row of what parses is dequantized.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use reweight_quant::store::Bytes;
use reweight_quant::store::gguf::{GgufFile, dequantize};

fuzz_target!(|data: &[u8]| {
    reweight_fuzz::limit();
    let Ok(file) = GgufFile::parse(Path::new("f"), Bytes::from_vec(data.to_vec())) else { return };
    for index in 0..file.tensors().len() {
        let tensor = file.tensor(index).expect("every index below the length has a tensor");
        if tensor.bytes().is_empty() {
            continue;
        }
        let mut out = vec![0.0; tensor.info().row_elements()];
        for row in 0..tensor.info().n_rows() {
            dequantize(tensor.info().ty, tensor.row(row).expect("the row is there"), &mut out);
        }
    }
});
