//! What will happen to each tensor, and why, before any weight is read. A dry run prints exactly this.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Value, json};

use crate::error::PlanError;
use crate::memory;
use crate::pack::compressed_tensors;
use crate::pattern::Pattern;
use crate::roles::{self, Role};
use crate::scheme::{Group, Scheme};
use crate::store::safetensors::NewTensor;
use crate::store::{Model, Storage, Weight};
use crate::tensor::Dtype;

/// The output head, a linear module even where its matrix is the embedding's and absent from the file.
const HEAD: &str = "lm_head";

/// How codes are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Minimum and maximum of the group, nearest code.
    Rtn,
    /// Range and zero with the least squared error, nearest code.
    Search,
    /// Activation-aware scaling of channels, then `Search`.
    Awq,
    /// The ranges of `Search`, and rounding that compensates its errors.
    Gptq,
    /// Scaling as `Awq` and rounding as `Gptq`.
    Best,
}

impl Method {
    /// Whether channels are scaled before they are quantized.
    #[must_use]
    pub const fn scales(self) -> bool {
        matches!(self, Self::Awq | Self::Best)
    }

    /// Whether rounding needs to know how columns go together.
    #[must_use]
    pub const fn compensates(self) -> bool {
        matches!(self, Self::Gptq | Self::Best)
    }
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Rtn => "rtn",
            Self::Search => "search",
            Self::Awq => "awq",
            Self::Gptq => "gptq",
            Self::Best => "best",
        })
    }
}

/// What to do with a model.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// What every linear layer becomes, or `None` to quantize nothing.
    pub scheme: Option<Scheme>,
    /// How codes are chosen.
    pub method: Method,
    /// Schemes for tensors by name; the last match counts.
    pub overrides: Vec<(Pattern, Scheme)>,
    /// Tensors to copy as they are.
    pub keep: Vec<Pattern>,
    /// Element type of scales; `None` for the model's own.
    pub scale_dtype: Option<Dtype>,
    /// Element type of floats that are not quantized; `None` copies them bit for bit, and stores GGUF tensors as bf16.
    pub dtype: Option<Dtype>,
    /// Whether a group that does not divide a row is an error.
    pub strict: bool,
    /// Bytes of a shard, at most (a larger tensor gets a shard of its own).
    pub max_shard_bytes: usize,
    /// A digest of the statistics that quantizing goes by.
    pub statistics: Option<String>,
}

impl PlanOptions {
    /// One scheme for every linear layer, everything else copied, shards of 5 GB.
    #[must_use]
    pub const fn new(scheme: Scheme, method: Method) -> Self {
        Self {
            scheme: Some(scheme),
            method,
            overrides: Vec::new(),
            keep: Vec::new(),
            scale_dtype: None,
            dtype: None,
            strict: false,
            max_shard_bytes: 5_000_000_000,
            statistics: None,
        }
    }
}

/// The whole plan.
#[derive(Clone, Debug)]
pub struct Plan {
    /// One entry per weight of the model, in the model's order.
    pub tensors: Vec<PlannedTensor>,
    /// How many shards there are.
    pub n_shards: usize,
    /// The options' method.
    pub method: Method,
    /// The options' digest of statistics.
    pub statistics: Option<String>,
    /// Bytes of all source tensors.
    pub bytes_in: usize,
    /// Bytes of all written tensors.
    pub bytes_out: usize,
    /// Anonymous memory expected at the peak, in bytes.
    pub peak_anonymous_bytes: usize,
    /// Linear modules that stay as they are, for the container's configuration.
    pub ignored_modules: Vec<String>,
}

/// What happens to one tensor.
#[derive(Clone, Debug)]
pub struct PlannedTensor {
    /// Its name.
    pub name: String,
    /// What it is stored as in the source.
    pub from: String,
    /// What is done.
    pub action: Action,
    /// Why, in a few words.
    pub reason: String,
    /// The tensors it becomes.
    pub outputs: Vec<NewTensor>,
    /// The shard they go to.
    pub shard: usize,
}

