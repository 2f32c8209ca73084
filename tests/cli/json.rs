//! What `--json` promises whatever the verb: one document with `"schema": 1` when it is done, and when it fails text on
//! standard error and nothing on standard output.

use std::fs;

use crate::support::{Cmd, Dir};

#[test]
fn wrong_usage_is_text_and_no_document() {
    for words in ["--json", "frobnicate --json", "inspect --json", "diff a --json", "--json verify t --threads x"] {
        let ran = Cmd::new(words).run().expect_status(2);
        assert_eq!(ran.stdout, "", "reweight {words}");
        assert!(!ran.stderr.is_empty() && !ran.stderr.starts_with('{'), "reweight {words}: {}", ran.stderr);
    }
}

#[test]
fn what_the_system_refuses_is_text_and_no_document() {
    let dir = Dir::new();
    fs::write(dir.path().join("file"), "").expect("the folder can be written");
    let ran = Cmd::new("generate man --out file --json").in_dir(&dir).run().expect_status(3);
    assert_eq!(ran.stdout, "");
    assert!(ran.stderr.starts_with("error: cannot create `file`: "), "{}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
}

#[test]
fn a_document_is_the_only_thing_on_either_stream() {
    #[derive(serde::Deserialize)]
    struct Versioned {
        schema: u32,
    }
    for words in ["generate completions bash --json", "--json generate man", "generate man --out pages --json -q"] {
        let ran = Cmd::new(words).run().expect_status(0);
        assert_eq!(ran.document::<Versioned>().schema, 1, "reweight {words}");
        assert_eq!(ran.stderr, "", "reweight {words}");
    }
}
