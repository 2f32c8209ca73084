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
    let on_signal = Arc::clone(&ui);
    let status = failure::guard(&ui, || {
        ctrlc::set_handler(move || on_signal.interrupt()).context("cannot listen for Ctrl-C")?;
        commands::run(&args, &ui)
    });
    status.into()
}
