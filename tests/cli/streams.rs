//! Color, and streams that nobody reads or that cannot be written.

use std::io::pipe;

use crate::support::Cmd;

/// Whether the words of a refused command line come in color.
fn is_colored(cmd: Cmd) -> bool {
    let ran = cmd.run().expect_status(2);
    let text = without_color(&ran.stderr);
    assert!(text.contains("error: unrecognized subcommand 'inspct'"), "{text}");
    assert!(text.contains("hint: a similar subcommand exists: 'inspect'"), "{text}");
    text != ran.stderr
}

/// The text without sequences that set a color, which end with `m`.
fn without_color(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default();
    let rest = parts.map(|part| part.split_once('m').map_or(part, |(_, after)| after));
    std::iter::once(first).chain(rest).collect()
}

#[test]
fn color_is_for_terminals_and_for_whoever_asks() {
    let inspct = |options: &str| Cmd::new(&format!("inspct {options}"));
    assert!(!is_colored(inspct("")));
    assert!(is_colored(inspct("--color always")));
    assert!(is_colored(inspct("--color=always").env("NO_COLOR", "1")));
    assert!(is_colored(inspct("").env("CLICOLOR_FORCE", "1")));
    assert!(!is_colored(inspct("").env("CLICOLOR_FORCE", "1").env("NO_COLOR", "1")));
    assert!(!is_colored(inspct("--color never").env("CLICOLOR_FORCE", "1")));
}

#[test]
fn an_error_of_a_verb_obeys_too() {
    let fail = |options: &str| Cmd::new(&format!("generate man --out /dev/null/x {options}")).run().expect_status(3);
    assert!(fail("").stderr.starts_with("error: "));
    assert!(fail("-q").stderr.starts_with("error: "), "--quiet leaves errors");
    assert!(fail("--color always").stderr.starts_with("\x1b[1;31merror:\x1b[0m "));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    for words in ["--help", "generate man", "generate completions bash", "generate completions bash --json"] {
        let (reader, writer) = pipe().expect("the system has pipes");
        drop(reader);
        let ran = Cmd::new(words).stdout(writer).run().expect_status(0);
        assert_eq!(ran.stderr, "", "reweight {words}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_is_full_is_a_failure() {
    for words in ["--help", "generate man", "generate completions bash --json"] {
        let full = std::fs::File::options().write(true).open("/dev/full").expect("Linux has it");
        let ran = Cmd::new(words).stdout(full).run().expect_status(3);
        let expected = "error: cannot write to standard output: No space left on device (os error 28)\n";
        assert!(ran.stderr.starts_with(expected), "reweight {words}: {}", ran.stderr);
    }
}
