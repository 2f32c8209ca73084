//! Grids that are no integers: codes, scales and values beside the formulas they are published by, through files; fits, and conversions
//! that must be exact.
//!
//! The expectations are made by `tools/compare-grids.py fixtures` with torch and bitsandbytes; their versions stand in the files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use reweight::quant::diff::values_digest;
use reweight::quant::error::Error;
use reweight::quant::grid::fixed_levels;
use reweight::quant::kernels::{Kernels, best, supported};
use reweight::quant::manifest::Manifest;
use reweight::quant::pack::Container;
use reweight::quant::plan::{Method, Plan, PlanOptions, Quantized};
use reweight::quant::scheme::Scheme;
use reweight::quant::store::{Model, Storage, Weight};
use reweight::quant::stream::{Control, StagingOptions, Target, write_model};
use reweight::quant::tensor::Dtype;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/grids").join(name)
}

fn weights() -> Model {
    Model::open(&golden("weights.safetensors")).expect("the fixture is in the repository")
}

fn options(scheme: &str, method: Method, container: Container) -> PlanOptions {
    let scheme: Scheme = scheme.parse().unwrap_or_else(|error| panic!("{error}"));
    PlanOptions { scale_dtype: Some(Dtype::F32), container, ..PlanOptions::new(scheme, method) }
}

/// Writes a model and opens it again.
fn write(
    model: &Model,
    options: &PlanOptions,
    target: &Path,
    kernels: &'static Kernels,
) -> Result<(Model, Manifest), Error> {
    let stop = AtomicBool::new(false);
    let control = Control { kernels, stop: &stop, progress: &|_, _| {} };
    let plan = Plan::new(model, options)?;
    let target = Target { path: target, single_file: false };
    let outcome = write_model(model, &plan, None, target, StagingOptions::default(), &control)?;
    Ok((Model::open(target.path)?, outcome.manifest))
}

fn quantized(scheme: &str, method: Method, kernels: &'static Kernels) -> (Model, Manifest) {
    let folder = tempfile::tempdir().expect("the system has a folder for temporary files");
    let options = options(scheme, method, Container::Reweight);
    write(&weights(), &options, &folder.path().join("t"), kernels).unwrap_or_else(|error| panic!("{scheme}: {error}"))
}

/// Codes and scales of a whole weight.
fn codes(weight: &Weight) -> (Vec<u8>, Vec<f32>) {
    let Storage::Packed(packed) = &weight.storage else { panic!("{} is not quantized", weight.name) };
    let groups = weight.columns() / packed.scheme().group_len(weight.columns());
    let (mut codes, mut scales) = (vec![0; weight.n_elements()], vec![0.0; weight.rows() * groups]);
    let mut zeros = vec![0; groups];
    let rows = codes.chunks_exact_mut(weight.columns()).zip(scales.chunks_exact_mut(groups));
    for (row, (codes, scales)) in rows.enumerate() {
        packed.read_codes(best(), row, codes, scales, &mut zeros);
    }
    (codes, scales)
}

