//! Any bytes as a folder: the first byte says which file the others are, beside files that are right. What opens is
//! read row by row, planned, and held against what engines load.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use reweight_quant::engines::{Engine, check_model, check_plan};
use reweight_quant::kernels;
use reweight_quant::plan::{Method, Plan, PlanOptions};
use reweight_quant::store::Model;

const RIGHT: &[u8] = include_bytes!("../seeds/safetensors/packed");
const NAMES: [&str; 3] = ["model.safetensors", "config.json", "model.safetensors.index.json"];

fuzz_target!(|data: &[u8]| {
    reweight_fuzz::limit();
    let Some((&which, data)) = data.split_first() else { return };
    let folder = tempfile::tempdir().expect("the system has a folder for temporary files");
    fs::write(folder.path().join(NAMES[0]), RIGHT).expect("the folder can be written");
    fs::write(folder.path().join(NAMES[usize::from(which) % 3]), data).expect("the folder can be written");
    let Ok(model) = Model::open(folder.path()) else { return };
    let kernels = kernels::select(Some("scalar")).expect("every machine has the scalar kernels");
    for weight in model.weights() {
        let n_rows = weight.rows();
        let mut row = vec![0.0; if n_rows == 0 { 0 } else { weight.columns() }];
        for index in 0..n_rows {
            weight.read_rows(kernels, index..index + 1, &mut row);
        }
    }
    for engine in [Engine::Vllm, Engine::LlamaCpp, Engine::Transformers] {
        drop(check_model(engine, &model));
    }
    let options = PlanOptions::new("int4-g128".parse().expect("it is a scheme"), Method::Rtn);
    for scheme in [options.scheme, None] {
        if let Ok(plan) = Plan::new(&model, &PlanOptions { scheme, ..options.clone() }) {
            drop(plan.config(&model));
            drop(check_plan(Engine::Vllm, &model, &plan, false));
        }
    }
});
