//! What each verb does, one file per verb: `run(arguments, &Ui) -> Result<Status>`.

mod bench;
mod budget;
mod calibrate;
mod convert;
mod diff;
mod engine;
mod eval;
mod generate;
mod gguf;
mod guidance;
mod inspect;
mod look;
mod patch;
mod plan;
mod quantize;
mod verify;
mod writing;

use std::path::Path;

use anyhow::Context;
use reweight::demo;
use reweight_patches::state;
use reweight_quant::error::PlanError;
use reweight_quant::kernels::{self, Kernels};
use reweight_quant::pattern::Pattern;
use reweight_quant::store::Model;

use crate::args::{Args, Global, KernelChoice, Verb};
use crate::failure::{Problem, Status};
use crate::ui::Ui;

/// Does what the command line asks.
///
/// # Errors
/// Whatever the verb meets; `failure` says how it ends.
pub(crate) fn run(args: &Args, ui: &Ui) -> anyhow::Result<Status> {
    let kernels = prepare(&args.global, ui)?;
    match &args.verb {
        Verb::Inspect(arguments) => inspect::run(arguments, kernels, ui),
        Verb::Calibrate(arguments) => calibrate::run(arguments, kernels, ui),
        Verb::Plan(arguments) => plan::run(arguments, kernels, ui),
        Verb::Quantize(arguments) => quantize::run(arguments, kernels, ui),
        Verb::Convert(arguments) => convert::run(arguments, kernels, ui),
        Verb::Eval(arguments) => eval::run(arguments, kernels, ui),
        Verb::Diff(arguments) => diff::run(arguments, kernels, ui),
        Verb::Verify(arguments) => verify::run(arguments, ui),
        Verb::Patch(arguments) => patch::run(arguments, ui),
        Verb::Bench(arguments) => bench::run(arguments, &args.global, kernels, ui),
        Verb::Generate(arguments) => generate::run(arguments, ui),
    }
}

/// Sets the threads that the whole process shares, and chooses its kernels.
fn prepare(global: &Global, ui: &Ui) -> anyhow::Result<&'static Kernels> {
    if let Some(threads) = global.threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.get());
        pool.build_global().with_context(|| format!("cannot start {threads} threads"))?;
    }
    let name = match global.kernels {
        KernelChoice::Auto => None,
        KernelChoice::Scalar => Some("scalar"),
        KernelChoice::Avx2 => Some("avx2"),
        KernelChoice::Avx512 => Some("avx512"),
        KernelChoice::Neon => Some("neon"),
    };
    let chosen = kernels::select(name).map_err(|error| Problem::usage(error.to_string()))?;
    ui.trace(&format!("threads: {}, kernels: {}", rayon::current_num_threads(), chosen.name));
    Ok(chosen)
}

/// Opens a model by path; the words `demo` and `demo-vision` are bundled ones, unless a path of that name exists.
fn open(path: &Path, ui: &Ui) -> anyhow::Result<Model> {
    let model = match demo::folder_of(path).filter(|_| !path.exists()) {
        Some(folder) => Model::open_folder(&folder)?,
        None => state::open_with_side_terms(path)?,
    };
    ui.trace(&format!("opened {} tensors of {}", model.weights().len(), crate::ui::escape_path(path)));
    Ok(model)
}

/// That a model's codes are all there is to its weights: what is made of them would else lose the patches beside them.
fn refuse_side_terms(model: &Model) -> anyhow::Result<()> {
    let Some(weight) = model.weights().iter().find(|weight| weight.scaling.is_some()) else { return Ok(()) };
    let (path, tensor) = (model.path().display(), &weight.name);
    let problem = Problem::usage(format!("`{path}`: tensor {tensor:?} has a patch beside its bytes"));
    Err(problem
        .hint("`reweight patch remove` takes it off; `reweight convert` to a float type adds it to the weights")
        .into())
}

/// Globs over names of tensors.
fn patterns(texts: &[String]) -> Result<Vec<Pattern>, PlanError> {
    texts.iter().map(|text| Pattern::new(text)).collect()
}
