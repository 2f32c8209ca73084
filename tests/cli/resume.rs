//! The same bytes however a run goes: threads, kernels, killed and resumed; and what stands in the way of a target.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Cmd, Dir};
use crate::synthetic::{Random, Tensor, assert_same_files, ranges, write_folder};

/// Enough work for half a second of the scalar kernels, in tensors small enough that a kill falls between many of them.
const N_TENSORS: usize = 24;
const SHAPE: [usize; 2] = [128, 512];
/// Slow on purpose, so that there is something to interrupt.
const SLOW: [&str; 6] = ["--kernels", "scalar", "--threads", "1", "--method", "search"];

/// A model in `source` and the target that an undisturbed run makes of it in `whole`.
struct Case {
    dir: Dir,
    seconds: f64,
}

/// What `--json` says about a run, as far as these tests care.
#[derive(serde::Deserialize)]
struct Figures {
    n_resumed: usize,
}

impl Case {
    fn new() -> Self {
        let dir = Dir::new();
        write_folder(&dir.path().join("source"), &model(7), &json!({ "model_type": "llama" }));
        fs::write(dir.path().join("source/tokenizer.json"), "{}").expect("the folder can be written");
        let started = Instant::now();
        slow(&dir, "whole").run().expect_status(0);
        Self { seconds: started.elapsed().as_secs_f64(), dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a slow run that is meant not to end.
    fn start(&self, target: &str) -> Child {
        Command::new("env")
            // What started the tests may ignore signals itself.
            .args(["--default-signal=INT", env!("CARGO_BIN_EXE_reweight"), "quantize", "source", target])
            .args(SLOW)
            .env_remove("REWEIGHT_KERNELS")
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("there is an env")
    }

    /// Starts a slow run and returns once it has finished some tensors.
    fn start_and_await(&self, target: &str, n_finished: usize) -> Child {
        let child = self.start(target);
        let journal = self.partial(target).join(".journal.jsonl");
        let deadline = Instant::now() + Duration::from_mins(1);
        while fs::read_to_string(&journal).map_or(0, |text| text.lines().count()) < n_finished + 1 {
            assert!(Instant::now() < deadline, "no {n_finished} tensors were finished in a minute");
            thread::yield_now();
        }
        child
    }

    /// Leaves a partial target with some finished tensors, and returns how many.
    fn leave_partial(&self, target: &str, n_finished: usize) -> usize {
        let mut child = self.start_and_await(target, n_finished);
        child.kill().expect("the program was started");
        let status = child.wait().expect("the program was started");
        assert_eq!(status.code(), None, "the run ended before it was killed");
        assert!(!self.path(target).exists(), "a killed run left `{target}`");
        let journal = fs::read_to_string(self.partial(target).join(".journal.jsonl")).expect("there is a journal");
        journal.lines().count() - 1
    }

    fn partial(&self, target: &str) -> PathBuf {
        self.path(&format!(".{target}.partial"))
    }

    /// Goes on with what is left, with other threads and kernels than it was begun with. Returns how many tensors were
    /// taken over.
    #[track_caller]
    fn resume(&self, target: &str) -> usize {
        let line = format!("quantize source {target} --resume --json --threads 2");
        let ran = Cmd::new(&line).in_dir(&self.dir).run().expect_status(0);
        assert_same_files(&self.path("whole"), &self.path(target), target);
        assert!(!self.partial(target).exists(), "the partial folder is still there");
        ran.document::<Figures>().n_resumed
    }
}

fn model(seed: u64) -> Vec<Tensor> {
    let mut random = Random::new(seed);
    let name = |index| format!("model.layers.{index}.mlp.up_proj.weight");
    let mut tensors: Vec<Tensor> =
        (0..N_TENSORS).map(|index| Tensor::random(&name(index), &SHAPE, &mut random)).collect();
    tensors.push(Tensor::random("model.norm.weight", &[512], &mut random));
    tensors.push(Tensor::random("model.embed_tokens.weight", &[64, 512], &mut random));
    tensors
}

fn slow(dir: &Dir, target: &str) -> Cmd {
    Cmd::new(&format!("quantize source {target} {}", SLOW.join(" "))).in_dir(dir)
}

#[test]
fn threads_and_kernels_change_no_byte() {
    let case = Case::new();
    let mut n_tables = 0;
    for kernels in ["scalar", "avx2", "avx512", "neon"] {
        for threads in [1, 2, 3] {
            let target = format!("{kernels}-{threads}");
            let line = format!("quantize source {target} --kernels {kernels} --threads {threads}");
            let ran = Cmd::new(&line).in_dir(&case.dir).run();
            if ran.status == 2 && kernels != "scalar" {
                // A table that this machine cannot run is refused, and nothing is left.
                assert!(ran.stderr.contains(&format!("`{kernels}`")), "{}", ran.stderr);
                assert!(!case.path(&target).exists() && !case.partial(&target).exists(), "{target}");
                continue;
            }
            ran.expect_status(0);
            assert_same_files(&case.path("whole"), &case.path(&target), &target);
            n_tables += 1;
        }
    }
    assert!(n_tables >= 3, "the scalar kernels run everywhere");
}

#[test]
fn a_run_killed_at_any_time_leaves_no_target_and_is_resumed() {
    const KILLS: usize = 20;
    let case = Case::new();
    let mut random = Random::new(0x5EED);
    let (mut n_killed, mut n_resumed) = (0, 0);
    for kill in 0..KILLS {
        let target = format!("killed-{kill}");
        // Spread over the run and a little beyond. The time is what varies here, so there is nothing else to wait for.
        let delay = case.seconds * (kill as f64 + random.fraction()) / KILLS as f64;
        let mut child = case.start(&target);
        thread::sleep(Duration::from_secs_f64(delay));
        child.kill().expect("the program was started");
        let status = child.wait().expect("the program was started");
        // A run may be killed between the rename that completes it and its end.
        if status.success() || case.path(&target).exists() {
            assert_same_files(&case.path("whole"), &case.path(&target), &target);
            continue;
        }
        n_killed += 1;
        n_resumed += case.resume(&target);
        fs::remove_dir_all(case.path(&target)).expect("the target can be removed");
    }
    assert!(n_killed >= KILLS / 4, "only {n_killed} of {KILLS} kills came before the end");
    assert!(n_resumed > 0, "no run had finished a tensor before it was killed");
}

#[test]
fn an_interrupted_run_says_how_to_go_on() {
    let case = Case::new();
    let child = case.start_and_await("target", 2);
    let sent = Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status();
    assert!(sent.expect("there is a kill").success(), "cannot send INT");
    let output = child.wait_with_output().expect("the program was started");
    let stderr = String::from_utf8(output.stderr).expect("standard error is text");
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("interrupted") && stderr.contains("--resume"), "{stderr}");
    assert!(!case.path("target").exists(), "{stderr}");
    assert!(case.resume("target") >= 2, "finished tensors were made again");
}

#[test]
fn what_changed_since_is_made_again() {
    let case = Case::new();

    let n_finished = case.leave_partial("target", 3);
    let file = case.partial("target").join("model.safetensors");
    let mut bytes = fs::read(&file).expect("the partial file can be read");
    let range = ranges(&bytes)["model.layers.0.mlp.up_proj.weight_packed"].clone();
    bytes[range.start + range.len() / 2] ^= 1;
    fs::write(&file, bytes).expect("the partial file can be written");
    assert_eq!(case.resume("target"), n_finished - 1, "a corrupted tensor was taken over");

    // Of a torn last line, and of one torn within a character, nothing counts.
    for (target, tail) in [("torn", &b"{\"name\":\"model.lay"[..]), ("torn-character", b"{\"name\":\"gr\xC3")] {
        let n_finished = case.leave_partial(target, 2);
        append(&case.partial(target).join(".journal.jsonl"), tail);
        assert_eq!(case.resume(target), n_finished, "{target}");
    }

    // A file cut short keeps no tensor.
    case.leave_partial("cut", 2);
    let file = fs::File::options().write(true).open(case.partial("cut").join("model.safetensors"));
    file.and_then(|file| file.set_len(100)).expect("the partial file can be cut");
    assert_eq!(case.resume("cut"), 0);
}

#[test]
fn a_source_that_changed_since_is_read_again() {
    let case = Case::new();
    let n_finished = case.leave_partial("target", 3);
    let mut tensors = model(7);
    tensors[0].bytes[0] ^= 1;
    write_folder(&case.path("source"), &tensors, &json!({ "model_type": "llama" }));
    fs::remove_dir_all(case.path("whole")).expect("the target can be removed");
    slow(&case.dir, "whole").run().expect_status(0);
    assert_eq!(case.resume("target"), n_finished - 1, "a tensor of another source was taken over");
}

#[test]
fn what_was_begun_with_other_options_is_refused() {
    let case = Case::new();
    case.leave_partial("target", 2);
    let partial = case.partial("target");
    let options = [
        "--scheme int3-g64",
        "--method rtn",
        "--keep *.0.*",
        "--dtype f32",
        "--max-shard-size 200KB",
        "--scale-dtype f32",
    ];
    for option in options {
        let line = format!("quantize source target --resume {option}");
        let ran = Cmd::new(&line).in_dir(&case.dir).run().expect_status(2);
        assert!(ran.stderr.contains(".target.partial") && ran.stderr.contains("hint: "), "{option}: {}", ran.stderr);
        assert!(!case.path("target").exists(), "{option}");
    }
    for head in [&b"{}\n"[..], b"nonsense\n", b"\xFF\xFE\n", b"[]\n{}\n"] {
        fs::write(partial.join(".journal.jsonl"), head).expect("the journal can be written");
        let ran = Cmd::new("quantize source target --resume").in_dir(&case.dir).run().expect_status(2);
        assert!(ran.stderr.contains(".target.partial"), "{}", ran.stderr);
    }
    // Without --resume what is there does not count.
    slow(&case.dir, "target").run().expect_status(0);
    assert_same_files(&case.path("whole"), &case.path("target"), "afresh");
}

#[test]
fn one_target_has_one_writer() {
    let case = Case::new();
    let mut first = case.start_and_await("target", 1);
    let ran = Cmd::new("quantize source target --resume").in_dir(&case.dir).run().expect_status(2);
    assert!(ran.stderr.contains("is being written by another process"), "{}", ran.stderr);
    assert!(first.wait().expect("the program was started").success(), "the first writer was disturbed");
    assert_same_files(&case.path("whole"), &case.path("target"), "the first writer's target");
}

#[test]
fn a_target_that_exists_is_replaced_by_force_only() {
    let case = Case::new();
    for (make, is_model) in
        [(make_folder as fn(&Path), false), (make_file, false), (make_model, true), (make_link, true)]
    {
        let target = case.path("target");
        make(&target);
        let ran = Cmd::new("quantize source target").in_dir(&case.dir).run().expect_status(2);
        assert!(ran.stderr.starts_with("error: `target` exists already\nhint: "), "{}", ran.stderr);
        Cmd::new("quantize source target --dry-run").in_dir(&case.dir).run().expect_status(2);
        if !is_model {
            let ran = Cmd::new("quantize source target --force").in_dir(&case.dir).run().expect_status(2);
            assert!(ran.stderr.starts_with("error: `target` exists and is no model"), "{}", ran.stderr);
            if target.is_dir() {
                fs::remove_file(target.join("precious")).expect("it is left as it was");
                fs::remove_dir(&target).expect("it held nothing else");
            } else {
                fs::remove_file(&target).expect("it is left as it was");
            }
            continue;
        }
        Cmd::new("quantize source target --force").in_dir(&case.dir).run().expect_status(0);
        assert_same_files(&case.path("whole"), &target, "by force");
        assert_eq!(case.dir.names(), ["source", "target", "whole"]);
        fs::remove_dir_all(&target).expect("the target can be removed");
    }
}

#[test]
fn a_target_in_or_around_the_source_is_refused() {
    let case = Case::new();
    fs::create_dir(case.path("around")).expect("the folder can be made");
    fs::rename(case.path("source"), case.path("around/source")).expect("the folder can be moved");
    std::os::unix::fs::symlink("around/source", case.path("link")).expect("links can be made");
    let before = fs::read(case.path("around/source/model.safetensors")).expect("the source is there");
    for (source, target) in [
        ("around/source", "around/source"),
        ("around/source", "around/source/target"),
        ("around/source", "around/source/deeper/target"),
        ("around/source", "around/../around/source/target"),
        ("around/source", "around"),
        ("around/source", "link"),
        ("around/source", "link/target"),
        ("link", "around/source/target"),
        ("around/source/model.safetensors", "around/source/model.safetensors"),
    ] {
        for force in ["", " --force"] {
            let ran = Cmd::new(&format!("quantize {source} {target}{force}")).in_dir(&case.dir).run();
            assert_eq!(ran.status, 2, "{source} to {target}{force}: {}", ran.stderr);
            assert!(!ran.stderr.contains("exists already"), "{source} to {target}{force}: {}", ran.stderr);
        }
    }
    assert!(fs::read(case.path("around/source/model.safetensors")).expect("the source is there") == before);
    assert_eq!(case.dir.names(), ["around", "link", "whole"]);
}

fn append(path: &Path, bytes: &[u8]) {
    use std::io::Write;
    let file = fs::File::options().append(true).open(path);
    file.and_then(|mut file| file.write_all(bytes)).expect("the file can be written");
}

fn make_folder(path: &Path) {
    fs::create_dir(path).expect("the folder can be made");
    fs::write(path.join("precious"), "text").expect("the folder can be written");
}

fn make_model(path: &Path) {
    fs::create_dir(path).expect("the folder can be made");
    fs::write(path.join("model.safetensors"), "an old one").expect("the folder can be written");
}

fn make_file(path: &Path) {
    fs::write(path, "text").expect("the folder can be written");
}

fn make_link(path: &Path) {
    std::os::unix::fs::symlink("nowhere", path).expect("links can be made");
}
