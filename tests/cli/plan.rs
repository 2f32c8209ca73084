//! `plan` and what `quantize` makes of its recipes: budgets held to the byte, layers that are one stored alike, and clear refusals.

use std::collections::BTreeMap;

use reweight::quant::recipe::Recipe;
use reweight::quant::scheme::Scheme;
use reweight::quant::stats::Key;
use serde::Deserialize;

use crate::support::{Cmd, Dir, Ran};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plan {
    schema: u32,
    bits_per_weight: f64,
    bytes_out: usize,
    bytes_kept: usize,
    weights: usize,
    predicted: f64,
    predicted_bound: f64,
    exact: bool,
    measured: Option<Measured>,
    tensors: Vec<Tensor>,
    probes: Vec<Probe>,
    seconds: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Measured {
    tokens: usize,
    nll: f64,
    reference_nll: f64,
    kl_mean: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tensor {
    name: String,
    scheme: String,
    bits_per_weight: f64,
    error: f64,
    sensitivity: Option<f64>,
    kurtosis: f64,
    skew: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Probe {
    part: String,
    kl_mean: f64,
}

#[derive(Deserialize)]
struct Quantized {
    bits_per_weight: f64,
    bytes_out: usize,
    target_digest: String,
    tensors: Vec<Stored>,
}

#[derive(Deserialize)]
struct Stored {
    name: String,
    scheme: String,
}

#[derive(Deserialize)]
struct Manifest {
    recipe: Option<Recipe>,
}

/// Runs in a folder that later commands see.
#[track_caller]
fn run(dir: &Dir, words: &str) -> Ran {
    Cmd::new(words).in_dir(dir).run().expect_status(0)
}

fn manifest(dir: &Dir, target: &str) -> Manifest {
    let text = std::fs::read_to_string(dir.path().join(target).join("reweight.json")).expect("a manifest");
    serde_json::from_str(&text).expect("a manifest")
}

/// Schemes of what is quantized, by name.
fn schemes(tensors: &[Stored]) -> BTreeMap<&str, &str> {
    let coded = tensors.iter().filter(|tensor| tensor.scheme.starts_with("int"));
    coded.map(|tensor| (tensor.name.as_str(), tensor.scheme.as_str())).collect()
}

#[test]
fn a_budget_is_met_and_quantize_follows_the_recipe() {
    let dir = Dir::new();
    let plan: Plan = run(&dir, "plan demo --target-bpw 3.5 --recipe-out r.toml --json").document();
    assert_eq!((plan.schema, plan.exact, plan.probes.len()), (1, true, 0));
    assert!(plan.bits_per_weight <= 3.5 && plan.bits_per_weight > 3.49, "{}", plan.bits_per_weight);
    assert!(plan.predicted >= plan.predicted_bound && plan.predicted_bound > 0.0 && plan.seconds > 0.0);
    assert!(plan.measured.is_none() && plan.tensors.iter().all(|tensor| tensor.sensitivity.is_none()));
    for tensor in &plan.tensors {
        let Tensor { name, scheme, bits_per_weight, error, kurtosis, skew, .. } = tensor;
        let bits = f64::from(scheme.parse::<Scheme>().expect(name).bits());
        assert!((bits..bits + 0.7).contains(bits_per_weight), "{name} as {scheme}: {bits_per_weight}");
        assert!(
            *error > 0.0 && *error < 1.0 && *kurtosis > 1.0 && skew.abs() < 5.0,
            "{name}: {error} {kurtosis} {skew}"
        );
    }
    let quantized: Quantized = run(&dir, "quantize demo q --recipe r.toml --method search --json").document();
    assert!((quantized.bits_per_weight - plan.bits_per_weight).abs() < 1e-9, "{}", quantized.bits_per_weight);
    assert_eq!((quantized.bytes_out, plan.weights), (plan.bytes_out, 3_342_336));
    assert!(plan.bytes_kept < plan.bytes_out);
    let planned: BTreeMap<&str, &str> =
        plan.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.scheme.as_str())).collect();
    assert_eq!(schemes(&quantized.tensors), planned);
    let recipe = Recipe::read(&dir.path().join("r.toml")).expect("a recipe");
    assert_eq!(manifest(&dir, "q").recipe, Some(recipe));
    run(&dir, "verify q");
    // In one command the same comes out.
    let at_once: Quantized = run(&dir, "quantize demo q2 --target-bpw 3.5 --method search --json").document();
    assert_eq!(at_once.target_digest, quantized.target_digest);
}

#[test]
fn layers_that_engines_hold_as_one_are_stored_alike() {
    let dir = Dir::new();
    let plan: Plan = run(&dir, "plan demo --target-bpw 3.2 --json").document();
    let scheme_of: BTreeMap<String, String> =
        plan.tensors.iter().map(|tensor| (tensor.name.clone(), tensor.scheme.clone())).collect();
    let (mut distinct, mut failed) = (std::collections::BTreeSet::new(), Vec::new());
    for (name, scheme) in &scheme_of {
        distinct.insert(scheme);
        let with = |from: &str, to: &str| scheme_of.get(&name.replace(from, to)).map_or("", String::as_str);
        for (from, to) in [("q_proj", "k_proj"), ("q_proj", "v_proj"), ("gate_proj", "up_proj")] {
            if name.contains(from) && with(from, to) != scheme {
                failed.push(format!("{name}: {scheme}, {to}: {}", with(from, to)));
            }
        }
    }
    assert!(failed.is_empty() && distinct.len() > 1, "{failed:?} {distinct:?}");
}

#[test]
fn constraints_hold_and_count() {
    let dir = Dir::new();
    let keep = "--keep *layers.0.* --tensor *layers.5.*down_proj*=int8-g32";
    let plan: Plan = run(&dir, &format!("plan demo --target-bpw 4 --schemes *-sym {keep} --json")).document();
    assert!(plan.bits_per_weight <= 4.0 && plan.bits_per_weight > 3.99, "{}", plan.bits_per_weight);
    for tensor in &plan.tensors {
        let expected = tensor.name.contains("layers.5.mlp.down_proj");
        assert_eq!(tensor.scheme == "int8-g32", expected, "{}", tensor.name);
        assert!(expected || tensor.scheme.ends_with("-sym"), "{}: {}", tensor.name, tensor.scheme);
        assert!(!tensor.name.contains("layers.0."), "{}", tensor.name);
    }
    let plan: Plan = run(&dir, "plan demo --target-size 3.5MB --json").document();
    assert!(plan.bytes_out <= 3_500_000 && plan.bytes_out > 3_495_000, "{}", plan.bytes_out);
}

#[test]
fn text_tells_which_layers_predictions_depend_on() {
    let dir = Dir::new();
    let words = "plan demo --target-bpw 2.6 --text demo --tokens 4096 --probe-tokens 1024 --json";
    let plan: Plan = run(&dir, words).document();
    let measured = plan.measured.expect("text was given");
    assert!(
        measured.tokens > 1000 && measured.nll > measured.reference_nll,
        "{} {}",
        measured.nll,
        measured.reference_nll
    );
    // Divergences of parts add up to that of the whole within a factor, which is what the choice rests on.
    let ratio = plan.predicted / measured.kl_mean;
    assert!((0.4..2.5).contains(&ratio), "{} predicted, {} measured", plan.predicted, measured.kl_mean);
    let parts: Vec<&str> = plan.probes.iter().map(|probe| probe.part.as_str()).collect();
    assert_eq!(parts.len(), 6 + 4, "{parts:?}");
    assert!(parts.contains(&"model.layers.0") && parts.contains(&"mlp.down_proj.weight"), "{parts:?}");
    assert!(plan.probes.iter().all(|probe| probe.kl_mean > 0.0));
    assert!(plan.tensors.iter().all(|tensor| tensor.sensitivity > Some(0.0)));
    // A block at a time, by the method that text gives.
    let words = "quantize demo q --target-bpw 2.6 --text demo --tokens 4096 --probe-tokens 1024 --json";
    let quantized: Quantized = run(&dir, words).document();
    assert!((quantized.bits_per_weight - plan.bits_per_weight).abs() < 1e-9, "{}", quantized.bits_per_weight);
    let recipe = manifest(&dir, "q").recipe.expect("a recipe");
    let named = |tensor: &Tensor| recipe.tensors.get(&Key(tensor.name.clone())).map(ToString::to_string);
    assert!(plan.tensors.iter().all(|tensor| named(tensor).as_ref() == Some(&tensor.scheme)));
}

#[test]
fn what_cannot_be_planned_says_why() {
    let dir = Dir::new();
    let recipe = "schema = 1\n[tensors]\n\"model.layers.9.x.weight\" = \"int4-g64\"\n";
    std::fs::write(dir.path().join("other.toml"), recipe).expect("written");
    std::fs::write(dir.path().join("odd.toml"), "schema = 7\n[tensors]\n").expect("written");
    let embedding = "schema = 1\n[tensors]\n\"model.embed_tokens.weight\" = \"int4-g64\"\n";
    std::fs::write(dir.path().join("embedding.toml"), embedding).expect("written");
    let rows = [
        ("plan demo", "no budget to plan for"),
        ("plan demo --target-bpw 1.5", "1.5 bits per weight cannot be met: the smallest schemes take 2.0"),
        ("plan demo --target-size 1MB", "1.00 MB cannot be met"),
        ("plan demo --target-bpw 0", "expected a number of bits up to 16"),
        ("plan demo --target-bpw 3 --target-size 1GB", "cannot be used with"),
        ("plan demo --target-bpw 3 --schemes int9*", "scheme \"int9*\""),
        ("plan demo --target-bpw 3 --schemes int4", "scheme \"int4\""),
        ("plan demo --target-bpw 3 --recipe-out odd.toml", "exists already"),
        ("quantize demo q --recipe other.toml", "names tensor \"model.layers.9.x.weight\", which `demo` does not have"),
        ("quantize demo q --recipe odd.toml", "schema 7 is not known, expected 1"),
        ("quantize demo q --recipe embedding.toml", "cannot be stored as int4-g64: embedding"),
        ("quantize demo q --recipe odd.toml --scheme int4-g64", "cannot be used with"),
        ("quantize demo q --target-bpw 3 --to awq", "awq holds one scheme for all tensors"),
        ("quantize demo q.gguf --target-bpw 3 --to gguf", "takes no --target-bpw"),
    ];
    let mut failed = Vec::new();
    for (words, expected) in rows {
        let ran = Cmd::new(words).in_dir(&dir).run();
        if ran.status != 2 || !ran.stderr.contains(expected) {
            failed.push(format!("`{words}`: {} {}", ran.status, ran.stderr));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[derive(Deserialize)]
struct Loss {
    nll: f64,
}

#[test]
fn a_master_makes_smaller_models_without_the_original() {
    let dir = Dir::new();
    run(&dir, "calibrate demo s.safetensors --tokens 8192");
    run(&dir, "quantize demo master --scheme int8-g64 --method search --stats s.safetensors --keep-stats");
    run(&dir, "verify master");
    std::fs::write(dir.path().join("heldout.txt"), reweight::demo::HELDOUT_TEXT).expect("written");
    let loss = |words: &str, target: &str| {
        let document: Quantized = run(&dir, &format!("quantize {words} --json")).document();
        let eval = format!("eval {target} --text heldout.txt --max-tokens 8192 --json");
        (document, run(&dir, &eval).document::<Loss>().nll)
    };
    // Statistics are those that the master keeps, and so the method is the one that goes with them.
    let (direct, direct_loss) = loss("demo direct --scheme int3-g64 --stats s.safetensors", "direct");
    let (smaller, smaller_loss) = loss("master smaller --scheme int3-g64", "smaller");
    assert_eq!(schemes(&direct.tensors), schemes(&smaller.tensors));
    let original: Loss = run(&dir, "eval demo --text heldout.txt --max-tokens 8192 --json").document();
    let gaps = (smaller_loss - original.nll, direct_loss - original.nll);
    assert!(gaps.1 > 0.0 && gaps.0 < 1.1 * gaps.1, "{gaps:?}");
    let (planned, _) = loss("master planned --target-bpw 3.3", "planned");
    assert!(planned.bits_per_weight <= 3.3 && planned.bits_per_weight > 3.29, "{}", planned.bits_per_weight);
    // What is made from a master is none: fewer bits are not taken for an original.
    let ran = Cmd::new("quantize smaller again --scheme int2-g32").in_dir(&dir).run().expect_status(2);
    assert!(ran.stderr.contains("is quantized already"), "{}", ran.stderr);
}

#[test]
fn only_statistics_of_the_weights_themselves_are_kept() {
    let dir = Dir::new();
    let ran = Cmd::new("quantize demo m --scheme int8-g64 --keep-stats").in_dir(&dir).run().expect_status(2);
    assert!(ran.stderr.contains("no statistics to keep"), "{}", ran.stderr);
    let words = "quantize demo m --scheme int8-g64 --method awq --text demo --keep-stats";
    let ran = Cmd::new(words).in_dir(&dir).run().expect_status(2);
    assert!(ran.stderr.contains("awq changes its channels"), "{}", ran.stderr);
}
