//! How a run ends: the one map from an error to an exit status, and the one place that renders an error and its hints.

use std::error::Error;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use reweight::chat::ChatError;
use reweight::eval::ImageSetError;
use reweight::model::ModelError;
use reweight::text::TextError;
use reweight_patches::PatchError;
use reweight_quant::error::{Error as QuantError, FileError, PlanError, RunError};

use crate::ui::Ui;

/// How a run ends, as other programs see it. The numbers are part of the command line's contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// All that was asked is done.
    Done = 0,
    /// It is done, and a check that was asked for does not hold.
    CheckFailed = 1,
    /// The command line or a file that it names is not right.
    Usage = 2,
    /// The system refused, or this program is wrong.
    Internal = 3,
    /// The user stopped it.
    Interrupted = 130,
}

impl Status {
    /// The number.
    pub(crate) const fn code(self) -> u8 {
        self as u8
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status.code())
    }
}

/// An error of the command line itself, with its status. Libraries have their own errors, listed in [`judge`].
#[derive(Debug)]
pub(crate) struct Problem {
    status: Status,
    message: String,
    hint: Option<String>,
}

impl Problem {
    /// What the user asked for cannot be: exit status 2.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { status: Status::Usage, message: message.into(), hint: None }
    }

    /// The system or this program is at fault: exit status 3.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self { status: Status::Internal, message: message.into(), hint: None }
    }

    /// Adds what to do about it.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Problem {}

/// An error with the status that it ends the run with and the hints that go with it.
#[derive(Debug)]
pub(crate) struct Failure {
    error: anyhow::Error,
    status: Status,
    hints: Vec<String>,
}

impl From<anyhow::Error> for Failure {
    /// The outermost cause that [`judge`] knows decides the status, 3 when it knows none; every cause may give a hint.
    fn from(error: anyhow::Error) -> Self {
        let judged: Vec<(Status, Option<String>)> = error.chain().filter_map(judge).collect();
        let status = judged.first().map_or(Status::Internal, |(status, _)| *status);
        let mut hints: Vec<String> = judged.into_iter().filter_map(|(_, hint)| hint).collect();
        hints.dedup();
        Self { error, status, hints }
    }
}

impl Failure {
    /// The exit status.
    pub(crate) fn status(&self) -> Status {
        self.status
    }

    /// Says what is wrong, and what to do about it.
    pub(crate) fn show(&self, ui: &Ui) {
        ui.error(&self.message());
        self.hints.iter().for_each(|hint| ui.hint(hint));
    }

    /// The error and its causes, outermost first, in one line that can be searched for. A cause that the text before it
    /// already ends with is not repeated.
    fn message(&self) -> String {
        let mut message = String::new();
        for cause in self.error.chain().map(ToString::to_string) {
            if message.is_empty() {
                message = cause;
            } else if !message.ends_with(&cause) {
                message.push_str(": ");
                message.push_str(&cause);
            }
        }
        message
    }
}

