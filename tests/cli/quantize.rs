//! What `quantize` makes of a model, read back with `verify`, `diff` and `convert`, and from the bytes themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::{Cmd, Dir, Ran};
use crate::synthetic::{Random, Tensor, files, ranges, tensors, write_file, write_folder};

/// The document of a run. Every key is listed; another one is an error.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the set of keys and their types is what is checked")]
struct Done {
    schema: u32,
    target: String,
    seconds: f64,
    peak_rss_bytes: usize,
    peak_anonymous_bytes: usize,
    planned_anonymous_bytes: usize,
    n_resumed: usize,
    kernels: String,
    threads: usize,
    method: String,
    bits_per_weight: f64,
    band: f64,
    bytes_in: usize,
    bytes_out: usize,
    source_digest: String,
    target_digest: String,
    tensors: Vec<DoneTensor>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the set of keys and their types is what is checked")]
struct DoneTensor {
    name: String,
    shape: Vec<usize>,
    from: String,
    scheme: String,
    #[serde(default)]
    reason: String,
    bytes: usize,
    error_mse: Option<f64>,
    error_mse_rtn: Option<f64>,
    low_confidence: Option<f64>,
    source_blake3: String,
    parts: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the set of keys and their types is what is checked")]
struct Plan {
    schema: u32,
    dry_run: bool,
    tensors: Vec<PlanTensor>,
    bytes_in: usize,
    bytes_out: usize,
    n_shards: usize,
    peak_anonymous_bytes: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the set of keys and their types is what is checked")]
struct PlanTensor {
    name: String,
    from: String,
    scheme: String,
    decision: String,
    reason: String,
    bytes: usize,
    shard: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the set of keys and their types is what is checked")]
struct Difference {
    schema: u32,
    identical: bool,
    tensors: Vec<TensorDifference>,
    only_in_a: Vec<String>,
    only_in_b: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the set of keys and their types is what is checked")]
struct TensorDifference {
    name: String,
    a: String,
    b: String,
    identical: bool,
    max_abs: Option<f64>,
    mse: Option<f64>,
    sqnr_db: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the set of keys and their types is what is checked")]
struct Verified {
    schema: u32,
    ok: bool,
    n_tensors: usize,
    n_files: usize,
    target_digest: String,
    source_digest: String,
    problems: Vec<VerifyProblem>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the set of keys and their types is what is checked")]
struct VerifyProblem {
    name: String,
    what: String,
    expected: String,
    found: String,
}

const Q: &str = "model.layers.0.self_attn.q_proj.weight";
const UP: &str = "model.layers.0.mlp.up_proj.weight";
const DOWN: &str = "model.layers.0.mlp.down_proj.weight";
const EMBED: &str = "model.embed_tokens.weight";
const NORM: &str = "model.norm.weight";
const HEAD: &str = "lm_head.weight";

fn small() -> Vec<Tensor> {
    let random = &mut Random::new(11);
    let norm = Tensor::f32(NORM, &[256], (0..256).map(|_| 1.0 + random.weight()));
    let mut tensors = vec![norm];
    for (name, shape) in [(EMBED, [40, 256]), (Q, [48, 256]), (UP, [33, 256]), (DOWN, [24, 384]), (HEAD, [40, 256])] {
        tensors.push(Tensor::random(name, &shape, random));
    }
    tensors
}

/// A folder with these tensors as `source`.
fn source(tensors: &[Tensor]) -> Dir {
    source_with(tensors, &json!({ "model_type": "llama" }))
}

fn source_with(tensors: &[Tensor], config: &Value) -> Dir {
    let dir = Dir::new();
    write_folder(&dir.path().join("source"), tensors, config);
    dir
}

fn run(dir: &Dir, words: &str) -> Ran {
    Cmd::new(words).in_dir(dir).run()
}

#[track_caller]
fn quantize(dir: &Dir, target: &str, options: &str) -> Done {
    run(dir, &format!("quantize source {target} --json {options}")).expect_status(0).document()
}

fn by_name(done: &Done) -> BTreeMap<&str, &DoneTensor> {
    done.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect()
}

fn written(dir: &Dir, target: &str) -> BTreeMap<String, Vec<u8>> {
    tensors(&dir.path().join(target).join("model.safetensors"))
}

/// The values of a target's tensor as `convert` gives them.
fn values(dir: &Dir, target: &str, name: &str) -> Vec<f32> {
    let plain = format!("{target}-f32");
    run(dir, &format!("convert {target} {plain} --to f32")).expect_status(0);
    let bytes = written(dir, &plain).remove(name).expect("the tensor was converted");
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[test]
fn every_scheme_verifies_and_is_as_far_off_as_it_says() {
    let dir = source(&small());
    let mut failures = Vec::new();
    for bits in 2..=8 {
        for group in ["g32", "g64", "g128", "channel"] {
            for symmetric in ["", "-sym"] {
                let scheme = format!("int{bits}-{group}{symmetric}");
                let done = quantize(&dir, &scheme, &format!("--scheme {scheme}"));
                failures.extend(check_scheme(&dir, &scheme, &done).into_iter().map(|what| format!("{scheme}: {what}")));
                fs::remove_dir_all(dir.path().join(&scheme)).expect("the target can be removed");
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// What is wrong with a target.
fn check_scheme(dir: &Dir, scheme: &str, done: &Done) -> Vec<String> {
    let mut failures = Vec::new();
    let verified = run(dir, &format!("verify {scheme} --json"));
    if verified.status != 0 || !verified.document::<Verified>().ok {
        failures.push(format!("verify: {}", verified.stdout));
    }
    let difference: Difference = run(dir, &format!("diff source {scheme} --json")).expect_status(0).document();
    let reported = by_name(done);
    if difference.tensors.len() != reported.len() {
        failures.push(format!("{} of {} tensors are compared", difference.tensors.len(), reported.len()));
    }
    for tensor in difference.tensors {
        let report = reported[tensor.name.as_str()];
        let quantized = [Q, UP, DOWN].contains(&report.name.as_str());
        let (Some(mse), Some(rtn), true) = (report.error_mse, report.error_mse_rtn, quantized) else {
            if quantized || !tensor.identical || tensor.mse != Some(0.0) || report.error_mse.is_some() {
                failures.push(format!("{}: kept, and not identical; or not quantized", report.name));
            }
            continue;
        };
        // The report sums squares of f32 differences, `diff` those of f64 ones: 2^-24 apart in each, no more in the sum.
        let measured = tensor.mse.unwrap_or(f64::NAN);
        if (measured - mse).abs().is_nan() || (measured - mse).abs() > 1e-6 * mse {
            failures.push(format!("{}: reported {mse:e}, measured {measured:e}", report.name));
        }
        if mse > rtn || mse <= 0.0 {
            failures.push(format!("{}: search {mse:e}, rtn {rtn:e}", report.name));
        }
        if report.scheme != scheme {
            failures.push(format!("{}: stored as {}", report.name, report.scheme));
        }
    }
    failures
}

#[test]
fn rtn_is_what_search_is_compared_with() {
    let dir = source(&small());
    for scheme in ["int2-g32", "int4-g128", "int3-channel-sym"] {
        let search = quantize(&dir, &format!("{scheme}-search"), &format!("--scheme {scheme}"));
        let rtn = quantize(&dir, &format!("{scheme}-rtn"), &format!("--scheme {scheme} --method rtn"));
        assert_eq!((search.method.as_str(), rtn.method.as_str()), ("search", "rtn"));
        let rtn = by_name(&rtn);
        for tensor in &search.tensors {
            assert_eq!(tensor.error_mse_rtn, rtn[tensor.name.as_str()].error_mse, "{scheme} {}", tensor.name);
        }
    }
}

#[test]
fn what_is_kept_keeps_every_bit() {
    let tensors = small();
    let dir = source(&tensors);
    let done = quantize(&dir, "target", "--keep *.down_proj.* --keep model.layers.0.self_attn.q_proj.weight");
    let found = written(&dir, "target");
    for tensor in tensors.iter().filter(|tensor| tensor.name != UP) {
        assert!(found[&tensor.name] == tensor.bytes, "{} changed", tensor.name);
    }
    assert_eq!(by_name(&done)[DOWN].reason, "--keep *.down_proj.*");
    let names: BTreeSet<&str> = found.keys().map(String::as_str).filter(|name| name.contains("up_proj")).collect();
    let up = UP.strip_suffix("weight").expect("it is a weight");
    let parts =
        ["weight_packed", "weight_scale", "weight_shape", "weight_zero_point"].map(|part| format!("{up}{part}"));
    assert_eq!(names, parts.iter().map(String::as_str).collect());
}

#[test]
fn a_tensor_gets_its_own_scheme() {
    let dir = source(&small());
    let options = "--tensor *.mlp.*=int8-g32 --tensor *.down_proj.*=int2-g64-sym --keep *.up_proj.*";
    let done = quantize(&dir, "target", options);
    let schemes = by_name(&done);
    assert_eq!(
        [schemes[Q], schemes[UP], schemes[DOWN]].map(|t| t.scheme.as_str()),
        ["int4-g128", "BF16", "int2-g64-sym"]
    );
    run(&dir, "verify target").expect_status(0);
    // The output head is kept unless it is named.
    assert_eq!(schemes[HEAD].scheme, "BF16");
    let done = quantize(&dir, "head", "--tensor lm_head.weight=int8-g128");
    assert_eq!(by_name(&done)[HEAD].scheme, "int8-g128");
    for named in [NORM, EMBED] {
        let ran = run(&dir, &format!("quantize source refused --tensor {named}=int8-g128")).expect_status(2);
        assert!(ran.stderr.contains(named), "{}", ran.stderr);
    }
}

#[test]
fn a_pattern_that_matches_nothing_is_refused_with_near_names() {
    let dir = source(&small());
    for option in ["--keep *.dwn_proj.*", "--tensor *.down_prj.*=int8-g64"] {
        let ran = run(&dir, &format!("quantize source target {option}")).expect_status(2);
        assert!(ran.stderr.contains("matches no tensor of `source`"), "{}", ran.stderr);
        assert!(ran.stderr.contains("\nhint: close names: "), "{}", ran.stderr);
        assert!(ran.stderr.contains(DOWN), "{}", ran.stderr);
        assert_eq!(dir.names(), ["source"]);
    }
    let ran = run(&dir, "quantize source target --keep [").expect_status(2);
    assert!(ran.stderr.starts_with("error: pattern \"[\" cannot be read: "), "{}", ran.stderr);
}

#[test]
fn a_group_that_does_not_divide_gets_a_smaller_one() {
    // Width, group asked for, what is stored.
    let rows = [
        (576, "g128", "int4-g64"),
        (576, "g64", "int4-g64"),
        (48, "g32", "int4-g16"),
        (40, "g32", "int4-g8"),
        (100, "g128", "int4-channel"),
        (33, "g32", "int4-channel"),
        (1001, "g128", "int4-channel"),
        (96, "channel", "int4-channel"),
    ];
    for (width, group, expected) in rows {
        let dir = source(&[Tensor::random(Q, &[5, width], &mut Random::new(width as u64))]);
        let scheme = format!("--scheme int4-{group}");
        let done = quantize(&dir, "target", &scheme);
        assert_eq!(done.tensors[0].scheme, expected, "{width} {group}");
        run(&dir, "verify target").expect_status(0);
        let strict = run(&dir, &format!("quantize source strict --strict {scheme}"));
        if expected == format!("int4-{group}") {
            assert_eq!((strict.status, done.tensors[0].reason.as_str()), (0, ""), "{width} {group}: {}", strict.stderr);
        } else {
            assert_eq!(done.tensors[0].reason, format!("{} does not divide {width}", &group[1..]));
            assert_eq!(strict.status, 2, "{width} {group}");
            assert!(strict.stderr.contains(Q) && strict.stderr.contains(expected), "{}", strict.stderr);
            assert!(!dir.names().contains(&"strict".to_owned()), "{width} {group}");
        }
    }
}

#[test]
fn a_weight_that_is_no_number_is_named() {
    for (value, text) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        for index in [0, 777, 33 * 256 - 1] {
            let mut tensors = small();
            let up = tensors.iter_mut().find(|tensor| tensor.name == UP).expect("it is there");
            up.bytes[2 * index..2 * index + 2].copy_from_slice(&((value.to_bits() >> 16) as u16).to_le_bytes());
            let (dir, bytes) = (source(&tensors), tensors[3].bytes.clone());
            let ran = run(&dir, "quantize source target").expect_status(2);
            let expected =
                format!("error: tensor {UP:?} of `source/model.safetensors` holds {text} at index {index}\nhint: ");
            assert!(ran.stderr.starts_with(&expected), "{}", ran.stderr);
            assert!(ran.stderr.contains(&format!("--keep '{UP}'")), "{}", ran.stderr);
            assert!(!dir.path().join("target").exists());
            quantize(&dir, "kept", &format!("--keep {UP}"));
            assert!(written(&dir, "kept")[UP] == bytes, "{UP} changed");
            run(&dir, "verify kept").expect_status(0);
        }
    }
}

#[test]
fn a_difference_that_is_no_number_is_not_hidden() {
    let tensors = small();
    let dir = source(&tensors);
    let mut other = tensors;
    other[3].bytes[..2].copy_from_slice(&0x7FC0_u16.to_le_bytes());
    write_folder(&dir.path().join("other"), &other, &json!({}));
    let ran = run(&dir, "diff source other --json --fail-above 1e9").expect_status(1);
    let difference: Difference = ran.document();
    let up = difference.tensors.iter().find(|tensor| tensor.name == UP).expect("it is compared");
    assert_eq!((up.max_abs, up.mse, up.identical), (None, None, false));
}

#[test]
fn zeros_stay_zeros() {
    let mut random = Random::new(3);
    // Two groups of 128 in each row: the first all zero, of either sign, the second not; and a row of zeros.
    let weights: Vec<f32> = (0..4 * 256)
        .map(|index| match (index / 256, index % 256) {
            (3, _) | (_, 0..64) => 0.0,
            (_, 64..128) => -0.0,
            _ => random.weight(),
        })
        .collect();
    for method in ["rtn", "search"] {
        for scheme in ["int2-g128", "int2-g128-sym", "int4-g128", "int8-g128-sym", "int3-g32"] {
            let dir = source(&[Tensor::bf16(Q, &[4, 256], weights.iter().copied())]);
            quantize(&dir, "target", &format!("--scheme {scheme} --method {method}"));
            let found = values(&dir, "target", Q);
            for (index, (before, after)) in weights.iter().zip(&found).enumerate() {
                let must_be_zero = index % 256 < 128 || index / 256 == 3;
                assert!(!must_be_zero || *after == 0.0, "{scheme} {method} {index}: {before} became {after}");
            }
            assert!(found.iter().any(|value| *value != 0.0), "{scheme} {method}: all became zero");
        }
    }
}

#[test]
fn the_output_head_is_left_to_the_engine() {
    let config = json!({ "model_type": "llama", "tie_word_embeddings": true });
    let without: Vec<Tensor> = small().into_iter().filter(|tensor| tensor.name != HEAD).collect();
    for (tensors, config) in [(&without, &config), (&small(), &config), (&small(), &json!({}))] {
        let dir = source_with(tensors, config);
        quantize(&dir, "target", "");
        let written = fs::read(dir.path().join("target/config.json")).expect("the target has a configuration");
        let written: Value = serde_json::from_slice(&written).expect("it is JSON");
        assert_eq!(written["quantization_config"]["ignore"], json!(["lm_head"]), "{config}");
        assert_eq!(written["tie_word_embeddings"], config["tie_word_embeddings"]);
    }
}

#[test]
fn shards_hold_what_one_file_holds() {
    let dir = source(&small());
    let one = quantize(&dir, "one", "");
    let many = quantize(&dir, "many", "--max-shard-size 10KB");
    assert_eq!(one.target_digest, many.target_digest);
    let folder = dir.path().join("many");
    let index = fs::read(folder.join("model.safetensors.index.json")).expect("there is an index");
    let index: Value = serde_json::from_slice(&index).expect("it is JSON");
    let map = index["weight_map"].as_object().expect("it maps names to files");
    let mut union = BTreeMap::new();
    let shards: BTreeSet<String> = files(&folder).into_keys().filter(|name| name.ends_with(".safetensors")).collect();
    for shard in &shards {
        let found = tensors(&folder.join(shard));
        let total: usize = found.values().map(Vec::len).sum();
        let modules: BTreeSet<&str> =
            found.keys().filter_map(|name| name.rsplit_once('.')).map(|pair| pair.0).collect();
        assert!(total <= 10_000 || modules.len() == 1, "{shard} holds {total} bytes of {modules:?}");
        for (name, bytes) in found {
            assert_eq!(map[&name].as_str(), Some(shard.as_str()), "{name}");
            assert!(union.insert(name, bytes).is_none(), "a tensor is in two shards");
        }
    }
    assert!(shards.len() > 2, "{shards:?}");
    assert_eq!(map.len(), union.len());
    assert_eq!(index["metadata"]["total_size"], union.values().map(Vec::len).sum::<usize>());
    assert!(union == written(&dir, "one"), "tensors differ");
    run(&dir, "verify many").expect_status(0);
    assert!(run(&dir, "diff one many --json").expect_status(0).document::<Difference>().identical);

    // And a model that comes in shards gives what it gives in one file.
    run(&dir, "convert source sharded --to bf16 --max-shard-size 10KB").expect_status(0);
    run(&dir, "convert source plain --to bf16").expect_status(0);
    run(&dir, "quantize sharded from-shards").expect_status(0);
    run(&dir, "quantize plain from-one").expect_status(0);
    assert!(written(&dir, "from-shards") == written(&dir, "from-one"), "tensors differ");
}

#[test]
fn a_single_file_is_a_model_too() {
    let dir = source(&small());
    write_file(&dir.path().join("model.safetensors"), &small());
    run(&dir, "quantize source from-folder").expect_status(0);
    run(&dir, "quantize model.safetensors from-file").expect_status(0);
    assert!(written(&dir, "from-file") == written(&dir, "from-folder"), "tensors differ");
    run(&dir, "verify from-file").expect_status(0);
    let ran = run(&dir, "quantize model.safetensors target.safetensors").expect_status(2);
    assert!(ran.stderr.contains("needs a folder"), "{}", ran.stderr);
}

#[test]
fn a_dry_run_says_what_a_run_does_and_writes_nothing() {
    let dir = source(&small());
    for options in ["", "--scheme int3-channel-sym --keep *.up_proj.* --max-shard-size 10KB", "--dtype f32"] {
        let ran = run(&dir, &format!("quantize source target --dry-run --json {options}")).expect_status(0);
        let plan: Plan = ran.document();
        assert_eq!(dir.names(), ["source"], "a dry run wrote something");
        let done = quantize(&dir, "target", options);
        assert_eq!((plan.bytes_in, plan.bytes_out), (done.bytes_in, done.bytes_out), "{options}");
        assert_eq!(plan.peak_anonymous_bytes, done.planned_anonymous_bytes, "{options}");
        let planned = plan.tensors.iter().map(|tensor| (&tensor.name, &tensor.scheme, tensor.bytes, &tensor.reason));
        let stored = done.tensors.iter().map(|tensor| (&tensor.name, &tensor.scheme, tensor.bytes, &tensor.reason));
        assert!(planned.eq(stored), "{options}");
        let shards = files(&dir.path().join("target")).into_keys().filter(|name| name.ends_with(".safetensors"));
        assert_eq!(shards.count(), plan.n_shards, "{options}");
        fs::remove_dir_all(dir.path().join("target")).expect("the target can be removed");
    }
}

#[test]
fn a_changed_byte_is_found_and_its_tensor_named() {
    let dir = source(&small());
    quantize(&dir, "target", "");
    let file = dir.path().join("target/model.safetensors");
    let bytes = fs::read(&file).expect("the target can be read");
    let places = ranges(&bytes);
    for (name, range) in places.iter().filter(|(name, _)| !name.ends_with("weight_shape")) {
        let mut changed = bytes.clone();
        changed[range.start + range.len() / 2] ^= 0x10;
        fs::write(&file, changed).expect("the target can be written");
        let ran = run(&dir, "verify target --json").expect_status(1);
        let verified: Verified = ran.document();
        let weight = name.rsplit_once('.').map_or(String::new(), |(module, _)| format!("{module}.weight"));
        let names: Vec<&str> = verified.problems.iter().map(|problem| problem.name.as_str()).collect();
        assert_eq!((verified.ok, names), (false, vec![weight.as_str()]), "{name}");
        assert!(run(&dir, "verify target").expect_status(1).stdout.contains(&weight), "{name}");
    }
    fs::write(&file, &bytes).expect("the target can be written");
    run(&dir, "verify target").expect_status(0);
    fs::write(dir.path().join("target/config.json"), "{}").expect("the target can be written");
    let ran = run(&dir, "verify target").expect_status(1);
    assert!(ran.stdout.starts_with("config.json: "), "{}", ran.stdout);
    let ran = run(&dir, "verify source").expect_status(2);
    assert!(ran.stderr.contains("reweight.json"), "{}", ran.stderr);
}

#[test]
fn the_bundled_model_is_quantized_and_not_again() {
    let dir = Dir::new();
    let done: Done = run(&dir, "quantize demo target --scheme int3-g64 --json").expect_status(0).document();
    assert!(done.bytes_out < done.bytes_in && done.bits_per_weight < 4.0, "{} bits", done.bits_per_weight);
    run(&dir, "verify target").expect_status(0);
    run(&dir, "diff demo target").expect_status(0);
    let ran = run(&dir, "quantize target again").expect_status(2);
    assert!(ran.stderr.contains("is quantized already (compressed-tensors)"), "{}", ran.stderr);
    assert_eq!(dir.names(), ["target"]);
}