/// What is done with a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Its bytes are copied.
    Copy,
    /// Its values are rounded to another element type.
    Cast(Dtype),
    /// It is quantized.
    Quantize {
        /// Bits, group, symmetry, as stored: after any fallback.
        scheme: Scheme,
        /// Element type of its scales.
        scale_dtype: Dtype,
    },
}

impl PlannedTensor {
    /// Bytes written for it.
    #[must_use]
    pub fn bytes_out(&self) -> usize {
        self.outputs.iter().map(NewTensor::bytes).sum()
    }

    /// What it becomes: `BF16`, `int4-g64`.
    #[must_use]
    pub fn to(&self) -> String {
        match self.action {
            Action::Copy => self.from.clone(),
            Action::Cast(dtype) => dtype.to_string(),
            Action::Quantize { scheme, .. } => scheme.to_string(),
        }
    }
}

impl Plan {
    /// Decides about every weight of a model. Reads no weight.
    ///
    /// # Errors
    /// `PlanError`, where patterns match nothing, groups do not divide in strict mode, or a scheme was asked for a
    /// tensor that cannot have it.
    pub fn new(model: &Model, options: &PlanOptions) -> Result<Self, PlanError> {
        for pattern in options.keep.iter().chain(options.overrides.iter().map(|(pattern, _)| pattern)) {
            pattern.check(model)?;
        }
        if let (Some(what), Some(_)) = (model.quant_method(), options.scheme) {
            return Err(PlanError::AlreadyQuantized { model: model.path().to_owned(), what });
        }
        let mut ignored_modules = Vec::new();
        let mut tensors = Vec::with_capacity(model.weights().len());
        for weight in model.weights() {
            let role = roles::role(weight, model.config_text("model_type"));
            let (action, reason) = decide(weight, role, options)?;
            if role.is_linear_module() && !matches!(action, Action::Quantize { .. }) {
                ignored_modules.push(compressed_tensors::module_name(&weight.name).to_owned());
            }
            let outputs = outputs(weight, action);
            tensors.push(PlannedTensor {
                name: weight.name.clone(),
                from: weight.stored_as(),
                action,
                reason,
                outputs,
                shard: 0,
            });
        }
        let tied = model.config().and_then(|config| config.get("tie_word_embeddings")).and_then(Value::as_bool);
        if tied.unwrap_or(false) && !ignored_modules.iter().any(|module| module == HEAD) {
            ignored_modules.push(HEAD.to_owned());
        }
        if options.scheme.is_some() && !tensors.iter().any(|tensor| matches!(tensor.action, Action::Quantize { .. })) {
            return Err(PlanError::NothingToDo { model: model.path().to_owned() });
        }
        let n_shards = assign_shards(&mut tensors, options.max_shard_bytes);
        Ok(Self {
            n_shards,
            method: options.method,
            statistics: options.statistics.clone(),
            bytes_in: model.weights().iter().map(Weight::stored_bytes).sum(),
            bytes_out: tensors.iter().map(PlannedTensor::bytes_out).sum(),
            peak_anonymous_bytes: memory::peak_anonymous_bytes(model, &tensors, options.method),
            tensors,
            ignored_modules,
        })
    }

