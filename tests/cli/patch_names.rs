//! Which names stand for a model that can be patched, and what becomes of those that do not: one model has one ledger, and nothing is written
//! that could not be opened again.

use std::fs;

use serde_json::{Value, json};

use crate::patch::{assert_same, refused, run, workshop};
use crate::patch_coded;
use crate::support::{Cmd, Dir};
use crate::synthetic::{Random, Tensor, files, ranges, write_file};

/// One file of a folder's weights, in a place of its own.
fn lone_file(dir: &Dir, name: &str) {
    let path = dir.path().join(name);
    fs::create_dir_all(path.parent().expect("it lies in a folder")).expect("a folder");
    fs::copy(dir.path().join("clean/model.safetensors"), path).expect("a file");
}

#[test]
fn one_of_several_gguf_files_is_no_model_of_its_own() {
    let dir = patch_coded::workshop();
    run(&dir, "quantize source split --to gguf --scheme q4_k --max-shard-size 150KB");
    let before = files(&dir.path().join("split"));
    let first = before.keys().find(|name| name.contains("-00001-of-")).expect("it was split");
    let rest = "--patch a.patch --transfer";
    for words in [
        format!("patch add split/{first} --in-place {rest}"),
        format!("patch add split/{first} copy.gguf {rest}"),
        format!("patch list split/{first}"),
    ] {
        refused(&dir, &words, &["is a file of the model `split`", "hint: name the folder: `split`"]);
    }
    assert!(files(&dir.path().join("split")) == before, "nothing is changed");
    run(&dir, &format!("patch add split on {rest}"));
    run(&dir, "patch add on --in-place --patch b.patch --transfer");
    run(&dir, "patch remove on --in-place --all");
    assert_same(&dir, "split", "on");
    run(&dir, "quantize source one.gguf --to gguf --scheme q4_k");
    for name in ["x.safetensors", "x"] {
        refused(&dir, &format!("patch add one.gguf {name} {rest}"), &["expected a name that ends in .gguf"]);
    }
}

#[test]
fn a_target_is_named_as_what_it_is() {
    let dir = workshop();
    lone_file(&dir, "one.safetensors");
    for (words, expected) in [
        ("patch add one.safetensors x --patch fog.patch", "a name that ends in .safetensors"),
        ("patch add one.safetensors x.gguf --patch fog.patch", "a name that ends in .safetensors"),
        ("patch add clean x.safetensors --patch fog.patch", "the name of a folder"),
        ("patch add clean x.gguf --patch fog.patch --dry-run", "the name of a folder"),
        ("patch add clean fog.patch --force --patch fog.patch", "the patch `fog.patch`"),
    ] {
        refused(&dir, words, &[expected]);
    }
    assert!(dir.names().iter().all(|name| !name.starts_with(['x', '.'])), "nothing is left: {:?}", dir.names());
}

#[cfg(target_os = "linux")]
#[test]
fn a_name_that_is_no_text_is_refused_before_anything_is_written() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let dir = workshop();
    let name = OsStr::from_bytes(b"m\xff.safetensors");
    lone_file(&dir, "one.safetensors");
    fs::rename(dir.path().join("one.safetensors"), dir.path().join(name)).expect("a file");
    lone_file(&dir, "one.safetensors");
    let before = dir.names();
    let in_place = Cmd::new("patch add --in-place --patch fog.patch").arg("--").arg(name);
    let copied = Cmd::new("patch add --patch fog.patch").arg("--").arg("one.safetensors").arg("n\u{fffd}.safetensors");
    let to_it = Cmd::new("patch add --force --patch fog.patch").arg("--").arg("one.safetensors").arg(name);
    for command in [in_place, to_it] {
        let ran = command.in_dir(&dir).run().expect_status(2);
        assert!(ran.stderr.contains("is not UTF-8"), "{}", ran.stderr);
    }
    assert_eq!(dir.names(), before);
    copied.in_dir(&dir).run().expect_status(0);
    // Reading it, and the name of a folder, are no matter.
    let folder = OsStr::from_bytes(b"f\xff");
    Cmd::new("patch add clean").arg(folder).arg("--patch").arg("fog.patch").in_dir(&dir).run().expect_status(0);
    Cmd::new("patch verify").arg(folder).in_dir(&dir).run().expect_status(0);
    Cmd::new("patch list").arg(name).in_dir(&dir).run().expect_status(0);
}

