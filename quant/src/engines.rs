//! What inference engines load: their limits as a table, each with its source, and which weights of a model go beyond one. Reads no weight.
//!
//! Limits are those of vLLM's main branch of mid-2026, of transformers 5.23 with compressed-tensors 0.20, and of llama.cpp of 2026.

use serde::Serialize;

use crate::fused::fused_sets;
use crate::pack::Container;
use crate::plan::Plan;
use crate::roles::{self, Role};
use crate::scheme::{Group, Scheme};
use crate::store::{Model, ModelLayout, Storage};

/// An inference engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// vLLM on CUDA.
    Vllm,
    /// llama.cpp.
    #[serde(rename = "llama.cpp")]
    LlamaCpp,
    /// transformers, with what it needs installed.
    Transformers,
}

/// What comes of going beyond a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The model does not load.
    Refused,
    /// It loads in new versions, or with another package installed.
    Needs,
    /// It loads, and runs in slower kernels.
    Slow,
}

/// One limit of one engine.
#[derive(Debug)]
pub struct Limit {
    /// Whose it is.
    pub engine: Engine,
    /// What going beyond it means.
    pub severity: Severity,
    /// The limit, as a sentence.
    pub what: &'static str,
    /// Where it stands: a file of the engine, or the version that it was tried with.
    pub source: &'static str,
    exceeded: Exceeded,
}

