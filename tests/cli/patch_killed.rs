//! A process that patches a model in place and is killed at any moment leaves the old model or the new one.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::patch::run;
use crate::support::Dir;
use crate::synthetic::{Random, Tensor, files, write_folder};

/// Kills of each run; `REWEIGHT_KILLS` asks for more.
const KILLS: usize = 30;

fn start(dir: &Dir, words: &str) -> std::process::Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reweight"));
    command.args(words.split(' ')).current_dir(dir.path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("the binary is built and starts")
}

#[test]
fn killed_at_any_moment_it_is_the_old_model_or_the_new_one() {
    let dir = Dir::new();
    let mut random = Random::new(3);
    for name in ["base", "other"] {
        let tensors: Vec<Tensor> =
            (0..6).map(|layer| Tensor::random(&format!("l.{layer}.weight"), &[256, 512], &mut random)).collect();
        write_folder(&dir.path().join(name), &tensors, &json!({}));
    }
    run(&dir, "patch diff base other d.patch");
    run(&dir, "patch add base on --patch d.patch");
    run(&dir, "patch remove on work --all");
    let started = Instant::now();
    run(&dir, "patch add work --in-place --patch d.patch");
    run(&dir, "patch remove work --in-place --all");
    // About what one run takes; it follows how busy disk and processor are, so that about half of the kills come too late.
    let mut whole = started.elapsed().as_secs_f64() / 2.0;
    let (base, on) = (files(&dir.path().join("base")), files(&dir.path().join("on")));
    let weights = |model: &std::collections::BTreeMap<String, Vec<u8>>| model["model.safetensors"].clone();
    let n = std::env::var("REWEIGHT_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(KILLS);
    let (mut is_on, mut n_changed) = (false, 0);
    for round in 0..n {
        let words =
            if is_on { "patch remove work --in-place --all" } else { "patch add work --in-place --patch d.patch" };
        let mut child = start(&dir, words);
        let wait = Duration::from_secs_f64(whole * (0.5 + random.fraction()));
        let started = Instant::now();
        while started.elapsed() < wait {
            std::hint::spin_loop();
        }
        // It may have ended; then there is nothing to kill.
        let _ = child.kill();
        child.wait().expect("it was started");
        let found = fs::read(dir.path().join("work/model.safetensors")).expect("the weights are there at any time");
        assert!(found == weights(&base) || found == weights(&on), "round {round}: neither model");
        let verified: Value = run(&dir, "patch verify work --json").document();
        assert_eq!(verified["ok"], json!(true), "round {round}: {verified}");
        let now = !verified["patches"].as_array().expect("a list").is_empty();
        let expected = if now { &on } else { &base };
        assert!(files(&dir.path().join("work")) == *expected, "round {round}: {words}: not all of it");
        n_changed += usize::from(now != is_on);
        whole *= if now == is_on { 1.15 } else { 0.87 };
        is_on = now;
    }
    assert!(n_changed > 0 && n_changed < n, "kills came before and after the change: {n_changed} of {n}");
}
