//! A process that patches a model in place and is killed at any moment leaves the old model or the new one.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::patch::run;
use crate::patch_coded;
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

/// Everything of a model: its folder, or its file and what its ledger holds.
fn all_of(dir: &Dir, model: &str) -> BTreeMap<String, Vec<u8>> {
    let path = dir.path().join(model);
    if path.is_dir() {
        return files(&path);
    }
    let mut all = BTreeMap::from([("weights".to_owned(), fs::read(&path).expect("the weights are there at any time"))]);
    let ledger = dir.path().join(format!("{model}.ledger"));
    if ledger.exists() {
        all.extend(files(&ledger));
    }
    all
}

/// Adds `d.patch` to `base` and takes it off again, in place, each time killed at another moment. `weights` is the file that holds them.
fn killed(dir: &Dir, base: &str, weights: &str, options: &str) {
    let extension = if dir.path().join(base).is_dir() { "" } else { ".gguf" };
    let (on, work) = (format!("on{extension}"), format!("work{extension}"));
    run(dir, &format!("patch add {base} {on} --patch d.patch{options}"));
    run(dir, &format!("patch remove {on} {work} --all"));
    let add = format!("patch add {work} --in-place --patch d.patch{options}");
    let remove = format!("patch remove {work} --in-place --all");
    let started = Instant::now();
    run(dir, &add);
    run(dir, &remove);
    // About what one run takes; it follows how busy disk and processor are, so that about half of the kills come too late.
    let mut whole = started.elapsed().as_secs_f64() / 2.0;
    let (off, on) = (all_of(dir, base), all_of(dir, &on));
    let n = std::env::var("REWEIGHT_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(KILLS);
    let mut random = Random::new(5);
    let (mut is_on, mut n_changed) = (false, 0);
    for round in 0..n {
        let words = if is_on { &remove } else { &add };
        let mut child = start(dir, words);
        let wait = Duration::from_secs_f64(whole * (0.5 + random.fraction()));
        let started = Instant::now();
        while started.elapsed() < wait {
            std::hint::spin_loop();
        }
        // It may have ended; then there is nothing to kill.
        let _ = child.kill();
        child.wait().expect("it was started");
        let found = all_of(dir, &work);
        assert!(
            found[weights] == off[weights] || found[weights] == on[weights],
            "{base}, round {round}: neither model"
        );
        let verified: Value = run(dir, &format!("patch verify {work} --json")).document();
        assert_eq!(verified["ok"], json!(true), "{base}, round {round}: {verified}");
        let now = !verified["patches"].as_array().expect("a list").is_empty();
        let expected = if now { &on } else { &off };
        assert!(all_of(dir, &work) == *expected, "{base}, round {round}: {words}: not all of it");
        n_changed += usize::from(now != is_on);
        whole *= if now == is_on { 1.15 } else { 0.87 };
        is_on = now;
    }
    assert!(n_changed > 0 && n_changed < n, "{base}: kills came before and after the change: {n_changed} of {n}");
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
    killed(&dir, "base", "model.safetensors", "");
}

#[test]
fn killed_on_a_quantized_folder() {
    let dir = patch_coded::workshop();
    run(&dir, "patch diff source near d.patch");
    run(&dir, "quantize source base --scheme int4-g32");
    killed(&dir, "base", "model.safetensors", "");
}

#[test]
fn killed_on_a_gguf_file() {
    let dir = patch_coded::workshop();
    run(&dir, "patch diff source near d.patch");
    run(&dir, "quantize source base.gguf --to gguf --scheme q4_0");
    killed(&dir, "base.gguf", "weights", " --transfer");
}