    /// What decides the target's bytes, as one digest: another plan or another version of this crate gives another.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut text = format!("reweight {} {} {}", env!("CARGO_PKG_VERSION"), self.method, self.n_shards);
        text.extend(self.statistics.iter().flat_map(|digest| [" ", digest]));
        for tensor in &self.tensors {
            // Writing into a string cannot fail.
            let _ = write!(text, "\n{:?} {} {:?} {:?}", tensor.name, tensor.from, tensor.action, tensor.outputs);
        }
        blake3::hash(text.as_bytes()).to_string()
    }

    /// The target's `config.json`: the source's, with what the plan changes; `None` where there is none to write.
    #[must_use]
    pub fn config(&self, model: &Model) -> Option<Value> {
        let mut config = model.config().cloned();
        let quantized = self.quantized();
        if quantized.is_empty() {
            if let Some(object) = config.as_mut().and_then(Value::as_object_mut) {
                object.remove("quantization_config");
            }
        } else {
            let quantization = compressed_tensors::quantization_config(&quantized, &self.ignored_modules);
            config.get_or_insert_with(|| json!({}))["quantization_config"] = quantization;
        }
        let dtype = self.model_dtype();
        if let (Some(config), Some(dtype)) = (config.as_mut(), dtype) {
            // Older readers know `torch_dtype`, newer ones `dtype`; a source that has either keeps its spelling.
            let key = if config.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
            config[key] = dtype.into();
        }
        config
    }

    /// The element type that most unquantized floats were cast to, in the spelling of `config.json`.
    fn model_dtype(&self) -> Option<&'static str> {
        let cast = self.tensors.iter().find_map(|tensor| match tensor.action {
            Action::Cast(dtype) => Some(dtype),
            Action::Copy | Action::Quantize { .. } => None,
        });
        match cast? {
            Dtype::Bf16 => Some("bfloat16"),
            Dtype::F16 => Some("float16"),
            Dtype::F32 => Some("float32"),
            _ => None,
        }
    }

    /// Names and schemes of what is quantized.
    #[must_use]
    pub fn quantized(&self) -> Vec<(&str, Scheme)> {
        let quantized = self.tensors.iter().filter_map(|tensor| match tensor.action {
            Action::Quantize { scheme, .. } => Some((tensor.name.as_str(), scheme)),
            Action::Copy | Action::Cast(_) => None,
        });
        quantized.collect()
    }

    /// How many tensors each scheme or dtype is given to, by its name.
    #[must_use]
    pub fn census(&self) -> BTreeMap<String, usize> {
        let mut census = BTreeMap::new();
        for tensor in &self.tensors {
            *census.entry(tensor.to()).or_default() += 1;
        }
        census
    }
}

fn decide(weight: &Weight, role: Role, options: &PlanOptions) -> Result<(Action, String), PlanError> {
    let unquantized = unquantized_action(weight, options.dtype);
    let asked = options.overrides.iter().rev().find(|(pattern, _)| pattern.matches(&weight.name));
    if let Some(pattern) = options.keep.iter().find(|pattern| pattern.matches(&weight.name)) {
        return Ok((unquantized, format!("--keep {}", pattern.text())));
    }
    if let Some((_, scheme)) = asked {
        let matrix = weight.shape.len() == 2 && weight.is_float() && weight.name.ends_with(".weight");
        if !matrix || !role.is_linear_module() {
            return Err(PlanError::CannotQuantize {
                tensor: weight.name.clone(),
                scheme: scheme.to_string(),
                why: role.kept_because().unwrap_or("not a matrix").to_owned(),
            });
        }
    }
    let scheme = match (asked, role.kept_because(), options.scheme) {
        (Some((_, scheme)), _, _) => *scheme,
        (None, Some(reason), _) => return Ok((unquantized, reason.to_owned())),
        (None, None, None) => return Ok((unquantized, String::new())),
        (None, None, Some(scheme)) => scheme,
    };
    if weight.n_elements() == 0 {
        return Ok((unquantized, "empty".to_owned()));
    }
    if weight.columns() < compressed_tensors::COLUMNS_MIN {
        let why = format!("fewer than {} input channels", compressed_tensors::COLUMNS_MIN);
        return match asked {
            None => Ok((unquantized, why)),
            Some((_, scheme)) => {
                let (tensor, scheme) = (weight.name.clone(), scheme.to_string());
                Err(PlanError::CannotQuantize { tensor, scheme, why })
            }
        };
    }
    let (fitted, mut reason) = fit_group(weight, scheme, options.strict)?;
    if let Some((pattern, _)) = asked {
        reason = format!("--tensor {}{}{reason}", pattern.text(), if reason.is_empty() { "" } else { ", " });
    }
    // Loaders compute in the dtype of the model, so only scales of that dtype mean the same to all of them.
    let scale_dtype = options.scale_dtype.unwrap_or(match options.dtype.or(weight.dtype()) {
        Some(Dtype::F16) => Dtype::F16,
        Some(Dtype::F32 | Dtype::F64) => Dtype::F32,
        _ => Dtype::Bf16,
    });
    Ok((Action::Quantize { scheme: fitted, scale_dtype }, reason))
}