#[test]
fn a_model_has_one_ledger_however_it_is_named() {
    let dir = workshop();
    run(&dir, "patch add clean twice --patch fog.patch");
    let before = files(&dir.path().join("twice"));
    let hint = "hint: name the folder: `twice`";
    for words in [
        "patch add twice/model.safetensors --in-place --patch fog.patch",
        "patch add twice/model.safetensors x.safetensors --patch snow.patch",
        "patch verify twice/model.safetensors",
    ] {
        refused(&dir, words, &["`twice/model.safetensors` is a file of the model `twice`", hint]);
    }
    assert!(files(&dir.path().join("twice")) == before, "nothing is changed");
    refused(
        &dir,
        "patch add clean/model.safetensors --in-place --patch fog.patch",
        &["is a file of the model `clean`"],
    );
    // A copy of an unpatched file is a model of its own.
    run(&dir, "patch add clean/model.safetensors one.safetensors --patch fog.patch");
    assert!(fs::read(dir.path().join("one.safetensors")).expect("a file") == before["model.safetensors"]);

    lone_file(&dir, "bare/model.safetensors");
    run(&dir, "patch add bare/model.safetensors --in-place --patch fog.patch");
    let parts = ["was patched by itself", "hint: `reweight patch remove bare/model.safetensors --in-place --all`"];
    refused(&dir, "patch add bare --in-place --patch snow.patch", &parts);
    run(&dir, "patch remove bare/model.safetensors --in-place --all");
    run(&dir, "patch add bare --in-place --patch snow.patch");
}

#[test]
fn patches_beside_the_weights_are_not_lost_by_naming_the_file() {
    let dir = workshop();
    run(&dir, "patch add clean side --side --patch fog.patch");
    for words in ["quantize side/model.safetensors q.safetensors", "diff clean side/model.safetensors"] {
        refused(&dir, words, &["is a file of the model `side`", "hint: name the folder: `side`"]);
    }
    lone_file(&dir, "bare/model.safetensors");
    run(&dir, "patch add bare/model.safetensors --in-place --side --patch fog.patch");
    refused(&dir, "diff clean bare", &["was patched by itself"]);
    run(&dir, "diff side bare/model.safetensors --fail-above 0");
}

#[test]
fn what_was_committed_is_finished_before_anyone_reads() {
    let dir = workshop();
    run(&dir, "patch add clean new --patch fog.patch");
    run(&dir, "convert clean work --to bf16");
    fs::remove_file(dir.path().join("work/reweight.json")).expect("a file");
    let original = files(&dir.path().join("work"));
    // As a process leaves it that dies after its commit and before its first rename.
    let update = dir.path().join("work/.reweight-update");
    run(&dir, "patch add clean begun --patch fog.patch");
    fs::create_dir(&update).expect("a folder");
    for name in ["model.safetensors", "reweight-ledger"] {
        fs::rename(dir.path().join("begun").join(name), update.join(name)).expect("a file or folder");
    }
    let step = |name: &str| json!({ "name": name, "remove": false });
    let moves = json!({ "schema": 1, "moves": [step("model.safetensors"), step("reweight-ledger")] });
    fs::write(update.join("commit.json"), moves.to_string()).expect("a file");
    for words in [
        "diff clean work",
        "quantize work x",
        "convert work x --to f32",
        "verify work",
        "inspect work",
        "diff clean work/model.safetensors",
        "patch diff clean work x.patch",
    ] {
        refused(&dir, words, &["`work` is half changed", "commit.json", "hint: `reweight patch verify work` finishes"]);
    }
    assert!(files(&dir.path().join("work"))["model.safetensors"] == original["model.safetensors"]);
    let ran = run(&dir, "patch verify work");
    assert!(ran.stderr.contains("is complete now"), "{}", ran.stderr);
    assert!(!update.exists());
    run(&dir, "diff new work --fail-above 0");
    run(&dir, "verify work");
}

#[test]
fn verify_holds_a_patched_model_to_its_ledger() {
    let dir = workshop();
    run(&dir, "convert clean made --to bf16");
    run(&dir, "patch add made on --patch fog.patch");
    let said = run(&dir, "verify on").data();
    assert!(said.contains("are as the ledger says, and their base comes back"), "{said}");
    assert_eq!(run(&dir, "verify on --json").document::<Value>()["patches"], json!(["fog"]));
    let path = dir.path().join("on/model.safetensors");
    let mut bytes = fs::read(&path).expect("a file");
    let start = ranges(&bytes)["features.2.weight"].start;
    bytes[start] ^= 1;
    fs::write(&path, &bytes).expect("a file");
    let ran = Cmd::new("verify on").in_dir(&dir).run().expect_status(1);
    assert!(ran.stdout.contains("features.2.weight: patched expected"), "{}", ran.stdout);
}

