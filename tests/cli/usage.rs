//! Command lines that are refused: exit status 2, nothing on standard output, and a message that says what is accepted.

use crate::support::{Cmd, Dir};

#[test]
fn what_is_refused_and_how() {
    let rows = [
        ("", "refused-nothing"),
        ("frobnicate", "refused-verb"),
        ("inspct m", "refused-verb-near"),
        ("inspect", "refused-no-model"),
        ("quantize m", "refused-no-target"),
        ("quantize m t extra", "refused-extra"),
        ("quantize m t --max-shard-size 5G", "refused-size"),
        ("quantize m t --tensor int4-g128", "refused-tensor"),
        ("quantize m t --method gptq", "refused-method"),
        ("quantize m t --report r.html", "refused-report"),
        ("convert m t", "refused-no-dtype"),
        ("diff a b --fail-above -1", "refused-bound"),
        ("diff a b --fail-abov 1", "refused-option-near"),
        ("verify t --threads 0", "refused-threads"),
        ("verify t --kernels sse2", "refused-kernels"),
        ("verify t -q -v", "refused-quiet-verbose"),
        ("generate completions tcsh", "refused-shell"),
    ];
    for (words, snapshot) in rows {
        let ran = Cmd::new(words).run();
        ran.matches_snapshot(snapshot);
        let ran = ran.expect_status(2);
        assert_eq!(ran.stdout, "", "`reweight {words}` is refused with data");
        assert!(words.is_empty() || ran.stderr.starts_with("error: "), "`reweight {words}`: {}", ran.stderr);
    }
}

/// Wrong usage is found before anything is read or written.
#[test]
fn nothing_is_written_when_usage_is_wrong() {
    let dir = Dir::new();
    for words in ["quantize m t --scheme", "convert m t", "generate man --out", "generate completions tcsh"] {
        Cmd::new(words).in_dir(&dir).run().expect_status(2);
    }
    assert_eq!(dir.names(), [""; 0]);
}

#[cfg(unix)]
#[test]
fn a_word_that_is_no_text_is_refused_or_taken_as_a_path() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let word = OsStr::from_bytes(b"\xff");
    Cmd::new("").arg(word).run().expect_status(2);
    Cmd::new("quantize m t --scheme").arg(word).run().expect_status(2);
}
