//! Files that no honest program writes, through the command line: refused with a message that names the file, or read;
//! and whatever they hold, nothing that drives a terminal comes out.

#[path = "../../quant/tests/hostile/files.rs"]
mod files;

use crate::support::{Cmd, Dir, Ran};

/// What is wrong with a run on a hostile file.
fn judge(ran: &Ran, verb: &str, path: &str) -> Vec<String> {
    let mut failures = Vec::new();
    // That a target differs from what it should be is an answer too.
    if !([0, 2].contains(&ran.status) || (verb, ran.status) == ("verify", 1)) {
        failures.push(format!("exit status {}", ran.status));
    }
    let drives_a_terminal = |c: char| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{202e}').contains(&c);
    if ran.stdout.contains(drives_a_terminal) || ran.stderr.contains(drives_a_terminal) {
        failures.push("control characters are shown".to_owned());
    }
    if ran.status == 2 && !ran.stderr.contains(path) {
        failures.push("no file is named".to_owned());
    }
    if ran.stderr.contains("panicked") || ran.stderr.contains("internal error") {
        failures.push("it panicked".to_owned());
    }
    if ran.stderr.contains(".target.partial") {
        failures.push("it was refused only after it was written".to_owned());
    }
    failures.into_iter().map(|what| format!("{what}: {:.300}", ran.stderr)).collect()
}

#[test]
fn hostile_files_are_refused_in_plain_text() {
    let mut failures = Vec::new();
    let mut n_refused = 0;
    let cases = files::all();
    for case in &cases {
        assert!(case.bytes() < 1 << 20, "{}: {} bytes", case.name, case.bytes());
        let source = Dir::new();
        let path = case.write(source.path());
        let folder = source.path().to_string_lossy();
        for (verb, rest) in
            [("inspect", ""), ("inspect", "--json"), ("quantize", "target"), ("verify", ""), ("diff", "demo")]
        {
            let ran = rest.split_whitespace().fold(Cmd::new(verb).arg(&path), Cmd::arg).run();
            n_refused += usize::from(ran.status == 2);
            let problems = judge(&ran, verb, &folder);
            failures.extend(problems.into_iter().map(|what| format!("{verb} {rest}: {}: {what}", case.name)));
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    assert!(n_refused > 3 * cases.len(), "only {n_refused} runs on {} files were refused", cases.len());
}
