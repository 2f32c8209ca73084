//! Signals that ask to stop. The program is held at a place that the test chooses: one of the pages that it writes is a
//! named pipe, which opens when the test reads it. `-vv` tells when the program listens for signals.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};

use crate::support::Dir;

/// The program, waiting to write the first page.
struct Held {
    child: Child,
    stderr: BufReader<ChildStderr>,
    pipe: PathBuf,
    _dir: Dir,
}

impl Held {
    /// Starts the program from a shell in which `exec` takes its place.
    fn start(exec: &str) -> Self {
        let dir = Dir::new();
        let pipe = dir.path().join("reweight-convert.1");
        let made = Command::new("mkfifo").arg(&pipe).status().expect("mkfifo is part of Linux");
        assert!(made.success(), "mkfifo failed");
        let script = format!("{exec} \"$0\" generate man --out . -vv --threads 1");
        let mut child = Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_reweight")])
            .current_dir(dir.path())
            .stderr(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        let stderr = BufReader::new(child.stderr.take().expect("standard error is captured"));
        let mut held = Self { child, stderr, pipe, _dir: dir };
        let line = held.line();
        assert!(line.starts_with("threads: 1, kernels: "), "{line}");
        held
    }

    /// The next line of standard error.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stderr.read_line(&mut line).expect("standard error is text");
        line
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(sent.expect("there is a kill").success(), "cannot send {name}");
    }

    /// Lets the program write its pages.
    fn release(&self) {
        let page = fs::read_to_string(&self.pipe).expect("the page is text");
        assert!(page.contains(".SH NAME"), "{page}");
    }

    fn end(&mut self) -> ExitStatus {
        self.child.wait().expect("the program was started")
    }
}

/// A test that fails must not leave the program waiting for its pipe.
impl Drop for Held {
    fn drop(&mut self) {
        // It may have ended; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn once_is_noted_and_twice_ends_at_once() {
    // What started the tests may ignore signals itself.
    let exec = "exec env --default-signal=INT,TERM,HUP";
    for name in ["INT", "TERM", "HUP"] {
        let mut held = Held::start(exec);
        held.signal(name);
        assert_eq!(held.line(), "stopping at the next tensor; press Ctrl-C again to stop at once\n", "{name}");
        held.signal("INT");
        assert_eq!(held.end().code(), Some(130), "{name}");
    }
}

#[test]
fn a_signal_that_the_parent_ignores_stays_ignored() {
    for name in ["HUP", "INT", "TERM"] {
        let mut held = Held::start(&format!("trap '' {name}; exec"));
        held.signal(name);
        held.release();
        assert_eq!(held.line(), "wrote 22 pages to `.`\n", "{name}");
        assert_eq!(held.end().code(), Some(0), "{name}");
    }
}
