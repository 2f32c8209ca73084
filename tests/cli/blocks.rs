//! `quantize --text`, block by block: the same as with statistics gathered beforehand, whatever the threads, killed and resumed.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use reweight::demo;
use serde::Deserialize;

use crate::support::{Cmd, Dir};
use crate::synthetic::assert_same_files;

const GUIDED: &str = "--scheme int3-g64 --method best --text demo --tokens 2048 --context 256";

#[derive(Deserialize)]
struct Document {
    n_resumed: usize,
    peak_anonymous_bytes: usize,
    planned_anonymous_bytes: usize,
}

#[derive(Deserialize)]
struct Loss {
    nll: f64,
}

#[track_caller]
fn quantize(dir: &Dir, target: &str, options: &str) -> Document {
    let line = format!("quantize demo {target} {GUIDED} {options} --json");
    Cmd::new(&line).in_dir(dir).run().expect_status(0).document()
}

fn weights(dir: &Dir, target: &str) -> Vec<u8> {
    fs::read(dir.path().join(target).join("model.safetensors")).expect("the target was written")
}

#[test]
fn with_unquantized_blocks_before_it_a_block_becomes_what_statistics_of_the_model_make_of_it() {
    let dir = Dir::new();
    quantize(&dir, "blocks", "--propagate original");
    let calibrate = "calibrate demo stats.safetensors --gram --tokens 2048 --context 256";
    Cmd::new(calibrate).in_dir(&dir).run().expect_status(0);
    let at_once = "quantize demo at-once --scheme int3-g64 --method best --stats stats.safetensors";
    Cmd::new(at_once).in_dir(&dir).run().expect_status(0);
    assert!(weights(&dir, "blocks") == weights(&dir, "at-once"), "the weights differ");
    quantize(&dir, "quantized", "");
    assert!(weights(&dir, "blocks") != weights(&dir, "quantized"), "what blocks give is not seen by the next");
    Cmd::new("verify quantized").in_dir(&dir).run().expect_status(0);
}

#[test]
fn each_method_loses_less_than_the_one_before() {
    let dir = Dir::new();
    fs::write(dir.path().join("demo.txt"), demo::HELDOUT_TEXT).expect("written");
    let losses = ["search", "awq", "best"].map(|method| {
        let line = format!("quantize demo {method} --scheme int2-g32 --method {method} --text demo");
        Cmd::new(&line).in_dir(&dir).run().expect_status(0);
        let line = format!("eval {method} --text demo.txt --max-tokens 8192 --json");
        Cmd::new(&line).in_dir(&dir).run().expect_status(0).document::<Loss>().nll
    });
    assert!(losses.is_sorted_by(|a, b| a > b), "{losses:?}");
}

#[test]
fn the_bytes_do_not_depend_on_threads() {
    let dir = Dir::new();
    for (target, threads) in [("one", 1), ("two", 2), ("three", 3)] {
        let document = quantize(&dir, target, &format!("--threads {threads}"));
        let (peak, planned) = (document.peak_anonymous_bytes, document.planned_anonymous_bytes);
        assert!(peak == 0 || planned > 0, "{peak} of {planned}");
    }
    assert_same_files(&dir.path().join("one"), &dir.path().join("two"), "two threads");
    assert_same_files(&dir.path().join("one"), &dir.path().join("three"), "three threads");
}

/// Starts a run and kills it once its journal has so many lines.
fn kill_after(dir: &Dir, target: &str, n_lines: usize) {
    let journal: PathBuf = dir.path().join(format!(".{target}.partial/.journal.jsonl"));
    let mut child = Command::new(env!("CARGO_BIN_EXE_reweight"))
        .args(["quantize", "demo", target, "--threads", "1"])
        .args(GUIDED.split(' '))
        .current_dir(dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program can be started");
    let deadline = Instant::now() + Duration::from_mins(1);
    while fs::read_to_string(&journal).map_or(0, |text| text.lines().count()) < n_lines {
        assert!(Instant::now() < deadline, "no {n_lines} lines in a minute");
        thread::yield_now();
    }
    child.kill().expect("the program was started");
    child.wait().expect("the program was started");
    assert!(!dir.path().join(target).exists(), "a killed run left `{target}`");
}

#[test]
fn a_killed_run_goes_on_within_a_block_and_between_blocks() {
    let dir = Dir::new();
    quantize(&dir, "whole", "");
    let mut most = 0;
    for n_lines in [1, 2, 5, 9, 11, 14, 19, 26] {
        let target = format!("killed-{n_lines}");
        kill_after(&dir, &target, n_lines);
        let document = quantize(&dir, &target, "--resume");
        assert_same_files(&dir.path().join("whole"), &dir.path().join(&target), &target);
        most = most.max(document.n_resumed);
    }
    assert!(most >= 10, "only {most} tensors were taken over");
}
