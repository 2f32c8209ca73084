//! What every test here stands on: a folder of its own, a command with nothing inherited, and snapshots.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// Set to 1 to write snapshots instead of comparing with them.
const UPDATE: &str = "REWEIGHT_UPDATE_SNAPSHOTS";

/// A folder that goes away with the test.
pub(crate) struct Dir(TempDir);

impl Dir {
    pub(crate) fn new() -> Self {
        Self(TempDir::new().expect("the system has a folder for temporary files"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Names of what the folder holds, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path()).expect("the folder is there");
        let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("the folder can be read").file_name();
        let mut names: Vec<String> = entries.map(|entry| name(entry).to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

/// `reweight` with next to nothing in its environment, in a folder of its own unless [`Cmd::in_dir`] names one.
pub(crate) struct Cmd {
    command: Command,
    line: String,
    _dir: Option<Dir>,
}

impl Cmd {
    /// The command with these words, as a shell without quotes would split them.
    pub(crate) fn new(words: &str) -> Self {
        let dir = Dir::new();
        let mut command = Command::new(env!("CARGO_BIN_EXE_reweight"));
        command.args(words.split_whitespace()).env_clear().current_dir(dir.path()).stdin(Stdio::null());
        // Windows starts few programs without the first; the second lets one run of all tests force a table of kernels.
        for name in ["SystemRoot", "REWEIGHT_KERNELS"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        Self { command, line: format!("reweight {words}").trim_end().to_owned(), _dir: Some(dir) }
    }

    /// Adds one word that may hold anything.
    pub(crate) fn arg(mut self, word: impl AsRef<OsStr>) -> Self {
        self.command.arg(word);
        self
    }

    pub(crate) fn in_dir(mut self, dir: &Dir) -> Self {
        self.command.current_dir(dir.path());
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Gives the command this standard output, which is then not captured.
    pub(crate) fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.command.stdout(stdout);
        self
    }

    /// Runs to the end.
    #[track_caller]
    pub(crate) fn run(mut self) -> Ran {
        let output = self.command.output().expect("the binary is built and starts");
        let text = |bytes| String::from_utf8(bytes).expect("all that is printed is text");
        Ran {
            line: self.line,
            status: output.status.code().expect("no signal ended it"),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

/// What came of a command.
#[derive(Debug)]
pub(crate) struct Ran {
    line: String,
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Checks the exit status, and shows everything when it is another one.
    #[track_caller]
    pub(crate) fn expect_status(self, expected: i32) -> Self {
        assert_eq!(self.status, expected, "\n{}", self.transcript());
        self
    }

    /// Standard output, where the run succeeded and said nothing on standard error.
    #[track_caller]
    pub(crate) fn data(self) -> String {
        assert_eq!((self.status, self.stderr.as_str()), (0, ""), "\n{}", self.transcript());
        self.stdout
    }

    /// The one JSON document on standard output, in the shape that a test states.
    #[track_caller]
    pub(crate) fn document<T: serde::de::DeserializeOwned>(&self) -> T {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}\n{}", self.transcript()))
    }

    /// Compares the run with `snapshots/NAME.txt`.
    #[track_caller]
    pub(crate) fn matches_snapshot(&self, name: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/snapshots").join(format!("{name}.txt"));
        let found = self.transcript();
        if std::env::var_os(UPDATE).is_some_and(|value| value == "1") {
            fs::write(&path, found).expect("snapshots can be written");
            return;
        }
        let expected = fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("cannot read `{}`: {error}; {UPDATE}=1 writes it", path.display()))
            .replace("\r\n", "\n");
        assert!(
            expected == found,
            "`{}` differs; {UPDATE}=1 writes it again\n--- expected\n{expected}\n--- found\n{found}",
            path.display()
        );
    }

    /// The command, its exit status and both streams. Spaces at line ends are left out, so that an editor that drops
    /// them breaks no snapshot.
    fn transcript(&self) -> String {
        let mut text = format!("$ {}\nexit status {}\n", self.line, self.status);
        for (name, stream) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !stream.is_empty() {
                text.push_str("--- ");
                text.push_str(name);
                text.push('\n');
                stream.lines().for_each(|line| {
                    text.push_str(line.trim_end());
                    text.push('\n');
                });
            }
        }
        text
    }
}
