//! Patches through the command line: what comes of adding, rescaling and taking off, and what is refused.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use crate::support::{Cmd, Dir, Ran};
use crate::synthetic::{Random, Tensor, files, ranges, write_file, write_folder};

/// A small convolutional network in natural order of names, with a head that would come first.
const SHAPES: [(&str, &[usize]); 6] = [
    ("classifier.weight", &[4, 300]),
    ("features.0.bias", &[16]),
    ("features.0.weight", &[16, 3, 3, 3]),
    ("features.10.weight", &[300, 16]),
    ("features.2.bias", &[16]),
    ("features.2.weight", &[16, 16, 3, 3]),
];

/// Near the weights of another model, as one that was tuned from it is.
pub(crate) fn tuned(tensors: &[Tensor], seed: u64) -> Vec<Tensor> {
    let mut random = Random::new(seed);
    let change = |tensor: &Tensor, random: &mut Random| {
        let mut value =
            |bits: &[u8]| f32::from_bits(u32::from_le_bytes([0, 0, bits[0], bits[1]])) + random.weight() * 0.1;
        let values: Vec<f32> = tensor.bytes.chunks(2).map(&mut value).collect();
        Tensor::bf16(&tensor.name, &tensor.shape, values)
    };
    tensors.iter().map(|tensor| change(tensor, &mut random)).collect()
}

/// Folders `pretrained`, `clean`, `fog` and `snow`, and signatures of the latter two: `fog.patch` and `snow.patch`.
pub(crate) fn workshop() -> Dir {
    let dir = Dir::new();
    let mut random = Random::new(1);
    let pretrained: Vec<Tensor> = SHAPES.iter().map(|(name, shape)| Tensor::random(name, shape, &mut random)).collect();
    let models = [
        ("pretrained", pretrained.clone()),
        ("clean", tuned(&pretrained, 2)),
        ("fog", tuned(&pretrained, 3)),
        ("snow", tuned(&pretrained, 4)),
    ];
    for (name, tensors) in models {
        write_folder(&dir.path().join(name), &tensors, &json!({ "architectures": ["Net"] }));
    }
    for name in ["fog", "snow"] {
        run(
            &dir,
            &format!("patch extract --pretrained pretrained --clean clean --robust {name} {name}.patch --layers all"),
        );
    }
    dir
}

#[track_caller]
pub(crate) fn run(dir: &Dir, words: &str) -> Ran {
    Cmd::new(words).in_dir(dir).run().expect_status(0)
}

#[track_caller]
pub(crate) fn assert_same(dir: &Dir, a: &str, b: &str) {
    let (left, right) = (files(&dir.path().join(a)), files(&dir.path().join(b)));
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&left), names(&right), "{a} and {b} hold the same files");
    for (name, bytes) in left {
        assert!(bytes == right[&name], "{name} is the same in {a} and {b}");
    }
}

fn weights(dir: &Dir, model: &str) -> Vec<u8> {
    fs::read(dir.path().join(model).join("model.safetensors")).expect("the weights are there")
}

#[test]
fn a_patched_model_is_not_replaced_by_force() {
    let dir = workshop();
    run(&dir, "patch add clean one --patch fog.patch");
    for words in ["patch add clean one --patch snow.patch --force", "convert clean one --to f32 --force"] {
        let ran = Cmd::new(words).in_dir(&dir).run().expect_status(2);
        assert!(ran.stderr.contains("lose the way back") && ran.stderr.contains("--in-place --all"), "{}", ran.stderr);
    }
    run(&dir, "patch remove one --in-place --all");
    assert_same(&dir, "clean", "one");
    run(&dir, "convert clean one --to f32 --force");
}

#[test]
fn whatever_the_order_the_same_weights_and_the_base_comes_back() {
    let dir = workshop();
    run(&dir, "patch add clean one --patch fog.patch=0.8");
    run(&dir, "patch add one both --patch snow.patch=-0.3");
    run(&dir, "patch add clean other --patch snow.patch=-0.3");
    run(&dir, "patch add other third --patch fog.patch");
    run(&dir, "patch scale third again fog=0.8");
    run(&dir, "patch add clean once --patch snow.patch=-0.3 fog.patch=0.8");
    for model in ["again", "once"] {
        assert_same(&dir, "both", model);
    }
    run(&dir, "patch remove both without-fog fog");
    assert_same(&dir, "without-fog", "other");
    run(&dir, "patch remove both base --all");
    assert_same(&dir, "base", "clean");
    assert!(weights(&dir, "both") != weights(&dir, "clean"));
    run(&dir, "patch add clean one-thread --patch snow.patch=-0.3 fog.patch=0.8 --threads 1");
    assert_same(&dir, "both", "one-thread");
}

