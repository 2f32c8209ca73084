//! `reweight generate`: completion scripts and manual pages, made from the same definition that parses the command line.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use serde::Serialize;

use crate::args::{Args, Generate, GenerateWhat};
use crate::failure::Status;
use crate::ui::{Ui, escape_path};

/// A completion script, as a document.
#[derive(Serialize)]
struct Completions {
    shell: String,
    script: String,
}

/// Manual pages, as a document.
#[derive(Serialize)]
struct Manual {
    pages: Vec<Page>,
}

/// One page: its text, or the file that it was written to.
#[derive(Serialize)]
struct Page {
    name: String,
    #[serde(flatten)]
    content: Content,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Content {
    Text(String),
    File(String),
}

/// Prints or writes what is asked for.
///
/// # Errors
/// The folder or a page cannot be written.
pub(super) fn run(arguments: &Generate, ui: &Ui) -> anyhow::Result<Status> {
    match &arguments.what {
        GenerateWhat::Completions { shell } => completions(*shell, ui)?,
        GenerateWhat::Man { out: None } => manual(ui)?,
        GenerateWhat::Man { out: Some(folder) } => manual_into(folder, ui)?,
    }
    Ok(Status::Done)
}

fn completions(shell: Shell, ui: &Ui) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "reweight", &mut script);
    if !ui.json() {
        return ui.raw(&script);
    }
    let script = String::from_utf8(script).context("the completion script is not text")?;
    ui.document(&Completions { shell: shell.to_string(), script })
}

fn manual(ui: &Ui) -> anyhow::Result<()> {
    let text = page_text(Args::command())?;
    if ui.json() {
        let page = Page { name: "reweight.1".to_owned(), content: Content::Text(text) };
        ui.document(&Manual { pages: vec![page] })
    } else {
        ui.raw(text.as_bytes())
    }
}

fn manual_into(folder: &Path, ui: &Ui) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create `{}`", escape_path(folder)))?;
    let mut pages = Vec::new();
    for (name, command) in page_commands() {
        let path = folder.join(&name);
        fs::write(&path, page_text(command)?).with_context(|| format!("cannot write `{}`", escape_path(&path)))?;
        pages.push(Page { name, content: Content::File(escape_path(&path)) });
    }
    if ui.json() {
        return ui.document(&Manual { pages });
    }
    ui.note(&format!("wrote {} pages to `{}`", pages.len(), escape_path(folder)));
    Ok(())
}

/// The commands that have a page of their own, with the file name of each: the program, its verbs, and theirs.
fn page_commands() -> Vec<(String, Command)> {
    let mut root = Args::command().disable_help_subcommand(true);
    root.build();
    let mut pages = Vec::new();
    let mut left = vec![root];
    while let Some(command) = left.pop() {
        left.extend(command.get_subcommands().cloned());
        let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
        pages.push((format!("{name}.1"), command));
    }
    pages.sort_by(|(a, _), (b, _)| a.cmp(b));
    pages
}

/// A page in the troff format that `man` reads. The synopsis is the line of usage that the parser prints, and the
/// headings of the text after the help become sections whose lines stay as they are.
fn page_text(mut command: Command) -> anyhow::Result<String> {
    let usage = command.render_usage().to_string();
    let after_help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    let has_subcommands = command.has_subcommands();
    let man = Man::new(command);
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    writeln!(page, ".SH SYNOPSIS\n{}", troff(usage.trim_start_matches("Usage: ")))?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if has_subcommands {
        man.render_subcommands_section(&mut page)?;
    }
    for line in after_help.lines() {
        match line.strip_suffix(':') {
            Some(heading) if !line.starts_with(' ') => writeln!(page, ".SH {}\n.nf", heading.to_uppercase())?,
            _ if line.is_empty() => writeln!(page, ".fi")?,
            _ => writeln!(page, "{}", troff(line))?,
        }
    }
    String::from_utf8(page).context("the manual page is not text")
}

/// Text as troff reads it back: a hyphen that is no place to break a word, and a backslash that is one.
fn troff(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq")
}