#[cfg(unix)]
#[test]
fn a_link_is_not_replaced_by_a_copy() {
    let dir = workshop();
    lone_file(&dir, "blobs/weights");
    fs::create_dir(dir.path().join("hub")).expect("a folder");
    fs::copy(dir.path().join("clean/config.json"), dir.path().join("hub/config.json")).expect("a file");
    let link = dir.path().join("hub/model.safetensors");
    std::os::unix::fs::symlink("../blobs/weights", &link).expect("a link");
    let parts = ["`hub/model.safetensors` is a link to", "blobs/weights", "hint: name a TARGET"];
    for words in ["patch add hub --in-place --patch fog.patch", "patch add hub --in-place --dry-run --patch fog.patch"]
    {
        refused(&dir, words, &parts);
    }
    assert!(link.is_symlink() && !dir.path().join("hub/.reweight-update").exists());
    run(&dir, "patch add hub on --patch fog.patch");
    run(&dir, "patch remove on --in-place --all");
    assert_same(&dir, "clean", "on");
    // The weights stay as they are, so that the link may.
    run(&dir, "patch add hub --in-place --side --patch fog.patch");
    assert!(link.is_symlink());
    let lone = dir.path().join("lone.safetensors");
    std::os::unix::fs::symlink("blobs/weights", &lone).expect("a link");
    run(&dir, "patch add lone.safetensors --in-place --side --patch fog.patch");
    assert!(lone.is_symlink());
    run(&dir, "patch remove lone.safetensors --in-place --all");
    assert!(lone.is_symlink() && !dir.path().join("lone.safetensors.ledger").exists());
}

#[test]
fn names_of_tensors_forge_no_line() {
    let dir = Dir::new();
    let mut random = Random::new(3);
    let name = "a\nerror: forged\x1b[2J.weight";
    write_file(&dir.path().join("a.safetensors"), &[Tensor::random(name, &[8, 64], &mut random)]);
    write_file(&dir.path().join("b.safetensors"), &[Tensor::random("b.weight", &[8, 64], &mut random)]);
    let shown = "a\\nerror: forged\\x1b[2J.weight";
    let said = run(&dir, "diff a.safetensors b.safetensors").data();
    assert!(said.contains(&format!("only in the first: {shown}\n")), "{said}");
    run(&dir, "convert a.safetensors made --to bf16");
    let path = dir.path().join("made/model.safetensors");
    let mut bytes = fs::read(&path).expect("a file");
    *bytes.last_mut().expect("it is not empty") ^= 1;
    fs::write(&path, &bytes).expect("a file");
    let ran = Cmd::new("verify made").in_dir(&dir).run().expect_status(1);
    assert!(ran.stdout.starts_with(&format!("{shown}: blake3 expected")), "{}", ran.stdout);
}

#[test]
fn a_patch_is_looked_into() {
    let dir = workshop();
    let seen: Value = run(&dir, "inspect fog.patch --json").document();
    assert_eq!((&seen["layout"], &seen["kind"], &seen["name"]), (&json!("patch"), &json!("signature"), &json!("fog")));
    assert_eq!((&seen["n_tensors"], &seen["n_layers"]), (&json!(6), &json!(4)));
    assert_eq!(seen["bytes"], json!(fs::metadata(dir.path().join("fog.patch")).expect("a file").len()));
    run(&dir, "patch add clean on --patch fog.patch");
    let on: Value = run(&dir, "patch list on --json").document();
    assert_eq!(seen["blake3"], on["patches"][0]["blake3"]);
    let ledger = fs::read_to_string(dir.path().join("on/reweight-ledger/ledger.json")).expect("a file");
    let ledger: Value = serde_json::from_str(&ledger).expect("JSON");
    let records = ledger["tensors"].as_array().expect("a list");
    for tensor in seen["tensors"].as_array().expect("a list") {
        let record = records.iter().find(|record| record["name"] == tensor["name"]).expect("it was changed");
        assert_eq!((&tensor["base_blake3"], &tensor["change"]), (&record["base_blake3"], &json!("added, 8 bits")));
    }
    let said = run(&dir, "inspect fog.patch").data();
    assert!(said.contains("signature fog: 6 tensors of 4 layers"), "{said}");
    assert_eq!(run(&dir, "patch list fog.patch").data(), said);
    let some: Value = run(&dir, "inspect fog.patch --tensors *.bias --json").document();
    assert_eq!(some["n_tensors"], json!(2));
}
