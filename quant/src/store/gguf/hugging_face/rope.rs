//! Rotary embeddings: base and scaling, as configuration keys.
//!
//! llama.cpp stores linear and `YaRN` scaling as keys, Llama 3's as a tensor of factors, from which its parameters are
//! recovered here.

use std::f64::consts::TAU;

use serde_json::{Value as Json, json};

use super::super::dequantize;
use super::super::parse::quoted;
use super::meta::Meta;
use crate::error::FileError;

/// What llama.cpp assumes where the file is silent.
const DEFAULT_BASE: f64 = 10_000.0;
/// Local layers of Gemma 3, which older files do not state.
const GEMMA3_LOCAL_BASE: f64 = 10_000.0;

/// The parameters every published Llama 3 model has; only `factor` differs between them.
const LLAMA3_LOW: f64 = 1.0;
const LLAMA3_HIGH: f64 = 4.0;
const LLAMA3_CONTEXT: f64 = 8192.0;
/// Relative difference of a stored factor from the formula: `f32` arithmetic of the writer over `freq`, `wavelen` and
/// `smooth` loses a few units of 2^-24, magnified at most by `factor`; this leaves room of a thousand.
const LLAMA3_TOLERANCE: f64 = 1e-3;

pub(super) fn config(meta: &Meta<'_>) -> Result<Vec<(&'static str, Json)>, FileError> {
    let base = meta.own_float("rope.freq_base")?.unwrap_or(DEFAULT_BASE);
    let mut config = vec![("rope_theta", json!(base)), ("rope_scaling", scaling(meta, base)?)];
    let rotated = meta.own_count("rope.dimension_count")?.unwrap_or(meta.head_dim);
    if rotated != meta.head_dim {
        if meta.architecture.model_type != "phi3" {
            return Err(meta.unsupported(format!("rotation of {rotated} of {} elements of a head", meta.head_dim)));
        }
        config.push(("partial_rotary_factor", json!(rotated as f64 / meta.head_dim as f64)));
    }
    if meta.architecture.model_type == "gemma3_text" {
        let local = meta.own_float("rope.freq_base_swa")?.unwrap_or(GEMMA3_LOCAL_BASE);
        config.push(("rope_local_base_freq", json!(local)));
    }
    Ok(config)
}

fn scaling(meta: &Meta<'_>, base: f64) -> Result<Json, FileError> {
    let factor = meta.own_float("rope.scaling.factor")?;
    let kind = meta.text(&meta.own_key("rope.scaling.type"))?;
    match kind {
        None | Some("none") if meta.file.tensor_index("rope_freqs.weight").is_some() => llama3(meta, base),
        None | Some("none") => {
            let fused = ["rope_factors_long.weight", "rope_factors_short.weight"];
            match fused.iter().find(|name| meta.file.tensor_index(name).is_some()) {
                Some(name) => Err(meta.unsupported(format!("rotary scaling by tensor `{name}`"))),
                None => Ok(Json::Null),
            }
        }
        Some("linear") => Ok(json!({ "rope_type": "linear", "factor": meta.required_float("rope.scaling.factor")? })),
        Some("yarn") => {
            let mut scaling = json!({
                "rope_type": "yarn",
                "factor": factor.ok_or_else(|| meta.missing(&meta.own_key("rope.scaling.factor")))?,
                "original_max_position_embeddings": meta.required_count("rope.scaling.original_context_length")?,
            });
            for (key, suffix) in [
                ("attention_factor", "rope.scaling.yarn_attn_factor"),
                ("beta_fast", "rope.scaling.yarn_beta_fast"),
                ("beta_slow", "rope.scaling.yarn_beta_slow"),
            ] {
                if let Some(value) = meta.own_float(suffix)? {
                    scaling[key] = json!(value);
                }
            }
            Ok(scaling)
        }
        Some(kind) => Err(meta.unsupported(format!("rotary scaling {}", quoted(kind)))),
    }
}

/// Recovers Llama 3's scaling from the factors that divide each frequency, and checks them one by one.
///
/// With `w` the wavelength of a frequency: 1 where `w < context / high`, `factor` where `w > context / low`, between
/// them `1 / ((1 - s) / factor + s)` with `s = (context / w - low) / (high - low)` (transformers,
/// `_compute_llama3_parameters`).
fn llama3(meta: &Meta<'_>, base: f64) -> Result<Json, FileError> {
    let tensor = meta.file.tensor_index("rope_freqs.weight").and_then(|index| meta.file.tensor(index));
    let tensor = tensor.ok_or_else(|| meta.missing("rope_freqs.weight"))?;
    let n = meta.head_dim / 2;
    if tensor.info().shape != [n] {
        return Err(
            meta.malformed(format!("tensor \"rope_freqs.weight\" has shape {:?}, expected [{n}]", tensor.info().shape))
        );
    }
    let mut factors = vec![0.0; n];
    dequantize(tensor.info().ty, tensor.bytes(), &mut factors);
    let factor = factors.iter().copied().fold(1.0f32, f32::max);
    let expected = |i: usize| llama3_factor(base, 2.0 * i as f64 / meta.head_dim as f64, factor.into());
    let close = |(i, &found): (usize, &f32)| (f64::from(found) / expected(i) - 1.0).abs() < LLAMA3_TOLERANCE;
    if !factors.iter().enumerate().all(close) {
        return Err(meta.unsupported("rotary scaling by factors other than Llama 3's".to_owned()));
    }
    if factor <= 1.0 {
        return Ok(Json::Null);
    }
    Ok(json!({
        "rope_type": "llama3",
        "factor": f64::from(factor),
        "low_freq_factor": LLAMA3_LOW,
        "high_freq_factor": LLAMA3_HIGH,
        "original_max_position_embeddings": LLAMA3_CONTEXT as u32,
    }))
}

fn llama3_factor(base: f64, exponent: f64, factor: f64) -> f64 {
    let wavelength = TAU * base.powf(exponent);
    if wavelength < LLAMA3_CONTEXT / LLAMA3_HIGH {
        1.0
    } else if wavelength > LLAMA3_CONTEXT / LLAMA3_LOW {
        factor
    } else {
        let smooth = (LLAMA3_CONTEXT / wavelength - LLAMA3_LOW) / (LLAMA3_HIGH - LLAMA3_LOW);
        1.0 / ((1.0 - smooth) / factor + smooth)
    }
}
