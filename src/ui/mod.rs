//! The conversation with the user, and the only code that prints. Standard output is data: text for people, or one JSON
//! document. Standard error is talk: errors, warnings, hints, notes and progress.
//!
//! What is printed here never reaches a terminal unescaped (see [`escape()`]), and what a color says a word says too. When
//! the reader of standard output goes away (`| head`), the rest of the data is dropped and the work goes on: the exit
//! status stays what it would have been.

mod color;
mod escape;
mod human;
mod progress;
mod table;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use indicatif::ProgressBar;
use serde::Serialize;

use crate::args::{ColorChoice, Global};

pub(crate) use escape::{escape, escape_path};
pub(crate) use human::{bytes, duration, rate};
pub(crate) use progress::Progress;
pub(crate) use table::{Align, Table};

use color::Tone;

/// Where data and talk go, and how much of it there is.
pub(crate) struct Ui {
    json: bool,
    level: Level,
    out: Sink,
    err: Sink,
    err_is_terminal: bool,
    bar: Mutex<Option<ProgressBar>>,
    interrupted: AtomicBool,
}

/// How much is said on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    /// Errors only.
    Quiet,
    /// Also warnings, notes and progress.
    Normal,
    /// Also what is decided for each tensor.
    Detail,
    /// Also files and kernels.
    Trace,
}

/// One of the two streams.
struct Sink {
    stream: Mutex<Box<dyn Write + Send>>,
    colored: bool,
}

impl Ui {
    /// The standard streams, as the options and the environment ask.
    pub(crate) fn new(global: &Global) -> Self {
        let colored = |is_terminal| color::wanted(global.color, |name| std::env::var_os(name), is_terminal);
        let (out, err) = (io::stdout(), io::stderr());
        let err_is_terminal = err.is_terminal();
        Self {
            json: global.json,
            level: Level::of(global),
            out: Sink { colored: colored(out.is_terminal()), stream: Mutex::new(Box::new(out)) },
            err: Sink { colored: colored(err_is_terminal), stream: Mutex::new(Box::new(err)) },
            err_is_terminal,
            bar: Mutex::new(None),
            interrupted: AtomicBool::new(false),
        }
    }

    /// Whether the data is to be a JSON document, given to [`Ui::document`].
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// Prints lines of text for people on standard output. Whatever could act on a terminal is escaped, line ends aside.
    ///
    /// # Errors
    /// Standard output cannot be written for another reason than that nobody reads it.
    pub(crate) fn print(&self, text: &str) -> anyhow::Result<()> {
        let mut lines = String::with_capacity(text.len() + 1);
        for line in text.lines() {
            lines.push_str(&escape(line));
            lines.push('\n');
        }
        self.raw(lines.as_bytes())
    }

    /// Prints a table on standard output.
    ///
    /// # Errors
    /// As [`Ui::print`].
    pub(crate) fn table<const N: usize>(&self, table: &Table<N>) -> anyhow::Result<()> {
        self.raw(table.render(self.out.colored).as_bytes())
    }

    /// Prints the one JSON document of a run on standard output, with `"schema": 1` before its own keys.
    ///
    /// # Errors
    /// As [`Ui::print`].
    pub(crate) fn document(&self, body: &impl Serialize) -> anyhow::Result<()> {
        let document = Document { schema: 1, body };
        let text = serde_json::to_string_pretty(&document).context("cannot write the result as JSON")?;
        self.raw(format!("{}\n", escape::escape_json(&text)).as_bytes())
    }

