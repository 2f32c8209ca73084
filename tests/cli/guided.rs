//! `quantize` by activation statistics: less loss than without, the same bytes whatever the threads and the kernels, and clear refusals.

use reweight::demo;
use serde::Deserialize;

use crate::support::{Cmd, Dir, Ran};

#[derive(Deserialize)]
struct Document {
    target_digest: String,
    method: String,
    tensors: Vec<Tensor>,
    mappings: Option<Vec<Mapping>>,
}

#[derive(Deserialize)]
struct Tensor {
    name: String,
    output_mse: Option<f64>,
    output_mse_rtn: Option<f64>,
}

#[derive(Deserialize)]
struct Mapping {
    name: String,
    layers: Vec<String>,
    ratio: f64,
    form: String,
    error: f64,
    error_unscaled: f64,
    error_rtn: f64,
}

#[derive(Deserialize)]
struct Loss {
    nll: f64,
}

/// Runs in a folder that later commands see.
#[track_caller]
fn run(dir: &Dir, words: &str) -> Ran {
    Cmd::new(words).in_dir(dir).run().expect_status(0)
}

#[test]
fn each_method_loses_less_than_the_one_before() {
    let dir = Dir::new();
    std::fs::write(dir.path().join("demo.txt"), demo::HELDOUT_TEXT).expect("written");
    run(&dir, "calibrate demo stats.safetensors --gram");
    let mut losses = Vec::new();
    for (method, stats) in [("rtn", ""), ("search", ""), ("awq", "--stats x"), ("best", "--stats x")] {
        let stats = stats.replace('x', "stats.safetensors");
        let words = format!("quantize demo {method} --scheme int2-g32 --method {method} --json {stats}");
        let document: Document = run(&dir, &words).document();
        assert_eq!(document.method, method);
        let guided = document.tensors.iter().filter(|tensor| tensor.output_mse.is_some());
        assert_eq!(guided.clone().count() > 0, !stats.is_empty(), "{method}");
        for tensor in guided {
            assert!(tensor.output_mse <= tensor.output_mse_rtn, "{method}: {}", tensor.name);
        }
        for mapping in document.mappings.iter().flatten() {
            assert!(mapping.error <= mapping.error_unscaled, "{}", mapping.name);
            assert!(mapping.error_unscaled <= mapping.error_rtn, "{}", mapping.name);
            assert!(!mapping.layers.is_empty() && (0.0..=1.0).contains(&mapping.ratio), "{}", mapping.name);
        }
        let loss: Loss = run(&dir, &format!("eval {method} --text demo.txt --max-tokens 8192 --json")).document();
        losses.push(loss.nll);
        run(&dir, &format!("verify {method}"));
    }
    assert!(losses.is_sorted_by(|a, b| a > b), "{losses:?}");
}

#[test]
fn deciding_weights_in_doubt_lies_between_nearest_codes_and_compensation() {
    let dir = Dir::new();
    std::fs::write(dir.path().join("demo.txt"), demo::HELDOUT_TEXT).expect("written");
    run(&dir, "calibrate demo stats.safetensors --gram");
    let of_method = |scheme: &str, method: &str| -> Document {
        let words = format!("quantize demo t --force --scheme {scheme} --method {method} --stats stats.safetensors");
        run(&dir, &format!("{words} --json")).document()
    };
    // The mean, over layers, of the logarithm of what is left of the output error of `rtn`; both are told by x x^T.
    let left = |document: &Document| {
        let pairs = document.tensors.iter().filter_map(|tensor| tensor.output_mse.zip(tensor.output_mse_rtn));
        let logarithms: Vec<f64> = pairs.map(|(error, rtn)| (error / rtn).ln()).collect();
        logarithms.iter().sum::<f64>() / logarithms.len() as f64
    };
    for scheme in ["int2-g32", "statsq2-g32-fit", "nf4-g32"] {
        let [confident, gptq] = ["confident", "gptq"].map(|method| left(&of_method(scheme, method)));
        assert!(gptq < confident && confident < 0.0, "{scheme}: {confident} and {gptq}");
    }
    for (nearest, decided) in [("search", "confident"), ("awq", "awq-confident")] {
        let losses = [nearest, decided].map(|method| {
            of_method("int2-g32", method);
            run(&dir, "eval t --text demo.txt --max-tokens 8192 --json").document::<Loss>().nll
        });
        assert!(losses[1] < losses[0], "{nearest}, {decided}: {losses:?}");
    }
}

#[test]
fn the_published_search_is_a_baseline_between_rtn_and_awq() {
    let dir = Dir::new();
    std::fs::write(dir.path().join("demo.txt"), demo::HELDOUT_TEXT).expect("written");
    let mut losses = Vec::new();
    for (target, method) in [("rtn", "rtn"), ("paper", "awq --paper --text demo"), ("awq", "awq --text demo")] {
        let words = format!("quantize demo {target} --scheme int2-g32 --method {method} --json");
        let document: Document = run(&dir, &words).document();
        let loss: Loss = run(&dir, &format!("eval {target} --text demo.txt --max-tokens 8192 --json")).document();
        losses.push(loss.nll);
        if target == "paper" {
            assert_eq!(document.method, "awq-paper");
            for mapping in document.mappings.expect("mappings") {
                let step = mapping.ratio * 19.0;
                assert!((step - step.round()).abs() < 1e-5, "{}: {}", mapping.name, mapping.ratio);
                assert!(mapping.error <= mapping.error_unscaled, "{}", mapping.name);
            }
        }
    }
    assert!(losses.is_sorted_by(|a, b| a > b), "{losses:?}");
    Cmd::new("quantize demo x --method best --paper --text demo").in_dir(&dir).run().expect_status(2);
    Cmd::new("quantize demo x --method awq --paper").in_dir(&dir).run().expect_status(2);
}

