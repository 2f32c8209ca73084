//! Completion scripts that their shells read, and manual pages.

use std::fs;
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::support::{Cmd, Dir};

const VERBS: [&str; 6] = ["inspect", "quantize", "convert", "diff", "verify", "generate"];

#[test]
fn every_shell_gets_a_script_that_knows_every_verb() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = Cmd::new(&format!("generate completions {shell}")).run().data();
        for verb in VERBS {
            assert!(script.contains(verb), "the script for {shell} does not know {verb}");
        }
        assert!(script.contains("max-shard-size"), "the script for {shell} knows no options");
    }
}

/// Runs a program that checks a file's syntax. `None` where the program is not installed.
fn accepts(program: &str, options: &[&str], script: &str) -> Option<bool> {
    let dir = Dir::new();
    let path = dir.path().join("script");
    fs::write(&path, script).expect("the folder can be written");
    let run = Command::new(program).args(options).arg(&path).stdout(Stdio::null()).stderr(Stdio::null()).status();
    run.ok().map(|status| status.success())
}

#[test]
fn shells_accept_their_scripts() {
    for (shell, options) in [("bash", ["-n"].as_slice()), ("zsh", &["-n"]), ("fish", &["--no-execute"])] {
        let script = Cmd::new(&format!("generate completions {shell}")).run().data();
        assert_ne!(accepts(shell, options, &script), Some(false), "{shell} refuses its script");
        assert_ne!(accepts(shell, options, "if ("), Some(true), "{shell} accepts anything");
    }
    if cfg!(target_os = "linux") {
        assert_eq!(accepts("bash", &["-n"], "true\n"), Some(true), "bash is not here, so nothing was checked");
    }
}

/// What a completion of this line would offer, found by sourcing the script as a shell would.
#[cfg(target_os = "linux")]
#[test]
fn bash_completes_verbs_and_options() {
    let dir = Dir::new();
    let script = Cmd::new("generate completions bash").run().data();
    fs::write(dir.path().join("script"), script).expect("the folder can be written");
    let complete = |words: &str, current: &str| {
        let body = format!(
            "source ./script; COMP_WORDS=(reweight {words} {current}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _reweight reweight '{current}' ''; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let run = Command::new("bash").args(["-c", &body]).current_dir(dir.path()).output().expect("bash is here");
        let offered = String::from_utf8(run.stdout).expect("completions are text");
        offered.lines().map(str::to_owned).collect::<Vec<String>>()
    };
    assert_eq!(complete("", "qu"), ["quantize"]);
    assert_eq!(complete("quantize", "--max"), ["--max-shard-size"]);
    assert_eq!(complete("generate completions", "fi"), ["fish"]);
}

#[test]
fn a_script_as_a_document() {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Document {
        schema: u32,
        shell: String,
        script: String,
    }
    let document: Document = Cmd::new("generate completions zsh --json").run().document();
    assert_eq!((document.schema, document.shell.as_str()), (1, "zsh"));
    assert_eq!(document.script, Cmd::new("generate completions zsh").run().data());
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manual {
    schema: u32,
    pages: Vec<Page>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    name: String,
    text: Option<String>,
    file: Option<String>,
}

#[test]
fn the_manual_page_has_its_sections() {
    let text = Cmd::new("generate man").run().data();
    let headings: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
    let expected =
        ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "\"GLOBAL OPTIONS\"", "SUBCOMMANDS", "EXIT STATUS", "EXAMPLES"];
    assert_eq!(headings, expected);
    let document: Manual = Cmd::new("generate man --json").run().document();
    let page = Page { name: "reweight.1".to_owned(), text: Some(text), file: None };
    assert_eq!((document.schema, document.pages), (1, vec![page]));
}

#[test]
fn a_folder_gets_a_page_for_each_verb() {
    let dir = Dir::new();
    let ran = Cmd::new("generate man --out man/man1").in_dir(&dir).run().expect_status(0);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", "wrote 22 pages to `man/man1`\n"));
    let written: Manual = Cmd::new("generate man --out man/man1 --json").in_dir(&dir).run().document();
    let names: Vec<&str> = written.pages.iter().map(|page| page.name.as_str()).collect();
    let expected = [
        "reweight-bench.1",
        "reweight-calibrate.1",
        "reweight-convert.1",
        "reweight-diff.1",
        "reweight-eval.1",
        "reweight-generate-completions.1",
        "reweight-generate-man.1",
        "reweight-generate.1",
        "reweight-inspect.1",
        "reweight-patch-add.1",
        "reweight-patch-compare.1",
        "reweight-patch-diff.1",
        "reweight-patch-extract.1",
        "reweight-patch-list.1",
        "reweight-patch-remove.1",
        "reweight-patch-scale.1",
        "reweight-patch-verify.1",
        "reweight-patch.1",
        "reweight-plan.1",
        "reweight-quantize.1",
        "reweight-verify.1",
        "reweight.1",
    ];
    assert_eq!(names, expected);
    for page in &written.pages {
        let file = page.file.as_ref().expect("pages in a folder are named");
        let text = fs::read_to_string(dir.path().join(file)).expect("the page was written");
        assert!(text.contains(".SH SYNOPSIS\nreweight"), "{file}:\n{text}");
        // Without groff the pages are checked by their sections only.
        assert_ne!(accepts("groff", &["-man", "-Tascii", "-ww", "-z"], &text), Some(false), "groff refuses {file}");
    }
}
