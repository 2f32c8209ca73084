//! The `reweight` command.

mod args;
mod commands;
mod failure;
mod ui;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;

fn main() -> ExitCode {
    let argv: Vec<OsString> = std::env::args_os().collect();
    let args = match args::Args::read(&argv) {
        Ok(args) => args,
        Err(error) => return ui::usage(&error, &argv),
    };
    let ui = Arc::new(ui::Ui::new(&args.global));
    let status = failure::guard(&ui, || {
        listen(&ui)?;
        commands::run(&args, &ui)
    });
    status.into()
}

/// Tells `ui` of signals that ask to stop. Where the parent ignores one of them, as `nohup` does, all stay as they are.
fn listen(ui: &Arc<ui::Ui>) -> anyhow::Result<()> {
    let ui = Arc::clone(ui);
    match ctrlc::try_set_handler(move || ui.interrupt()) {
        Err(error) if !matches!(error, ctrlc::Error::MultipleHandlers) => {
            Err(error).context("cannot listen for Ctrl-C")
        }
        _ => Ok(()),
    }
}