#[test]
fn scales_may_be_searched_by_the_exact_error() {
    let dir = Dir::new();
    run(&dir, "calibrate demo moments.safetensors --tokens 4096");
    run(&dir, "calibrate demo gram.safetensors --gram --tokens 4096");
    let words = "quantize demo x --scheme int2-g32 --method awq --objective gram --stats";
    Cmd::new(&format!("{words} moments.safetensors")).in_dir(&dir).run().expect_status(2);
    let document: Document = run(&dir, &format!("{words} gram.safetensors --json")).document();
    let mappings = document.mappings.expect("mappings");
    assert!(mappings.iter().any(|mapping| mapping.ratio > 0.0 && mapping.error < mapping.error_unscaled));
}

#[test]
fn the_means_of_weights_may_enter_the_scales() {
    let dir = Dir::new();
    run(&dir, "calibrate demo stats.safetensors --tokens 4096");
    let of_form = |form: &str| -> Vec<Mapping> {
        let words = format!("quantize demo {form} --scheme int2-g32 --method awq --stats stats.safetensors --json");
        run(&dir, &format!("{words} --scales {form}")).document::<Document>().mappings.expect("mappings")
    };
    let (plain, duo, both) = (of_form("plain"), of_form("duo"), of_form("both"));
    let total = |mappings: &[Mapping]| -> f64 { mappings.iter().map(|mapping| mapping.error).sum() };
    assert!(duo.iter().all(|mapping| mapping.form == "duo" || mapping.ratio == 0.0));
    assert!(plain.iter().all(|mapping| mapping.form == "plain"));
    assert!(
        total(&both) <= total(&plain).min(total(&duo)) * 1.01,
        "{} {} {}",
        total(&plain),
        total(&duo),
        total(&both)
    );
}

#[test]
fn the_bytes_do_not_depend_on_threads_or_kernels() {
    let dir = Dir::new();
    run(&dir, "calibrate demo stats.safetensors --gram --tokens 2048");
    for method in ["best", "awq-confident"] {
        let digest = |options: &str| {
            let words =
                format!("quantize demo t --force --scheme int3-g64 --method {method} --stats stats.safetensors");
            let document: Document = run(&dir, &format!("{words} --json {options}")).document();
            let errors = document.tensors.iter().filter_map(|tensor| tensor.output_mse.map(f64::to_bits));
            (document.target_digest, errors.collect::<Vec<u64>>())
        };
        let digests = ["--threads 1", "--threads 2", "--kernels scalar"].map(digest);
        assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{method}: {digests:?}");
    }
}

#[test]
fn the_folded_model_predicts_what_the_original_does() {
    let dir = Dir::new();
    let folded = "quantize demo folded --text demo --method awq --only-fold --dtype f32 --scales-out s.safetensors";
    run(&dir, folded);
    std::fs::write(dir.path().join("demo.txt"), demo::HELDOUT_TEXT).expect("written");
    let losses = ["demo", "folded"].map(|model| {
        run(&dir, &format!("eval {model} --text demo.txt --max-tokens 8192 --json")).document::<Loss>().nll
    });
    assert!((losses[0] - losses[1]).abs() < 1e-5, "{losses:?}");
    assert!(dir.names().contains(&"s.safetensors".to_owned()));
    let document = Cmd::new("diff demo folded --json").in_dir(&dir).run().expect_status(0);
    assert!(document.stdout.contains("\"identical\": false"), "nothing was scaled");
}

#[test]
fn channels_are_scaled_on_the_way_into_a_gguf_file() {
    let dir = Dir::new();
    run(&dir, "calibrate demo stats.safetensors --tokens 4096");
    std::fs::write(dir.path().join("demo.txt"), demo::HELDOUT_TEXT).expect("written");
    let loss = |model: &str| {
        run(&dir, &format!("eval {model} --text demo.txt --max-tokens 8192 --json")).document::<Loss>().nll
    };
    // In f32 nothing is rounded, so that only a wrong fold could change what the model says.
    run(&dir, "quantize demo f32.gguf --to gguf --scheme f32 --method awq --stats stats.safetensors");
    assert!((loss("demo") - loss("f32.gguf")).abs() < 1e-5);
    let document = Cmd::new("diff demo f32.gguf --json").in_dir(&dir).run().expect_status(0);
    assert!(document.stdout.contains("\"identical\": false"), "nothing was scaled");
    let text = Cmd::new("quantize demo text.gguf --to gguf --scheme q4_0 --method awq --text demo --tokens 4096");
    text.in_dir(&dir).run().expect_status(0);
    assert!(loss("text.gguf") < loss("demo") + 0.05);
}

#[test]
fn what_cannot_be_had_is_refused_before_any_work() {
    let dir = Dir::new();
    run(&dir, "calibrate demo stats.safetensors --tokens 512");
    for (options, problem) in [
        ("--method best", "needs to know what goes through the model"),
        ("--method best --stats stats.safetensors", "needs how channels go together"),
        ("--method confident", "needs to know what goes through the model"),
        ("--method confident --stats stats.safetensors", "needs how channels go together"),
        ("--only-fold", "has nothing to fold"),
        ("--scales-out s.safetensors", "has no factors to write"),
        ("--stats stats.safetensors --text demo", "cannot be used with"),
        ("--stats nothing.safetensors", "nothing.safetensors"),
    ] {
        let ran = Cmd::new(&format!("quantize demo other {options}")).in_dir(&dir).run();
        assert!(ran.status == 2 && ran.stderr.contains(problem), "{options}: {}", ran.stderr);
        assert!(!dir.path().join("other").exists());
    }
}