    /// Prints bytes that this program made itself on standard output, as they are: a script, a manual page.
    ///
    /// # Errors
    /// As [`Ui::print`].
    pub(crate) fn raw(&self, data: &[u8]) -> anyhow::Result<()> {
        let written = self.beside_the_bar(|| {
            let mut stream = self.out.lock();
            stream.write_all(data).and_then(|()| stream.flush())
        });
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.context("cannot write to standard output"),
        }
    }

    /// Says what happens, unless `--quiet`.
    pub(crate) fn note(&self, text: &str) {
        self.say(Level::Normal, None, text);
    }

    /// Says what is decided for a tensor, with `-v`.
    pub(crate) fn detail(&self, text: &str) {
        self.say(Level::Detail, None, text);
    }

    /// Says which file or kernel is used, with `-vv`.
    pub(crate) fn trace(&self, text: &str) {
        self.say(Level::Trace, None, text);
    }

    /// Says what may not be what the user wants, unless `--quiet`.
    pub(crate) fn warn(&self, text: &str) {
        self.say(Level::Normal, Some(Tone::Warning), text);
    }

    /// Says why the run fails.
    pub(crate) fn error(&self, text: &str) {
        self.say(Level::Quiet, Some(Tone::Error), text);
    }

    /// Says what to do about an error.
    pub(crate) fn hint(&self, text: &str) {
        self.say(Level::Quiet, Some(Tone::Hint), text);
    }

    /// Starts to show how much of `total_bytes` is done: a bar on a terminal, else a line every ten seconds, and nothing
    /// with `--quiet`. One at a time; it ends when it is dropped.
    pub(crate) fn progress(&self, total_bytes: u64) -> Progress<'_> {
        self.start_progress(total_bytes, progress::Unit::Bytes)
    }

    /// As [`Ui::progress`], for tokens that each pass `passes` blocks: told of every token once a block.
    pub(crate) fn progress_of_tokens(&self, n_tokens: usize, passes: usize) -> Progress<'_> {
        let passes = passes.max(1) as u64;
        self.start_progress(n_tokens as u64 * passes, progress::Unit::Tokens { passes })
    }

    fn start_progress(&self, total: u64, unit: progress::Unit) -> Progress<'_> {
        let shown = match self.level {
            Level::Quiet => progress::Shown::Nothing,
            Level::Normal if self.err_is_terminal => progress::Shown::Bar,
            _ => progress::Shown::Lines,
        };
        Progress::start(self, total, unit, shown)
    }

    /// Set once the user asks to stop (Ctrl-C, or a signal to end). Long loops look at it between tensors.
    pub(crate) fn interrupted(&self) -> &AtomicBool {
        &self.interrupted
    }

    /// Takes note that the user asks to stop: the first time a long loop ends at the next tensor, the second time the
    /// process ends here. Called on the thread that waits for signals.
    pub(crate) fn interrupt(&self) {
        if self.interrupted.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(crate::failure::Status::Interrupted.code()));
        }
        self.note("stopping at the next tensor; press Ctrl-C again to stop at once");
    }

    /// Writes one line of talk, or nothing when the level is lower. That standard error is closed stops no work.
    fn say(&self, level: Level, tone: Option<Tone>, text: &str) {
        if level <= self.level {
            let label = tone.map(|tone| tone.label(self.err.colored)).unwrap_or_default();
            let line = format!("{label}{}\n", escape(text));
            let _ = self.beside_the_bar(|| self.err.lock().write_all(line.as_bytes()));
        }
    }

    /// Writes while the bar, if there is one, is out of the way.
    fn beside_the_bar<R>(&self, write: impl FnOnce() -> R) -> R {
        let bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

/// Prints what the parser says instead of arguments: help and version on standard output, which is success, and wrong
/// usage on standard error.
pub(crate) fn usage(error: &clap::Error, argv: &[OsString]) -> ExitCode {
    let to_stderr = error.use_stderr();
    let is_terminal = if to_stderr { io::stderr().is_terminal() } else { io::stdout().is_terminal() };
    let rendered = error.render();
    let text = if color::wanted(ColorChoice::scan(argv), |name| std::env::var_os(name), is_terminal) {
        rendered.ansi().to_string()
    } else {
        rendered.to_string()
    };
    if to_stderr {
        let _ = io::stderr().write_all(tips_as_hints(&text).as_bytes());
    } else if let Err(failed) = io::stdout().write_all(text.as_bytes())
        && failed.kind() != io::ErrorKind::BrokenPipe
    {
        let _ = writeln!(io::stderr(), "error: cannot write to standard output: {failed}");
        return crate::failure::Status::Internal.into();
    }
    ExitCode::from(error.exit_code() as u8)
}

/// The parser's advice under the word that all other advice here starts with, so that one search finds both.
fn tips_as_hints(text: &str) -> String {
    let label = Tone::Hint.label(true);
    text.replace("\n  tip: ", "\nhint: ").replace("\n  \x1b[36mtip:\x1b[0m ", &format!("\n{label}"))
}

/// A document with its version in front.
#[derive(Serialize)]
struct Document<'a, T> {
    schema: u32,
    #[serde(flatten)]
    body: &'a T,
}

impl Level {
    fn of(global: &Global) -> Self {
        match (global.quiet, global.verbose) {
            (true, _) => Self::Quiet,
            (false, 0) => Self::Normal,
            (false, 1) => Self::Detail,
            (false, _) => Self::Trace,
        }
    }
}

impl Sink {
    fn lock(&self) -> MutexGuard<'_, Box<dyn Write + Send>> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod tests;
