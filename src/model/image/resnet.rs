//! Residual networks (He et al., arXiv 1512.03385) with basic and bottleneck blocks, under the names of transformers and of torchvision.
//!
//! `config.json` is that of transformers' `ResNetConfig` (`modeling_resnet.py`); nets for small images may say `stem_size`, `stem_stride` and
//! `stem_pool` beside it, where transformers has 7, 2 and true.

use reweight_kernels::{Activation, Kernels};

use super::convolution::{Convolution, ConvolutionPlan};
use super::maps::Window;
use super::steps::{Body, Step};
use crate::model::config::Config;
use crate::model::error::ModelError;
use crate::model::linear::Linear;
use crate::model::tensors::Tensors;

/// What configurations call it.
pub(super) const MODEL_TYPE: &str = "resnet";

/// Beginnings of names, and the first convolution's kernel, by spelling.
pub(super) const SPELLINGS: [(&str, &str, Spelling); 3] = [
    ("resnet.", "embedder.embedder.convolution.weight", Spelling::Transformers),
    ("", "embedder.embedder.convolution.weight", Spelling::Transformers),
    ("", "conv1.weight", Spelling::Torchvision),
];

/// The most stages, and blocks of one, that a configuration may claim.
const MAX_COUNT: usize = 256;

/// Who named the tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    Transformers,
    Torchvision,
}

impl Spelling {
    fn stem(self) -> [String; 2] {
        match self {
            Self::Transformers => ["convolution", "normalization"].map(|part| format!("embedder.embedder.{part}")),
            Self::Torchvision => ["conv1", "bn1"].map(str::to_owned),
        }
    }

    /// A convolution of a block and its norm; `None` is the shortcut's.
    fn part(self, stage: usize, block: usize, layer: Option<usize>) -> [String; 2] {
        let names = |prefix: String, [a, b]: [String; 2]| [format!("{prefix}.{a}"), format!("{prefix}.{b}")];
        match (self, layer) {
            (Self::Transformers, layer) => {
                let place = layer.map_or("shortcut".to_owned(), |layer| format!("layer.{layer}"));
                let prefix = format!("encoder.stages.{stage}.layers.{block}.{place}");
                names(prefix, ["convolution", "normalization"].map(str::to_owned))
            }
            (Self::Torchvision, Some(layer)) => {
                let parts = [format!("conv{}", layer + 1), format!("bn{}", layer + 1)];
                names(format!("layer{}.{block}", stage + 1), parts)
            }
            (Self::Torchvision, None) => {
                names(format!("layer{}.{block}.downsample", stage + 1), ["0", "1"].map(str::to_owned))
            }
        }
    }

    const fn head(self) -> &'static str {
        match self {
            Self::Transformers => "classifier.1",
            Self::Torchvision => "fc",
        }
    }
}

/// What reading goes by.
struct Reader<'r, 'a> {
    tensors: &'r Tensors<'a>,
    kernels: &'r Kernels,
    epsilon: f64,
}

impl Reader<'_, '_> {
    fn convolution(
        &self,
        names: &[String; 2],
        (inputs, outputs): (usize, usize),
        (size, stride): (usize, usize),
    ) -> Result<Convolution, ModelError> {
        let [name, norm] = names.each_ref().map(|name| self.tensors.full(name));
        let window = Window { size, stride, padding: size / 2 };
        let plan = ConvolutionPlan { name, norm: Some((norm, self.epsilon)), inputs, outputs, window };
        Convolution::load(self.tensors, self.kernels, &plan)
    }
}