#[test]
fn codes_scales_and_values_are_those_of_the_formulas() {
    let expected = Model::open(&golden("expected.safetensors")).expect("the fixture is in the repository");
    let mut by_scheme: BTreeMap<&str, Vec<(&str, &str, &Weight)>> = BTreeMap::new();
    for weight in expected.weights() {
        let mut parts = weight.name.split('/');
        let mut part = || parts.next().expect("names have three parts");
        by_scheme.entry(part()).or_default().push((part(), part(), weight));
    }
    assert_eq!(by_scheme.len(), 19, "8 widths a row and a group, ternary twice, nf4");
    let mut failures = Vec::new();
    for (scheme, parts) in by_scheme {
        let (model, _) = quantized(scheme, Method::Rtn, best());
        for (name, part, expected) in parts {
            let weight = model.weight(name).unwrap_or_else(|| panic!("{name} is in the target"));
            let (codes, scales) = codes(weight);
            let found: Vec<f32> = match part {
                "codes" => codes.iter().map(|code| f32::from(*code)).collect(),
                "scales" => scales,
                _ => weight.values(best()),
            };
            let expected = expected.values(best());
            let differ = found.iter().zip(&expected).filter(|(a, b)| (*a - *b).abs().to_bits() != 0).count();
            if differ > 0 || found.len() != expected.len() {
                failures.push(format!("{scheme} {name}: {differ} of {} {part}", expected.len()));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// OFQ's mask: `|z - (k + 1/2)| <= BR` for a k from -n to n - 2, with `z = clamp(w / s, -1, 1 - 1e-6) n - 1/2` and `s` twice the mean of |w|
/// (nbasyl/OFQ, `cga.py`, `freeze_outside_boundary_weight_idx`).
#[test]
fn low_confidence_is_what_the_published_mask_marks() {
    for (bits, n) in [(1, 1), (2, 2), (3, 4), (4, 8)] {
        let (_, manifest) = quantized(&format!("statsq{bits}"), Method::Rtn, best());
        assert_eq!(manifest.band, Some(0.005));
        for report in manifest.tensors.iter().filter(|tensor| tensor.low_confidence.is_some()) {
            let model = weights();
            let weight = model.weight(&report.name).expect("it is in the source");
            let values = weight.values(best());
            let near = |row: &[f32]| {
                let mean = row.iter().map(|w| f64::from(w.abs())).sum::<f64>() / row.len() as f64;
                let place = |w: &f32| (f64::from(*w) / (2.0 * mean)).clamp(-1.0, 1.0 - 1e-6) * f64::from(n) - 0.5;
                let marked = |z: f64| (-n..n - 1).any(|k| (z - (f64::from(k) + 0.5)).abs() <= 0.005);
                row.iter().map(place).filter(|z| marked(*z)).count()
            };
            let expected: usize = values.chunks_exact(weight.columns()).map(near).sum();
            let found = report.low_confidence.expect("filtered") * values.len() as f64;
            // A step rounded to f32 moves places by a few millionths: perhaps one weight across the edge of a band.
            assert!((found - expected as f64).abs() <= 1.0, "{bits} {}: {found} and {expected}", report.name);
            assert!(bits == 1 || expected > 0, "{bits} {}", report.name);
        }
    }
}

/// Every table of levels, beside distances told from the manifest's own scales.
#[test]
fn low_confidence_on_tables_of_levels_is_told_from_their_levels() {
    for (scheme, levels) in [("nf4-g64", 16), ("ternary", 3), ("lloyd2-g32", 4)] {
        let target = tempfile::tempdir().expect("the system has a folder for temporary files");
        let options = PlanOptions { band: 0.1, ..options(scheme, Method::Search, Container::Reweight) };
        let (model, manifest) =
            write(&weights(), &options, &target.path().join("t"), best()).unwrap_or_else(|error| panic!("{error}"));
        let source = weights();
        for report in manifest.tensors.iter().filter(|tensor| tensor.low_confidence.is_some()) {
            let weight = source.weight(&report.name).expect("it is in the source");
            let stored = model.weight(&report.name).expect("it is in the target");
            let Storage::Packed(packed) = &stored.storage else { panic!("it is quantized") };
            let group = packed.scheme().group_len(weight.columns());
            let (codes, scales) = codes(stored);
            let (values, stored) = (weight.values(best()), stored.values(best()));
            let fixed = fixed_levels(packed.scheme().levels());
            let mut level = fixed.unwrap_or_else(|| vec![f32::NAN; levels]);
            assert_eq!(level.len(), levels, "{scheme}");
            for (at, code) in codes.iter().enumerate().filter(|(at, _)| scales[at / group] > 0.0) {
                level[usize::from(*code)] = stored[at] / scales[at / group];
            }
            assert!(level.iter().all(|level| level.is_finite()), "every level of {scheme} is used");
            let near = |(at, value): &(usize, &f32)| {
                let place = *value / scales[at / group];
                level.windows(2).any(|pair| (place - f32::midpoint(pair[0], pair[1])).abs() < 0.1 * (pair[1] - pair[0]))
            };
            let expected = values.iter().enumerate().filter(|pair| scales[pair.0 / group] > 0.0).filter(near).count();
            let found = report.low_confidence.expect("filtered") * values.len() as f64;
            // Levels are told from values here, to some 1e-7.
            assert!((found - expected as f64).abs() <= 2.0, "{scheme} {}: {found} and {expected}", report.name);
        }
    }
}

#[test]
fn fits_are_no_worse_than_the_rule_and_the_tables_agree() {
    let schemes = [
        "statsq1",
        "statsq2-g64",
        "statsq3",
        "statsq4-g32",
        "statsq8",
        "ternary-g64",
        "nf4-g32",
        "lloyd2-g32",
        "lloyd4-g64",
    ];
    for scheme in schemes {
        let fitted = if scheme.starts_with("statsq") { format!("{scheme}-fit") } else { scheme.to_owned() };
        let (_, rule) = quantized(scheme, Method::Rtn, best());
        let (_, by_shape) = quantized(&fitted, Method::Rtn, best());
        let (_, searched) = quantized(&fitted, Method::Search, best());
        for ((rule, by_shape), searched) in rule.tensors.iter().zip(&by_shape.tensors).zip(&searched.tensors) {
            let [rule_mse, shape, search] =
                [rule, by_shape, searched].map(|tensor| tensor.error_mse.expect("it has an error"));
            let name = &rule.name;
            assert!(shape <= rule_mse, "{fitted} {name}: by shape {shape:e}, by rule {rule_mse:e}");
            assert!(search <= rule_mse, "{fitted} {name}: searched {search:e}, by rule {rule_mse:e}");
            if !scheme.starts_with("lloyd") {
                assert_eq!(searched.error_mse_rtn, rule.error_mse, "{fitted} {name}");
            }
        }
        for kernels in supported() {
            let (_, again) = quantized(&fitted, Method::Search, kernels);
            assert_eq!(again.target_digest, searched.target_digest, "{fitted} {kernels:?}");
        }
    }
}

#[test]
fn what_integers_say_exactly_goes_to_other_containers_and_the_rest_is_refused() {
    let folder = tempfile::tempdir().expect("the system has a folder for temporary files");
    let rows = [
        ("statsq1", Container::CompressedTensors, Some("int2-channel-sym")),
        ("statsq2-g64", Container::CompressedTensors, Some("int3-g64-sym")),
        ("statsq3-g32-fit", Container::CompressedTensors, Some("int4-g32-sym")),
        ("statsq7", Container::CompressedTensors, Some("int8-channel-sym")),
        ("ternary-g64", Container::CompressedTensors, Some("int2-g64-sym")),
        ("statsq8", Container::CompressedTensors, None),
        ("nf4-g64", Container::CompressedTensors, None),
        ("lloyd2-g32", Container::CompressedTensors, None),
    ];
    for (index, (scheme, container, expected)) in rows.into_iter().enumerate() {
        let (from, to) = (folder.path().join(format!("{index}-from")), folder.path().join(format!("{index}-to")));
        let mut options = options(scheme, Method::Search, Container::Reweight);
        options.scale_dtype = Some(Dtype::Bf16);
        let (own, _) = write(&weights(), &options, &from, best()).unwrap_or_else(|error| panic!("{scheme}: {error}"));
        let repack = PlanOptions { scheme: None, container, quantized: Quantized::Repack, ..options };
        match (write(&own, &repack, &to, best()), expected) {
            (Ok((other, manifest)), Some(expected)) => {
                assert_eq!(manifest.tensors[0].scheme, expected, "{scheme}");
                let [own, other] =
                    [&own, &other].map(|model| values_digest(best(), &model.weights().iter().collect::<Vec<_>>()));
                assert_eq!(own, other, "{scheme} in {container}");
            }
            (Err(error), None) => {
                let text = error.to_string();
                assert!(text.contains("are no integers in steps"), "{scheme}: {text}");
            }
            (Ok(_), None) => panic!("{scheme} went into {container}"),
            (Err(error), Some(_)) => panic!("{scheme}: {error}"),
        }
    }
}

#[test]
fn integers_live_in_the_layout_too() {
    let folder = tempfile::tempdir().expect("the system has a folder for temporary files");
    for scheme in ["int2-g32", "int3-channel", "int4-g64-sym", "int8-g32"] {
        let (a, b) = (folder.path().join(format!("{scheme}-a")), folder.path().join(format!("{scheme}-b")));
        let of = |container| options(scheme, Method::Search, container);
        let (packed, _) =
            write(&weights(), &of(Container::CompressedTensors), &a, best()).unwrap_or_else(|error| panic!("{error}"));
        let (own, _) =
            write(&weights(), &of(Container::Reweight), &b, best()).unwrap_or_else(|error| panic!("{error}"));
        let [packed, own] =
            [&packed, &own].map(|model| values_digest(best(), &model.weights().iter().collect::<Vec<_>>()));
        assert_eq!(packed, own, "{scheme}");
    }
}