#[test]
fn in_place_is_the_same_as_beside() {
    let dir = workshop();
    run(&dir, "patch add clean both --patch snow.patch fog.patch=2");
    run(&dir, "patch add clean work --patch fog.patch=1.5");
    run(&dir, "patch add work --in-place --patch snow.patch");
    run(&dir, "patch scale work --in-place fog=2");
    assert_same(&dir, "both", "work");
    run(&dir, "patch remove work --in-place snow");
    run(&dir, "patch remove work --in-place fog");
    assert_same(&dir, "clean", "work");
    assert!(dir.names().iter().all(|name| !name.starts_with('.')), "nothing is left: {:?}", dir.names());
}

#[test]
fn one_file_has_its_ledger_beside_it() {
    let dir = workshop();
    let original = weights(&dir, "clean");
    fs::write(dir.path().join("m.safetensors"), &original).expect("a file");
    run(&dir, "patch add m.safetensors p.safetensors --patch fog.patch=0.5");
    assert!(dir.path().join("p.safetensors.ledger/ledger.json").is_file());
    run(&dir, "patch verify p.safetensors");
    run(&dir, "patch remove p.safetensors q.safetensors --all");
    assert!(fs::read(dir.path().join("q.safetensors")).expect("a file") == original);
    assert!(!dir.path().join("q.safetensors.ledger").exists());
    run(&dir, "patch remove p.safetensors --in-place --all");
    assert!(fs::read(dir.path().join("p.safetensors")).expect("a file") == original);
    assert!(!dir.path().join("p.safetensors.ledger").exists());
}

#[test]
fn what_is_on_it_is_listed_and_verified() {
    let dir = workshop();
    run(&dir, "patch add clean both --patch snow.patch fog.patch=0.25");
    let list: Value = run(&dir, "patch list both --json").document();
    let names: Vec<_> = list["patches"].as_array().expect("a list").iter().map(|patch| &patch["strength"]).collect();
    assert_eq!(names.len(), 2);
    assert!(names.contains(&&json!(0.25)) && names.contains(&&json!(1.0)), "{list}");
    let share = list["undo_bytes"].as_f64().expect("a number") / list["touched_bytes"].as_f64().expect("a number");
    assert!(share < 0.25, "the way back takes {share} of what is touched");
    let verified: Value = run(&dir, "patch verify both --json").document();
    assert_eq!((&verified["ok"], &verified["n_tensors"]), (&json!(true), &json!(6)));
    assert_eq!(run(&dir, "patch list clean").data(), "no patch is on it\n");
    run(&dir, "patch compare fog.patch snow.patch").data();
    let same: Value = run(&dir, "patch compare fog.patch fog.patch --json").document();
    let cosine = same["pairs"][0]["cosine"].as_f64().expect("a number");
    assert!((cosine - 1.0).abs() < 1e-12);
}