/// The largest power of two that divides the row, where the group asked for does not.
fn fit_group(weight: &Weight, scheme: Scheme, strict: bool) -> Result<(Scheme, String), PlanError> {
    /// Below this a scale per group outweighs its codes, and one scale for the row is kept instead.
    const SMALLEST_GROUP: usize = 8;
    let (columns, asked) = (weight.columns(), scheme.group_len(weight.columns()));
    if columns.is_multiple_of(asked) {
        return Ok((scheme, String::new()));
    }
    let power = 1usize << columns.trailing_zeros().min(asked.ilog2());
    let group = match std::num::NonZeroUsize::new(power) {
        Some(size) if power >= SMALLEST_GROUP => Group::Size(size),
        _ => Group::Channel,
    };
    let fitted = scheme.with_group(group);
    if strict {
        let tensor = weight.name.clone();
        return Err(PlanError::GroupDoesNotDivide { tensor, group: asked, columns, fallback: fitted.to_string() });
    }
    Ok((fitted, format!("{asked} does not divide {columns}")))
}

fn unquantized_action(weight: &Weight, dtype: Option<Dtype>) -> Action {
    match (&weight.storage, dtype) {
        // Values that are not the file's are written, not copied.
        (_, dtype) if weight.scaling.is_some() => Action::Cast(weight.written_dtype(dtype)),
        (Storage::Plain(plain), Some(dtype)) if plain.dtype.is_float() && plain.dtype != dtype => Action::Cast(dtype),
        (Storage::Plain(_), _) => Action::Copy,
        (Storage::Ggml(blocks), dtype) => match blocks.plain_dtype() {
            // Integers keep their type; floats of a GGUF file get one type throughout.
            Some(plain) if !plain.is_float() => Action::Copy,
            Some(plain) if plain == dtype.unwrap_or(Dtype::Bf16) => Action::Copy,
            _ => Action::Cast(dtype.unwrap_or(Dtype::Bf16)),
        },
        (Storage::Packed(packed), dtype) => Action::Cast(dtype.unwrap_or(packed.scale_dtype())),
    }
}

fn outputs(weight: &Weight, action: Action) -> Vec<NewTensor> {
    let plain = |dtype| vec![NewTensor { name: weight.name.clone(), dtype, shape: weight.shape.clone() }];
    match action {
        Action::Cast(dtype) => plain(dtype),
        Action::Quantize { scheme, scale_dtype } => {
            compressed_tensors::outputs(&weight.name, weight.rows(), weight.columns(), scheme, scale_dtype)
        }
        Action::Copy => plain(match &weight.storage {
            Storage::Plain(tensor) => tensor.dtype,
            Storage::Ggml(blocks) => blocks.plain_dtype().unwrap_or(Dtype::U8),
            Storage::Packed(packed) => packed.scale_dtype(),
        }),
    }
}

/// Fills shards in order; what one weight becomes stays together.
fn assign_shards(tensors: &mut [PlannedTensor], max_shard_bytes: usize) -> usize {
    let (mut shard, mut filled) = (0, 0);
    for tensor in tensors {
        let bytes = tensor.bytes_out();
        if filled > 0 && filled + bytes > max_shard_bytes {
            shard += 1;
            filled = 0;
        }
        tensor.shard = shard;
        filled += bytes;
    }
    shard + 1
}