/// The status and the hint of every type of error that this program meets.
fn judge(cause: &(dyn Error + 'static)) -> Option<(Status, Option<String>)> {
    if let Some(problem) = cause.downcast_ref::<Problem>() {
        Some((problem.status, problem.hint.clone()))
    } else if let Some(error) = cause.downcast_ref::<QuantError>() {
        Some((quant_status(error), error.hint()))
    } else if let Some(error) = cause.downcast_ref::<PatchError>() {
        let status = match error {
            PatchError::File(error) => file_status(error),
            PatchError::Quant(error) => quant_status(error),
            PatchError::Interrupted => Status::Interrupted,
            _ => Status::Usage,
        };
        Some((status, error.hint()))
    } else if let Some(error) = cause.downcast_ref::<FileError>() {
        Some((file_status(error), error.hint()))
    } else if let Some(error) = cause.downcast_ref::<PlanError>() {
        Some((Status::Usage, error.hint()))
    } else if let Some(error) = cause.downcast_ref::<ModelError>() {
        let status = match error {
            ModelError::Interrupted => Status::Interrupted,
            ModelError::Spill { .. } => Status::Internal,
            ModelError::File(error) => file_status(error),
            _ => Status::Usage,
        };
        Some((status, error.hint()))
    } else if let Some(error) = cause.downcast_ref::<ImageSetError>() {
        let status = match error {
            ImageSetError::File(error) => file_status(error),
            _ => Status::Usage,
        };
        Some((status, error.hint()))
    } else if let Some(error) = cause.downcast_ref::<TextError>() {
        Some((Status::Usage, error.hint()))
    } else if let Some(error) = cause.downcast_ref::<ChatError>() {
        Some((Status::Usage, error.hint()))
    } else if let Some(error) = cause.downcast_ref::<io::Error>() {
        let full = error.kind() == io::ErrorKind::StorageFull;
        Some((Status::Internal, full.then(|| "free some space or write to another disk".to_owned())))
    } else {
        None
    }
}

fn quant_status(error: &QuantError) -> Status {
    match error {
        QuantError::File(error) => file_status(error),
        QuantError::Run(RunError::Interrupted { .. }) => Status::Interrupted,
        QuantError::Run(RunError::Mismatch { .. }) => Status::Internal,
        _ => Status::Usage,
    }
}

/// A file that is not there or not right is the user's; one that the system refuses is not.
fn file_status(error: &FileError) -> Status {
    match error {
        FileError::Io { source, .. } if source.kind() != io::ErrorKind::NotFound => Status::Internal,
        _ => Status::Usage,
    }
}

/// Runs a verb and says what went wrong, if anything did. A panic is a defect of this program and ends like any other
/// internal error; the lines that it printed say where.
pub(crate) fn guard(ui: &Ui, verb: impl FnOnce() -> anyhow::Result<Status>) -> Status {
    let defect =
        || Problem::internal("internal error").hint("this is a bug in reweight; the lines above say where it is");
    let failure = match catch_unwind(AssertUnwindSafe(verb)) {
        Ok(Ok(status)) => return status,
        Ok(Err(error)) => Failure::from(error),
        Err(_) => Failure::from(anyhow::Error::new(defect())),
    };
    failure.show(ui);
    failure.status()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use anyhow::anyhow;

    use super::*;
    use crate::ui::tests::captured;

    /// The status, the message and the hints of an error.
    fn judged(error: anyhow::Error) -> (u8, String, Vec<String>) {
        let failure = Failure::from(error);
        (failure.status().code(), failure.message(), failure.hints)
    }

    fn io_error(kind: io::ErrorKind) -> FileError {
        FileError::Io { path: PathBuf::from("m"), doing: "open", source: kind.into() }
    }

    #[test]
    fn what_each_error_ends_with() {
        let malformed = FileError::Malformed { path: "m".into(), format: "safetensors", what: "x".to_owned() };
        let rows = [
            (anyhow::Error::new(Problem::usage("a")), 2, "a", vec![]),
            (anyhow::Error::new(Problem::usage("a").hint("b")).context("c"), 2, "c: a", vec!["b"]),
            (anyhow::Error::new(Problem::internal("a")), 3, "a", vec![]),
            (malformed.into(), 2, "`m` is not a valid safetensors file: x", vec![]),
            (io_error(io::ErrorKind::NotFound).into(), 2, "cannot open `m`: entity not found", vec![]),
            (
                io_error(io::ErrorKind::StorageFull).into(),
                3,
                "cannot open `m`: no storage space",
                vec!["free some space or write to another disk"],
            ),
            (anyhow!("unheard of").context("outer"), 3, "outer: unheard of", vec![]),
        ];
        for (error, status, message, hints) in rows {
            let hints = hints.into_iter().map(str::to_owned).collect();
            assert_eq!(judged(error), (status, message.to_owned(), hints));
        }
    }

    #[test]
    fn the_numbers_are_the_contract() {
        use Status::{CheckFailed, Done, Internal, Interrupted, Usage};
        assert_eq!([Done, CheckFailed, Usage, Internal, Interrupted].map(Status::code), [0, 1, 2, 3, 130]);
    }

    #[test]
    fn a_verb_that_panics_ends_as_an_internal_error() {
        let (ui, streams) = captured(&[]);
        let status = guard(&ui, || panic!("this line belongs to a test that passes"));
        assert_eq!(status, Status::Internal);
        assert_eq!(
            streams.err(),
            "error: internal error\nhint: this is a bug in reweight; the lines above say where it is\n"
        );
    }

    #[test]
    fn a_verb_that_fails_says_why() {
        let (ui, streams) = captured(&["--json"]);
        let status = guard(&ui, || Err(Problem::usage("`a\x1b[2J`\nb").hint("c").into()));
        assert_eq!(status, Status::Usage);
        assert_eq!(streams.err(), "error: `a\\x1b[2J`\\nb\nhint: c\n");
        assert_eq!(streams.out(), "");
        assert_eq!(guard(&ui, || Ok(Status::CheckFailed)), Status::CheckFailed);
    }

    #[test]
    fn a_cause_is_said_once() {
        let error = anyhow!("no space").context("cannot write: no space").context("cannot quantize");
        assert_eq!(judged(error).1, "cannot quantize: cannot write: no space");
    }
}