/// How a limit is checked.
#[derive(Debug)]
enum Exceeded {
    /// By the model as a whole.
    Whole(fn(&Stored<'_>) -> bool),
    /// By single weights.
    Weight(fn(&StoredWeight<'_>, &Stored<'_>) -> bool),
    /// By layers that are fused from these parts.
    Fused(fn(&[&StoredWeight<'_>]) -> bool),
}

/// A limit that a model goes beyond.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// The engine.
    pub engine: Engine,
    /// What it means.
    pub severity: Severity,
    /// The limit.
    pub what: &'static str,
    /// Where it stands.
    pub source: &'static str,
    /// The weights, or fused layers, that go beyond it; none where it is about the whole.
    pub names: Vec<String>,
}

/// A model, or what a plan makes of it, as far as engines care.
#[derive(Debug)]
struct Stored<'a> {
    layout: Layout,
    has_config: bool,
    /// Whether `quantization_config` says that zero points are to be dequantized.
    dequantizes: bool,
    padded: bool,
    weights: Vec<StoredWeight<'a>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Gguf,
    Floats,
    Packed(Container),
}

#[derive(Debug)]
struct StoredWeight<'a> {
    name: &'a str,
    role: Role,
    rows: usize,
    columns: usize,
    scheme: Option<Scheme>,
}

use Engine::{LlamaCpp, Transformers, Vllm};
use Exceeded::{Fused, Weight as Each, Whole};
use Severity::{Needs, Refused, Slow};

const VLLM_WNA16: &str = "vLLM, layers/quantization/compressed_tensors/schemes/compressed_tensors_wNa16.py";
const VLLM_MARLIN: &str = "vLLM, layers/quantization/utils/marlin_utils.py";

/// Every limit.
pub const LIMITS: [Limit; 19] = [
    Limit {
        engine: Vllm,
        severity: Refused,
        what: "the layout `reweight` is this toolkit's own (`reweight convert` takes exact grids to others)",
        source: "docs/format.md",
        exceeded: Whole(|stored| is(stored, Container::Reweight)),
    },
    Limit {
        engine: Vllm,
        severity: Refused,
        what: "it needs a folder with config.json",
        source: "vLLM, transformers_utils/config.py",
        exceeded: Whole(|stored| stored.layout != Layout::Gguf && !stored.has_config),
    },
    Limit {
        engine: Vllm,
        severity: Refused,
        what: "the parts of a layer that it fuses need one scheme",
        source: "vLLM, layers/quantization/compressed_tensors/utils.py, and compressed_tensors_moe.py for experts",
        exceeded: Fused(|parts| parts.iter().any(|part| part.scheme != parts[0].scheme)),
    },
    Limit {
        engine: Vllm,
        severity: Refused,
        what: "compressed-tensors with zero points has 4 or 8 bits",
        source: VLLM_WNA16,
        exceeded: Each(|weight, stored| {
            is(stored, Container::CompressedTensors)
                && weight.scheme.is_some_and(|scheme| !scheme.symmetric() && ![4, 8].contains(&scheme.bits()))
        }),
    },
    Limit {
        engine: Vllm,
        severity: Needs,
        what: "symmetric codes of 2, 3, 5, 6 or 7 bits need a version of mid-2026 or later",
        source: VLLM_WNA16,
        exceeded: Each(|weight, stored| {
            is(stored, Container::CompressedTensors)
                && weight.scheme.is_some_and(|scheme| scheme.symmetric() && ![4, 8].contains(&scheme.bits()))
        }),
    },
    Limit {
        engine: Vllm,
        severity: Refused,
        what: "its kernels take groups of 32, 64, 128 or a whole row",
        source: VLLM_MARLIN,
        exceeded: Each(|weight, stored| {
            let odd = |scheme: Scheme| match scheme.group() {
                Group::Size(size) => ![32, 64, 128].contains(&size.get()),
                Group::Channel => false,
            };
            stored.layout != Layout::Gguf && weight.scheme.is_some_and(odd)
        }),
    },
    Limit {
        engine: Vllm,
        severity: Refused,
        what: "experts under several schemes are found by the names gate_proj, up_proj and down_proj alone",
        source: "vLLM, layers/quantization/compressed_tensors/compressed_tensors_moe/compressed_tensors_moe.py",
        exceeded: Each(|weight, stored| {
            let last = |names: [&str; 3]| names.iter().any(|name| weight.name.ends_with(name));
            is(stored, Container::CompressedTensors)
                && weight.scheme.is_some()
                && weight.name.contains(".experts.")
                && last([".w1.weight", ".w2.weight", ".w3.weight"])
                && several_schemes(stored)
        }),
    },
    Limit {
        engine: Vllm,
        severity: Needs,
        what: "a quantized output head in compressed-tensors needs a version that knows quantized embeddings",
        source: "vLLM, layers/quantization/compressed_tensors/compressed_tensors_embedding.py",
        exceeded: Each(|weight, stored| {
            is(stored, Container::CompressedTensors) && weight.role == Role::Head && weight.scheme.is_some()
        }),
    },
    Limit {
        engine: Vllm,
        severity: Needs,
        what: "zeros as version 2 of GPTQ stores them need a version of October 2025 or later",
        source: "vLLM, pull request 26092",
        exceeded: Whole(|stored| is(stored, Container::GptqV2)),
    },
    Limit {
        engine: Vllm,
        severity: Slow,
        what: "Marlin takes symmetric GPTQ of 4 or 8 bits; other codes run in ExLlama's kernel, in f16",
        source: "vLLM, layers/quantization/gptq_marlin.py",
        exceeded: Each(|weight, stored| {
            (is(stored, Container::Gptq) || is(stored, Container::GptqV2))
                && weight.scheme.is_some_and(|scheme| !scheme.symmetric() || ![4, 8].contains(&scheme.bits()))
        }),
    },
    Limit {
        engine: Vllm,
        severity: Slow,
        what: "Marlin takes outputs in multiples of 64 (all parts of a fused layer together) and inputs in multiples of 128",
        source: VLLM_MARLIN,
        exceeded: Fused(|parts| {
            // Experts are multiplied one by one.
            let experts = parts[0].name.contains(".experts.");
            let rows: usize = parts.iter().map(|part| part.rows).sum();
            let odd_rows = |rows: usize| !rows.is_multiple_of(64);
            let odd = if experts { parts.iter().any(|part| odd_rows(part.rows)) } else { odd_rows(rows) };
            parts[0].scheme.is_some() && (odd || parts.iter().any(|part| !part.columns.is_multiple_of(128)))
        }),
    },
    Limit {
        engine: LlamaCpp,
        severity: Refused,
        what: "it reads GGUF alone (`reweight convert --to gguf`, or `quantize --to gguf`)",
        source: "llama.cpp, src/llama-model-loader.cpp",
        exceeded: Whole(|stored| stored.layout != Layout::Gguf),
    },
    Limit {
        engine: Transformers,
        severity: Refused,
        what: "the layout `reweight` is this toolkit's own (`reweight convert` takes exact grids to others)",
        source: "docs/format.md",
        exceeded: Whole(|stored| is(stored, Container::Reweight)),
    },
    Limit {
        engine: Transformers,
        severity: Refused,
        what: "it needs a folder with config.json",
        source: "transformers 5.23, configuration_utils.py",
        exceeded: Whole(|stored| stored.layout != Layout::Gguf && !stored.has_config),
    },
    Limit {
        engine: Transformers,
        severity: Needs,
        what: "a GGUF file is turned into floats, with the `gguf` package and `gguf_file=`, for the architectures that it knows",
        source: "transformers 5.23, modeling_gguf_pytorch_utils.py",
        exceeded: Whole(|stored| stored.layout == Layout::Gguf),
    },
    Limit {
        engine: Transformers,
        severity: Refused,
        what: "several schemes load only where all are symmetric",
        source: "tried with transformers 5.23 and compressed-tensors 0.20",
        exceeded: Whole(|stored| {
            let asymmetric = |weight: &StoredWeight<'_>| weight.scheme.is_some_and(|scheme| !scheme.symmetric());
            is(stored, Container::CompressedTensors) && several_schemes(stored) && stored.weights.iter().any(asymmetric)
        }),
    },
    Limit {
        engine: Transformers,
        severity: Refused,
        what: "packed zero points load only where the configuration says `\"dequantize\": true`",
        source: "tried with transformers 5.23 and compressed-tensors 0.20",
        exceeded: Each(|weight, stored| {
            is(stored, Container::CompressedTensors)
                && !several_schemes(stored)
                && !stored.dequantizes
                && weight.scheme.is_some_and(|scheme| !scheme.symmetric())
        }),
    },
    Limit {
        engine: Transformers,
        severity: Refused,
        what: "the padded layout of 3, 5, 6 and 7 bits is misread since compressed-tensors 0.18 (`reweight convert` makes it dense)",
        source: "compressed-tensors 0.18, compressors/pack_quantized/helpers.py",
        exceeded: Whole(|stored| stored.padded),
    },
    Limit {
        engine: Transformers,
        severity: Needs,
        what: "AWQ and GPTQ folders need the package `gptqmodel`",
        source: "transformers 5.23, quantizers/quantizer_awq.py and quantizer_gptq.py",
        exceeded: Whole(|stored| {
            matches!(stored.layout, Layout::Packed(Container::Awq | Container::Gptq | Container::GptqV2))
        }),
    },
];

/// What an engine does not load of a model, or not well, in the order of the table.
///
/// Cost: looks at names and shapes.
#[must_use]
pub fn check_model(engine: Engine, model: &Model) -> Vec<Finding> {
    let model_type = model.config_text("model_type");
    let packed = |weight: &crate::store::Weight| match &weight.storage {
        Storage::Packed(packed) => Some((packed.scheme(), packed.is_padded())),
        Storage::Plain(_) | Storage::Ggml(_) => None,
    };
    let weights = model.weights().iter().map(|weight| StoredWeight {
        name: &weight.name,
        role: roles::role(weight, model_type),
        rows: weight.rows(),
        columns: weight.columns(),
        scheme: packed(weight).map(|(scheme, _)| scheme),
    });
    let settings = model.config().and_then(|config| config.get("quantization_config"));
    let layout = match model.layout() {
        ModelLayout::Gguf => Layout::Gguf,
        ModelLayout::Folder | ModelLayout::Safetensors => model.container().map_or(Layout::Floats, Layout::Packed),
    };
    find(
        engine,
        &Stored {
            layout,
            has_config: model.layout() == ModelLayout::Folder && model.config().is_some(),
            dequantizes: settings.and_then(|settings| settings.get("dequantize")?.as_bool()).unwrap_or(false),
            padded: model.weights().iter().any(|weight| packed(weight).is_some_and(|(_, padded)| padded)),
            weights: weights.collect(),
        },
    )
}

/// What an engine would not load of what a plan makes, or not well. `is_file`: the target is one file without a configuration.
#[must_use]
pub fn check_plan(engine: Engine, model: &Model, plan: &Plan, is_file: bool) -> Vec<Finding> {
    let model_type = model.config_text("model_type");
    let weights = model.weights().iter().zip(&plan.tensors).map(|(weight, planned)| StoredWeight {
        name: &weight.name,
        role: roles::role(weight, model_type),
        rows: weight.rows(),
        columns: weight.columns(),
        scheme: planned.action.scheme(),
    });
    let quantized = plan.quantized();
    let settings = plan.container.layout().quantization_config(&quantized, &plan.ignored_modules);
    find(
        engine,
        &Stored {
            layout: if quantized.is_empty() { Layout::Floats } else { Layout::Packed(plan.container) },
            has_config: !is_file && model.config().is_some(),
            dequantizes: settings.get("dequantize").is_some(),
            padded: false,
            weights: weights.collect(),
        },
    )
}

/// What an engine would not load of a GGUF file, or not well.
#[must_use]
pub fn check_gguf(engine: Engine) -> Vec<Finding> {
    let weights = Vec::new();
    find(engine, &Stored { layout: Layout::Gguf, has_config: false, dequantizes: false, padded: false, weights })
}

fn is(stored: &Stored<'_>, container: Container) -> bool {
    stored.layout == Layout::Packed(container)
}

fn several_schemes(stored: &Stored<'_>) -> bool {
    let mut schemes = stored.weights.iter().filter_map(|weight| weight.scheme);
    let first = schemes.next();
    schemes.any(|scheme| Some(scheme) != first)
}

fn find(engine: Engine, stored: &Stored<'_>) -> Vec<Finding> {
    let linear: Vec<&StoredWeight<'_>> =
        stored.weights.iter().filter(|weight| weight.role.is_linear_module()).collect();
    let sets = fused_sets(linear.iter().map(|weight| weight.name));
    let mut of_set = vec![false; linear.len()];
    sets.iter().flat_map(|set| &set.parts).for_each(|&part| of_set[part] = true);
    let mut layers: Vec<(&str, Vec<&StoredWeight<'_>>)> =
        sets.iter().map(|set| (set.layer.as_str(), set.parts.iter().map(|&part| linear[part]).collect())).collect();
    layers.extend(
        linear.iter().zip(&of_set).filter(|(_, of_set)| !**of_set).map(|(weight, _)| (weight.name, vec![*weight])),
    );

    let names = |limit: &Limit| -> Option<Vec<String>> {
        let names: Vec<String> = match limit.exceeded {
            Whole(exceeded) => return exceeded(stored).then(Vec::new),
            Each(exceeded) => {
                let beyond = stored.weights.iter().filter(|weight| exceeded(weight, stored));
                beyond.map(|weight| weight.name.to_owned()).collect()
            }
            // What is fused in files of llama.cpp is fused by whoever writes them.
            Fused(_) if stored.layout == Layout::Gguf => Vec::new(),
            Fused(exceeded) => {
                layers.iter().filter(|(_, parts)| exceeded(parts)).map(|(name, _)| (*name).to_owned()).collect()
            }
        };
        (!names.is_empty()).then_some(names)
    };
    let of_engine = LIMITS.iter().filter(|limit| limit.engine == engine);
    of_engine
        .filter_map(|limit| {
            let Limit { engine, severity, what, source, .. } = *limit;
            Some(Finding { engine, severity, what, source, names: names(limit)? })
        })
        .collect()
}
