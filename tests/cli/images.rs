//! `eval` of classifiers of images: the bundled one, its signatures, sets in every format, and what is refused.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;

use crate::support::{Cmd, Dir};

/// What `eval` prints of a classifier. Every key is listed; another one is an error.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the set of keys and their types is what is checked")]
struct Evaluated {
    schema: u32,
    images: usize,
    classes: usize,
    accuracy: f64,
    accuracy_standard_error: f64,
    nll: f64,
    calibration_error: f64,
    reference_accuracy: Option<f64>,
    agreement: Option<f64>,
    calibration_bins: usize,
    corruptions: Vec<Corrupted>,
    mean_corruption_error: Option<f64>,
    mean_corruption_error_of_reference: Option<f64>,
    corruption_seed: u64,
    ood: Option<Outside>,
    seconds: f64,
    images_per_s: f64,
    peak_rss_bytes: usize,
    kernels: String,
    threads: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the set of keys and their types is what is checked")]
struct Corrupted {
    name: String,
    severity: usize,
    accuracy: f64,
    accuracy_standard_error: f64,
    nll: f64,
    calibration_error: f64,
    reference_accuracy: Option<f64>,
    agreement: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Outside {
    images: usize,
    energy_auroc: f64,
    mahalanobis_auroc: Option<f64>,
}

fn evaluated(words: &str, dir: &Dir) -> Evaluated {
    Cmd::new(words).in_dir(dir).run().expect_status(0).document()
}

const ASSETS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo-vision");

/// Figures of `evaluation.json` of the bundled classifier, which torch computed.
fn card() -> serde_json::Value {
    let text = fs::read_to_string(Path::new(ASSETS).join("evaluation.json")).expect("it is beside the model");
    serde_json::from_str(&text).expect("it is JSON")
}

/// Pixels and labels of the bundled test images.
fn bundled_images() -> (Vec<u8>, Vec<u8>) {
    let bytes = fs::read(Path::new(ASSETS).join("images.safetensors")).expect("it is beside the model");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("it is well formed");
    let read = |name: &str| file.tensor(name).expect("the tensor is there").data().to_vec();
    (read("images"), read("labels"))
}

fn idx(shape: &[u32], elements: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, shape.len() as u8];
    bytes.extend(shape.iter().flat_map(|n| n.to_be_bytes()));
    bytes.extend(elements);
    bytes
}

#[test]
fn the_bundled_classifier_is_worth_what_torch_says_of_it() {
    let found = evaluated("eval demo-vision --corruption impulse_noise:4 contrast:4 --json", &Dir::new());
    let card = &card()["bundled_images"];
    let expected = |name: &str, key: &str| card[name][key].as_f64().expect("the card has it");
    assert!((found.accuracy - expected("clean", "accuracy")).abs() < 1e-12, "{}", found.accuracy);
    assert!((found.nll - expected("clean", "nll")).abs() < 1e-5, "{}", found.nll);
    assert_eq!(found.corruptions.len(), 2);
    for corruption in &found.corruptions {
        let name = format!("{}:{}", corruption.name, corruption.severity);
        // Two images at most may fall on the other side of a rounding.
        assert!((corruption.accuracy - expected(&name, "accuracy")).abs() < 0.0041, "{name}: {}", corruption.accuracy);
        assert!((corruption.nll - expected(&name, "nll")).abs() < 1e-2, "{name}: {}", corruption.nll);
    }
    let mean = found.corruptions.iter().map(|corruption| 1.0 - corruption.accuracy).sum::<f64>() / 2.0;
    assert!((found.mean_corruption_error.expect("there are corruptions") - mean).abs() < 1e-12);
    assert_eq!((found.images, found.classes, found.calibration_bins), (500, 10, 15));
}

#[test]
fn a_signature_makes_it_robust_and_comes_off_without_trace() {
    let dir = Dir::new();
    let patch = "demo-vision/signatures/impulse_noise.safetensors=0.25";
    Cmd::new(&format!("patch add demo-vision patched -q --patch {patch}")).in_dir(&dir).run().expect_status(0);
    let words = "eval patched --images demo-vision --reference demo-vision --corruption impulse_noise:4 --json";
    let found = evaluated(words, &dir);
    let noise = &found.corruptions[0];
    let gained = noise.accuracy - noise.reference_accuracy.expect("there is a reference");
    let lost = found.reference_accuracy.expect("there is a reference") - found.accuracy;
    assert!(gained > 0.15 && lost < 0.06, "gained {gained}, lost {lost}");
    assert!(found.mean_corruption_error_of_reference < Some(0.9));
    Cmd::new("patch remove patched plain --all -q").in_dir(&dir).run().expect_status(0);
    let read = |path: &Path| tensors_of(&fs::read(path.join("model.safetensors")).expect("the model is there"));
    assert_eq!(read(&dir.path().join("plain")), read(Path::new(ASSETS)));
    let same = evaluated("eval plain --images demo-vision --reference demo-vision --json", &dir);
    assert_eq!((same.agreement, same.mean_corruption_error), (Some(1.0), None));
}

/// Names, shapes and bytes, in order of names: headers may differ.
fn tensors_of(file: &[u8]) -> Vec<(String, Vec<usize>, Vec<u8>)> {
    let file = safetensors::SafeTensors::deserialize(file).expect("it is well formed");
    let mut tensors: Vec<_> =
        file.tensors().into_iter().map(|(name, view)| (name, view.shape().to_vec(), view.data().to_vec())).collect();
    tensors.sort();
    tensors
}

#[test]
fn every_format_of_a_set_gives_the_same_and_so_does_any_number_of_threads() {
    let dir = Dir::new();
    let (images, labels) = bundled_images();
    let n = labels.len() as u32;
    fs::create_dir(dir.path().join("folder")).expect("it is new");
    for name in ["a-images-idx3-ubyte", "folder/t10k-images-idx3-ubyte"] {
        fs::write(dir.path().join(name), idx(&[n, 28, 28], &images)).expect("it can be written");
        let name = name.replace("images-idx3", "labels-idx1");
        fs::write(dir.path().join(name), idx(&[n], &labels)).expect("it can be written");
    }
    let wide: Vec<u8> = labels.iter().flat_map(|label| i64::from(*label).to_le_bytes()).collect();
    let tensors = HashMap::from([
        ("images", TensorView::new(Dtype::U8, vec![n as usize, 1, 28, 28], &images).expect("it fits")),
        ("labels", TensorView::new(Dtype::I64, vec![n as usize], &wide).expect("it fits")),
    ]);
    let file = dir.path().join("wide.safetensors");
    safetensors::serialize_to_file(tensors, None, &file).expect("it can be written");
    let figures = |words: &str| {
        let found = evaluated(&format!("eval demo-vision --corruption fog:2 glass_blur:1 --json {words}"), &dir);
        let corrupted: Vec<(f64, f64)> = found.corruptions.iter().map(|found| (found.accuracy, found.nll)).collect();
        (found.accuracy, found.nll, found.calibration_error, corrupted)
    };
    let expected = figures("");
    for words in
        ["--images a-images-idx3-ubyte", "--images folder", "--images wide.safetensors --threads 1", "--threads 3"]
    {
        assert_eq!(figures(words), expected, "{words}");
    }
    assert_ne!(figures("--corruption-seed 1").3, expected.3);
}

#[test]
fn other_images_are_told_apart() {
    let dir = Dir::new();
    // Upside down: all rows of all images in reverse, and so are the images.
    let (images, _) = bundled_images();
    let turned: Vec<u8> = images.chunks(28).rev().flatten().copied().collect();
    fs::write(dir.path().join("turned-images-idx3-ubyte"), idx(&[500, 28, 28], &turned)).expect("it can be written");
    let found =
        evaluated("eval demo-vision --ood turned-images-idx3-ubyte --json", &dir).ood.expect("it was asked for");
    assert_eq!(found.images, 500);
    // What the figures are is compared with numpy in tests/interop/test_vision.py.
    let mahalanobis = found.mahalanobis_auroc.expect("features can be fitted");
    assert!([found.energy_auroc, mahalanobis].iter().all(|area| *area > 0.5 && *area < 1.0));
    let twice = evaluated("eval demo-vision --ood demo-vision --json", &dir).ood.expect("it was asked for");
    assert!((twice.energy_auroc - 0.5).abs() < 1e-12, "{}", twice.energy_auroc);
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let dir = Dir::new();
    let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).expect("it can be written");
    write("small-images-idx3-ubyte", &idx(&[1, 8, 8], &[0; 64]));
    write("small-labels-idx1-ubyte", &idx(&[1], &[0]));
    write("bare-images-idx3-ubyte", &idx(&[1, 28, 28], &[0; 784]));
    write("odd-images-idx3-ubyte", &idx(&[1, 28, 28], &[0; 784]));
    write("odd-labels-idx1-ubyte", &idx(&[1], &[10]));
    write("two-images-idx3-ubyte", &idx(&[1, 28, 28], &[0; 784]));
    write("two-labels-idx1-ubyte", &idx(&[2], &[0, 0]));
    write("cut-images-idx3-ubyte", &idx(&[2, 28, 28], &[0; 784]));
    write("text", b"no images");
    let cases = [
        ("eval demo-vision --images small-images-idx3-ubyte", "takes 1 channels of 28x28, found images of 1x8x8"),
        ("eval demo-vision --images bare-images-idx3-ubyte", "expected labels with the images, found none"),
        ("eval demo-vision --images odd-images-idx3-ubyte", "label 10 of image 0 is beyond 10 classes"),
        ("eval demo-vision --images two-images-idx3-ubyte", "expected a label for each of 1 images, found [2]"),
        ("eval demo-vision --images cut-images-idx3-ubyte", "ask for 1568 elements, found 784"),
        ("eval demo-vision --images text", "neither IDX nor safetensors"),
        ("eval demo-vision --images .", "no file `t10k-images-idx3-ubyte`"),
        ("eval demo-vision --images nowhere", "cannot"),
        ("eval demo-vision --text text", "is a classifier of images"),
        ("eval demo --images demo-vision", "is no classifier of images"),
        ("eval demo-vision --corruption smoke", "no corruption \"smoke\""),
        ("eval demo-vision --corruption fog:9", "expected 1 to 5"),
        ("eval demo-vision --reference demo", "the reference `demo` is no classifier"),
    ];
    let mut wrong = Vec::new();
    for (words, said) in cases {
        let ran = Cmd::new(words).in_dir(&dir).run();
        if !matches!(ran.status, 2 | 3) || !ran.stderr.contains(said) {
            wrong.push(format!("{words}: {} {}", ran.status, ran.stderr));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_bound_on_errors_is_held() {
    let ran = Cmd::new("eval demo-vision --fail-above 0.5").run().expect_status(0);
    assert!(ran.stdout.starts_with("images"), "{}", ran.stdout);
    Cmd::new("eval demo-vision --fail-above 0.01").run().expect_status(1);
}

#[test]
fn hostile_configurations_are_refused() {
    let model = fs::read(Path::new(ASSETS).join("model.safetensors")).expect("it is beside the demo");
    let config = fs::read_to_string(Path::new(ASSETS).join("config.json")).expect("it is beside the demo");
    let config: serde_json::Value = serde_json::from_str(&config).expect("it is JSON");
    let cases = [
        ("layers", serde_json::json!(null), "\"layers\""),
        ("layers", serde_json::json!(["M", "M", "M", "M", "M", 32]), "features.5.weight"),
        ("layers", serde_json::json!([32, "x"]), "\"layers\""),
        ("layers", serde_json::json!([1_000_000]), "expected shape"),
        ("pooled_size", serde_json::json!(1 << 30), "\"pooled_size\""),
        ("pooled_size", serde_json::json!(2), "expected shape"),
        ("num_channels", serde_json::json!(3), "expected shape"),
        ("image_mean", serde_json::json!([0.1, 0.2]), "\"image_mean\""),
        ("image_std", serde_json::json!([0.0]), "\"image_std\""),
        ("batch_norm", serde_json::json!(true), "running_mean"),
        ("model_type", serde_json::json!("resnet"), "embedder.embedder.convolution.weight"),
    ];
    let dir = Dir::new();
    fs::write(dir.path().join("model.safetensors"), model).expect("it can be written");
    for (key, value, said) in cases {
        let mut config = config.clone();
        config[key] = value;
        fs::write(dir.path().join("config.json"), config.to_string()).expect("it can be written");
        let ran = Cmd::new("eval . --images demo-vision").in_dir(&dir).run();
        assert!(ran.status == 2 && ran.stderr.contains(said), "{key}: {} {}", ran.status, ran.stderr);
    }
}

/// The word is the model; what follows it names a patch.
#[test]
fn the_bundled_classifier_can_be_looked_into() {
    let model = Cmd::new("inspect demo-vision").run().expect_status(0);
    assert!(model.stdout.contains("features.0.weight"), "{}", model.stdout);
}
