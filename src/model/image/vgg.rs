//! VGG (Simonyan and Zisserman, arXiv 1409.1556), named as torchvision names it.
//!
//! transformers has no such configuration, so `config.json` is this project's own: `model_type` is `vgg`; `layers` lists output channels of
//! 3x3 convolutions with `ReLU` and `"M"` for a 2x2 maximum, as torchvision's `cfgs`; `batch_norm` puts one after each convolution;
//! `pooled_size` is the side that maps are averaged to before the linear layers (7 in torchvision, the default).

use reweight_kernels::{Activation, Kernels};
use reweight_quant::store::natural;
use serde_json::Value;

use super::convolution::{Convolution, ConvolutionPlan};
use super::maps::Window;
use super::steps::{Body, Step};
use crate::model::config::Config;
use crate::model::error::ModelError;
use crate::model::linear::Linear;
use crate::model::tensors::Tensors;

/// What configurations call it.
pub(super) const MODEL_TYPE: &str = "vgg";

/// The name of the first convolution's kernel.
pub(super) const ANCHOR: &str = "features.0.weight";

/// The most layers, and the greatest side before the linear layers, that a configuration may claim.
const MAX_LAYERS: usize = 1024;
const MAX_POOLED: usize = 64;

/// Reads the whole network.
pub(super) fn load(
    tensors: &Tensors<'_>,
    kernels: &Kernels,
    config: Config<'_>,
    mut channels: usize,
) -> Result<Body, ModelError> {
    let layers = config.get("layers").and_then(Value::as_array).filter(|layers| layers.len() <= MAX_LAYERS);
    let layers = layers.ok_or_else(|| config.wrong("layers", "a list of channels and \"M\""))?;
    let has_norm = config.flag_or("batch_norm", false)?;
    let epsilon = config.float_or("batch_norm_eps", 1e-5)?;
    let (mut steps, mut index) = (Vec::with_capacity(layers.len() + 1), 0);
    for layer in layers {
        if layer.as_str() == Some("M") {
            steps.push(Step::MaxPool(Window { size: 2, stride: 2, padding: 0 }));
            index += 1;
            continue;
        }
        let outputs = layer.as_u64().filter(|n| (1..=1 << 20).contains(n));
        let outputs = outputs.ok_or_else(|| config.wrong("layers", "a list of channels and \"M\""))? as usize;
        let plan = ConvolutionPlan {
            name: format!("features.{index}"),
            norm: has_norm.then(|| (format!("features.{}", index + 1), epsilon)),
            inputs: channels,
            outputs,
            window: Window { size: 3, stride: 1, padding: 1 },
        };
        steps.push(Step::Convolution(Convolution::load(tensors, kernels, &plan)?, Some(Activation::Relu)));
        index += if has_norm { 3 } else { 2 };
        channels = outputs;
    }
    let side = config.size_or("pooled_size", 7)?;
    if side > MAX_POOLED {
        return Err(config.wrong("pooled_size", format!("a number from 1 to {MAX_POOLED}")));
    }
    steps.push(Step::MeanPool(side));
    Ok(Body { steps, layers: classifier(tensors, kernels, channels * side * side)? })
}

/// `classifier`, or `classifier.N` in the order of N, each as wide as what comes before it.
fn classifier(tensors: &Tensors<'_>, kernels: &Kernels, mut inputs: usize) -> Result<Vec<Linear>, ModelError> {
    let weights = tensors.model.weights().iter().map(|weight| weight.name.as_str());
    let mut names: Vec<&str> = weights
        .filter_map(|name| name.strip_suffix(".weight"))
        .filter(|name| *name == "classifier" || name.starts_with("classifier."))
        .collect();
    names.sort_by(|a, b| natural::compare(a, b));
    if names.is_empty() {
        names.push("classifier");
    }
    let mut layers = Vec::with_capacity(names.len());
    for name in names {
        let outputs = tensors.find(&format!("{name}.weight")).and_then(|weight| weight.shape.first().copied());
        let mut layer = Linear::default();
        layer.load(tensors, kernels, name, (outputs.unwrap_or(0), inputs), false)?;
        inputs = layer.outputs();
        layers.push(layer);
    }
    Ok(layers)
}