#[test]
fn layers_are_modules_in_natural_order_and_heads_last() {
    let dir = workshop();
    let taken = |layers: &str| -> Vec<String> {
        let words = format!("patch extract --clean clean --robust fog x.patch --dry-run --json --layers {layers}");
        let figures: Value = run(&dir, &words).document();
        let tensors = figures["tensors"].as_array().expect("a list").clone();
        let taken = tensors.iter().filter(|tensor| tensor["treatment"] == "add");
        taken.map(|tensor| tensor["name"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(taken("first:1"), ["features.0.bias", "features.0.weight"]);
    assert_eq!(taken("first:2").len(), 4);
    assert_eq!(taken("first:3").last().map(String::as_str), Some("features.10.weight"));
    assert_eq!(taken("first:9").len(), 6);
    assert_eq!(taken("*.bias"), ["features.0.bias", "features.2.bias"]);
    assert!(!dir.path().join("x.patch").exists());
}

#[test]
fn a_difference_makes_the_second_of_the_first() {
    let dir = workshop();
    run(&dir, "patch diff clean fog d.patch");
    run(&dir, "patch add clean target --patch d.patch");
    // bf16 differences of near values are exact in f32.
    assert!(weights(&dir, "target") == weights(&dir, "fog"));
    run(&dir, "patch add clean half --patch d.patch=0.5");
    run(&dir, "patch remove half back d");
    assert_same(&dir, "back", "clean");
}

#[test]
fn batch_norm_is_replaced_and_restored() {
    let dir = Dir::new();
    let mut random = Random::new(5);
    let mut shapes = SHAPES.to_vec();
    shapes.extend([
        ("features.3.running_mean", &[16][..]),
        ("features.3.running_var", &[16]),
        ("features.3.weight", &[16]),
    ]);
    let clean: Vec<Tensor> = shapes.iter().map(|(name, shape)| Tensor::random(name, shape, &mut random)).collect();
    let (robust, model) = (tuned(&clean, 6), json!({}));
    write_folder(&dir.path().join("clean"), &clean, &model);
    write_folder(&dir.path().join("robust"), &robust, &model);
    run(&dir, "patch extract --clean clean --robust robust s.patch --layers first:1");
    run(&dir, "patch add clean on --patch s.patch");
    let find =
        |tensors: &[Tensor], name: &str| tensors.iter().find(|t| t.name == name).expect("it is there").bytes.clone();
    let (file, name) = (weights(&dir, "on"), "features.3.running_var");
    assert_eq!(file[ranges(&file)[name].clone()], find(&robust, name));
    assert_eq!(file[ranges(&file)["features.2.weight"].clone()], find(&clean, "features.2.weight"));
    run(&dir, "patch add clean half --patch s.patch=0.5");
    run(&dir, "patch verify half");
    run(&dir, "patch remove half back --all");
    assert_same(&dir, "back", "clean");
}

#[track_caller]
pub(crate) fn refused(dir: &Dir, words: &str, parts: &[&str]) {
    let ran = Cmd::new(words).in_dir(dir).run().expect_status(2);
    for part in parts {
        assert!(ran.stderr.contains(part), "`{words}` does not say {part:?}:\n{}", ran.stderr);
    }
}

#[test]
fn what_is_refused_and_how() {
    let dir = workshop();
    run(&dir, "patch add clean on --patch fog.patch");
    refused(&dir, "patch add on x --patch fog.patch", &["already, with strength 1", "hint: `reweight patch scale`"]);
    refused(&dir, "patch add fog x --patch fog.patch", &["another base", "classifier.weight", "--transfer"]);
    run(&dir, "patch add fog moved --patch fog.patch --transfer");
    run(&dir, "patch remove moved back --all");
    assert_same(&dir, "back", "fog");
    refused(&dir, "patch remove on x snow", &["no patch \"snow\"", "hint: on it: fog"]);
    refused(&dir, "patch remove clean x fog", &["no ledger"]);
    refused(&dir, "patch remove clean x --all", &["no ledger"]);
    refused(&dir, "patch remove on x", &["no patch is named"]);
    refused(&dir, "patch scale on x fog=nan", &["NAME=ALPHA"]);
    refused(&dir, "patch add clean on --patch snow.patch", &["exists already"]);
    refused(&dir, "patch add clean x --patch clean/model.safetensors", &["is no patch", "reweight-patch"]);
    refused(&dir, "patch add clean x --patch clean", &["adapter_config.json"]);
    refused(&dir, "patch extract --clean clean --robust clean x.patch", &["no tensor differs"]);
    let mut random = Random::new(9);
    let other = [Tensor::random("features.0.weight", &[16, 3, 5, 5], &mut random)];
    write_folder(&dir.path().join("other"), &other, &json!({}));
    refused(&dir, "patch add other x --patch fog.patch --transfer", &["classifier.weight", "does not have"]);
    let other = SHAPES.map(|(name, _)| Tensor::random(name, &[3, 3], &mut random));
    write_folder(&dir.path().join("other"), &other, &json!({}));
    refused(&dir, "patch add other x --patch fog.patch --transfer", &["expected shape [4, 300], found [3, 3]"]);
    refused(&dir, "patch add clean x --patch fog.patch=1e44", &["is not finite as BF16", "classifier.weight"]);
    assert!(dir.names().iter().all(|name| !name.starts_with('.') && name != "x"), "nothing is left: {:?}", dir.names());
}

#[test]
fn what_was_changed_since_is_noticed() {
    let dir = workshop();
    run(&dir, "patch add clean on --patch fog.patch");
    let path = dir.path().join("on/model.safetensors");
    let good = fs::read(&path).expect("a file");
    let mut bad = good.clone();
    bad[ranges(&good)["features.2.weight"].start] ^= 1;
    fs::write(&path, &bad).expect("a file");
    let ran = Cmd::new("patch verify on").in_dir(&dir).run().expect_status(1);
    assert!(ran.stdout.contains("features.2.weight: patched expected"), "{}", ran.stdout);
    refused(&dir, "patch remove on x --all", &["features.2.weight", "was changed since", "expected digest"]);
    refused(&dir, "patch remove on --in-place --all", &["was changed since"]);
    fs::write(&path, &good).expect("a file");
    run(&dir, "patch verify on");
    let ledger = dir.path().join("on/reweight-ledger/ledger.json");
    let text = fs::read_to_string(&ledger).expect("a file");
    fs::write(&ledger, text.replace("\"strength\": 1.0", "\"strength\": 2.0")).expect("a file");
    refused(&dir, "patch remove on x --all", &["was edited"]);
    fs::write(&ledger, &text).expect("a file");
    let undo = dir.path().join("on/reweight-ledger/undo.bin");
    let records = fs::read(&undo).expect("a file");
    fs::write(&undo, &records[1..]).expect("a file");
    refused(&dir, "patch list on", &["undo.bin", "bytes, found"]);
    fs::write(&undo, &records).expect("a file");
    fs::remove_dir_all(dir.path().join("on/reweight-ledger")).expect("a folder");
    refused(&dir, "patch remove on x --all", &["no ledger"]);
}

#[test]
fn a_manifest_waits_while_patches_are_on() {
    let dir = workshop();
    run(&dir, "convert clean made --to f16");
    let manifest = fs::read(dir.path().join("made/reweight.json")).expect("a file");
    run(&dir, "patch add made on --patch fog.patch --transfer");
    assert!(!dir.path().join("on/reweight.json").exists());
    run(&dir, "patch add made/ --in-place --patch snow.patch --transfer");
    assert!(!dir.path().join("made/reweight.json").exists());
    run(&dir, "patch remove made --in-place --all");
    assert_eq!(fs::read(dir.path().join("made/reweight.json")).expect("a file"), manifest);
    run(&dir, "patch remove on off --all");
    assert_same(&dir, "off", "made");
    run(&dir, "verify off");
}

#[test]
fn types_of_every_width_come_back() {
    let dir = Dir::new();
    let mut random = Random::new(11);
    let values: Vec<f32> = (0..5000).map(|_| random.weight()).collect();
    let near: Vec<f32> = values.iter().map(|value| value + random.weight() * 0.05).collect();
    for (name, values) in [("a", &values), ("b", &near)] {
        let model = [
            Tensor::f32("w.weight", &[50, 100], values.iter().copied()),
            Tensor::bf16("v.weight", &[100, 50], values.iter().copied()),
        ];
        write_file(&dir.path().join(format!("{name}.safetensors")), &model);
    }
    for bits in ["f32", "f16", "8", "4", "3", "2"] {
        run(&dir, &format!("patch diff a.safetensors b.safetensors d.patch --bits {bits} --force"));
        run(&dir, "patch add a.safetensors on.safetensors --patch d.patch=1.25");
        run(&dir, "patch remove on.safetensors off.safetensors --all --force");
        let read = |name: &str| fs::read(dir.path().join(name)).expect("a file");
        assert!(read("off.safetensors") == read("a.safetensors"), "{bits} bits");
        assert!(read("on.safetensors") != read("a.safetensors"), "{bits} bits");
        fs::remove_file(dir.path().join("on.safetensors")).expect("a file");
        fs::remove_dir_all(dir.path().join("on.safetensors.ledger")).expect("a ledger");
    }
}

#[test]
fn a_signature_of_seven_layers_of_vgg16_is_thirteen_times_smaller_than_the_model() {
    let dir = Dir::new();
    // Convolutions of 3 by 3 as in VGG-16 for small images, and a head of ten classes: 14.7 million elements.
    let widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512];
    let places = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28];
    let net = |seed: u64| -> Vec<Tensor> {
        let mut random = Random::new(seed);
        let mut tensors = Vec::new();
        for (pair, place) in widths.windows(2).zip(places) {
            let n = pair[0] * pair[1] * 9;
            // What is beyond the seventh layer is not stored, so its values do not matter.
            let values: Vec<f32> = if place <= 14 { (0..n).map(|_| random.weight()).collect() } else { vec![0.01; n] };
            tensors.push(Tensor::f32(&format!("features.{place}.weight"), &[pair[1], pair[0], 3, 3], values));
            let bias: Vec<f32> = (0..pair[1]).map(|_| random.weight()).collect();
            tensors.push(Tensor::f32(&format!("features.{place}.bias"), &[pair[1]], bias));
        }
        tensors.push(Tensor::f32("classifier.weight", &[10, 512], (0..5120).map(|_| random.weight())));
        tensors
    };
    for (name, seed) in [("clean", 1), ("robust", 2)] {
        write_file(&dir.path().join(format!("{name}.safetensors")), &net(seed));
    }
    run(&dir, "patch extract --clean clean.safetensors --robust robust.safetensors s.patch");
    let size = |name: &str| fs::metadata(dir.path().join(name)).expect("it is there").len();
    let times = size("clean.safetensors") as f64 / size("s.patch") as f64;
    // 1.735 of 14.7 million elements, at 8.25 bits of 32.
    assert!(times > 32.0, "the model is {times:.1} times as large");
}

#[test]
fn tensors_of_other_shapes_are_named() {
    let dir = workshop();
    let mut random = Random::new(8);
    let mut tensors: Vec<Tensor> = SHAPES[1..].iter().map(|(n, s)| Tensor::random(n, s, &mut random)).collect();
    tensors.push(Tensor::random("classifier.weight", &[7, 300], &mut random));
    write_folder(&dir.path().join("seven"), &tensors, &json!({}));
    let ran = run(&dir, "patch extract --clean clean --robust seven x.patch --layers all --json");
    assert!(ran.stderr.contains("left out") && ran.stderr.contains("classifier.weight"), "{}", ran.stderr);
    assert_eq!(ran.document::<Value>()["skipped"], json!(["classifier.weight"]));
    for words in ["patch diff clean seven y.patch", "patch diff clean seven y.patch --dry-run"] {
        let ran = Cmd::new(words).in_dir(&dir).run().expect_status(2);
        assert!(ran.stderr.contains("classifier.weight"), "{}", ran.stderr);
    }
}

/// Splits a folder of one file into two shards with an index.
fn shard(dir: &Dir, from: &str, to: &str) {
    let tensors = crate::synthetic::tensors(&dir.path().join(from).join("model.safetensors"));
    let folder = dir.path().join(to);
    fs::create_dir_all(&folder).expect("the folder can be made");
    let mut map = serde_json::Map::new();
    let mut shards = [Vec::new(), Vec::new()];
    for (index, (name, shape)) in SHAPES.into_iter().enumerate() {
        let bytes = tensors[name].clone();
        shards[index % 2].push(Tensor { name: name.to_owned(), dtype: "BF16", shape: shape.to_vec(), bytes });
        map.insert(name.to_owned(), json!(format!("model-{}-of-2.safetensors", index % 2 + 1)));
    }
    for (index, tensors) in shards.iter().enumerate() {
        write_file(&folder.join(format!("model-{}-of-2.safetensors", index + 1)), tensors);
    }
    let index = json!({ "metadata": {}, "weight_map": map });
    fs::write(folder.join("model.safetensors.index.json"), index.to_string()).expect("the folder can be written");
    fs::write(folder.join("config.json"), "{}").expect("the folder can be written");
}

#[test]
fn shards_are_patched_each_and_come_back() {
    let dir = workshop();
    shard(&dir, "clean", "shards");
    run(&dir, "patch add clean one --patch fog.patch=0.8 snow.patch=-1");
    run(&dir, "patch add shards both --patch fog.patch=0.8 snow.patch=-1");
    let tensors = crate::synthetic::tensors;
    let mut found = tensors(&dir.path().join("both/model-1-of-2.safetensors"));
    found.extend(tensors(&dir.path().join("both/model-2-of-2.safetensors")));
    assert!(found == tensors(&dir.path().join("one/model.safetensors")), "the same weights as in one file");
    run(&dir, "patch verify both");
    run(&dir, "patch remove both back --all");
    assert_same(&dir, "shards", "back");
    run(&dir, "patch remove both --in-place fog");
    run(&dir, "patch remove both --in-place --all");
    assert_same(&dir, "shards", "both");
}