/// Reads the whole network.
pub(super) fn load(
    tensors: &Tensors<'_>,
    kernels: &Kernels,
    config: Config<'_>,
    spelling: Spelling,
    channels: usize,
) -> Result<Body, ModelError> {
    let activation = config.text_if("hidden_act")?.unwrap_or("relu");
    if activation != "relu" {
        return Err(config.wrong("hidden_act", "\"relu\""));
    }
    let reader = Reader { tensors, kernels, epsilon: config.float_or("batch_norm_eps", 1e-5)? };
    let sizes = lists(config)?;
    let mut width = config.size_or("embedding_size", 64)?;
    let stem_size = config.size_or("stem_size", 7)?;
    if stem_size > 15 {
        return Err(config.wrong("stem_size", "a number from 1 to 15"));
    }
    let stem =
        reader.convolution(&spelling.stem(), (channels, width), (stem_size, config.size_or("stem_stride", 2)?))?;
    let mut steps = vec![Step::Convolution(stem, Some(Activation::Relu))];
    if config.flag_or("stem_pool", true)? {
        steps.push(Step::MaxPool(Window { size: 3, stride: 2, padding: 1 }));
    }
    let first_stride = if config.flag_or("downsample_in_first_stage", false)? { 2 } else { 1 };
    let bottleneck = match config.text_if("layer_type")?.unwrap_or("bottleneck") {
        "basic" => None,
        "bottleneck" => Some(config.flag_or("downsample_in_bottleneck", false)?),
        _ => return Err(config.wrong("layer_type", "\"basic\" or \"bottleneck\"")),
    };
    for (stage, (outputs, depth)) in sizes.into_iter().enumerate() {
        for index in 0..depth {
            let stride = if index > 0 {
                1
            } else if stage > 0 {
                2
            } else {
                first_stride
            };
            let name = |layer: Option<usize>| spelling.part(stage, index, layer);
            steps.push(block(&reader, &name, (width, outputs), stride, bottleneck)?);
            width = outputs;
        }
    }
    steps.push(Step::MeanPool(1));
    let head = spelling.head();
    let outputs = tensors.find(&format!("{head}.weight")).and_then(|weight| weight.shape.first().copied());
    let mut layer = Linear::default();
    layer.load(tensors, kernels, head, (outputs.unwrap_or(0), width), false)?;
    Ok(Body { steps, layers: vec![layer] })
}

/// Output channels and blocks of every stage.
fn lists(config: Config<'_>) -> Result<Vec<(usize, usize)>, ModelError> {
    let list = |key: &str, max: usize| {
        let wrong = || config.wrong(key, format!("a list of numbers from 1 to {max}"));
        let list = config.sizes_if(key)?.ok_or_else(wrong)?;
        let fits = !list.is_empty() && list.len() <= MAX_COUNT && list.iter().all(|n| (1..=max).contains(n));
        fits.then_some(list).ok_or_else(wrong)
    };
    let (sizes, depths) = (list("hidden_sizes", 1 << 20)?, list("depths", MAX_COUNT)?);
    if sizes.len() != depths.len() {
        return Err(config.wrong("depths", format!("{} numbers, as many as \"hidden_sizes\"", sizes.len())));
    }
    Ok(sizes.into_iter().zip(depths).collect())
}

/// Two convolutions of 3x3, or one of 3x3 between two of 1x1 with a quarter of the channels; `bottleneck` tells whether the first of
/// those has the stride.
fn block(
    reader: &Reader<'_, '_>,
    name: &dyn Fn(Option<usize>) -> [String; 2],
    (inputs, outputs): (usize, usize),
    stride: usize,
    bottleneck: Option<bool>,
) -> Result<Step, ModelError> {
    let layers = match bottleneck {
        None => vec![(inputs, outputs, 3, stride), (outputs, outputs, 3, 1)],
        Some(first) => {
            let inner = (outputs / 4).max(1);
            let (one, three) = if first { (stride, 1) } else { (1, stride) };
            vec![(inputs, inner, 1, one), (inner, inner, 3, three), (inner, outputs, 1, 1)]
        }
    };
    let mut steps = Vec::with_capacity(layers.len());
    let last = layers.len() - 1;
    for (index, (inputs, outputs, size, stride)) in layers.into_iter().enumerate() {
        let convolution = reader.convolution(&name(Some(index)), (inputs, outputs), (size, stride))?;
        steps.push(Step::Convolution(convolution, (index < last).then_some(Activation::Relu)));
    }
    let shortcut = (inputs != outputs || stride != 1)
        .then(|| reader.convolution(&name(None), (inputs, outputs), (1, stride)))
        .transpose()?;
    Ok(Step::Residual { steps, shortcut })
}
