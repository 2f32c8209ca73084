//! What each verb does, one file per verb: `run(arguments, &Ui) -> Result<Status>`.

mod generate;

use anyhow::{Context, bail};

use crate::args::{Args, Global, KernelChoice, Verb};
use crate::failure::{Problem, Status};
use crate::ui::Ui;

/// Does what the command line asks.
///
/// # Errors
/// Whatever the verb meets; `failure` says how it ends.
pub(crate) fn run(args: &Args, ui: &Ui) -> anyhow::Result<Status> {
    prepare(&args.global)?;
    match &args.verb {
        Verb::Inspect(_) => not_built_in("inspect"),
        Verb::Quantize(_) => not_built_in("quantize"),
        Verb::Convert(_) => not_built_in("convert"),
        Verb::Diff(_) => not_built_in("diff"),
        Verb::Verify(_) => not_built_in("verify"),
        Verb::Generate(arguments) => generate::run(arguments, ui),
    }
}

/// Sets what the whole process shares: its threads and its kernels.
fn prepare(global: &Global) -> anyhow::Result<()> {
    if let Some(threads) = global.threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.get());
        pool.build_global().with_context(|| format!("cannot start {threads} threads"))?;
    }
    match global.kernels {
        KernelChoice::Auto => Ok(()),
        other => bail!(Problem::internal(format!("`--kernels {other:?}` is not built in yet").to_lowercase())),
    }
}

/// Refuses a verb whose body is not there yet.
fn not_built_in(verb: &str) -> anyhow::Result<Status> {
    bail!(Problem::internal(format!("`{verb}` is not built in yet")))
}
