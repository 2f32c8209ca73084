//! What will happen to each tensor, and why, before any weight is read. A dry run prints exactly this.

mod agree;
mod method;
mod named;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use self::named::Named;
use crate::error::PlanError;
use crate::memory;
use crate::pack::{Container, Matrix, PackedTensor, compressed_tensors, module_name};
use crate::pattern::Pattern;
use crate::recipe::Recipe;
use crate::roles::{self, Role};
use crate::scheme::{Group, Scheme};
use crate::store::safetensors::NewTensor;
use crate::store::{Model, Storage, Weight};
use crate::tensor::Dtype;

pub use agree::Unlike;
pub use method::{LOW_CONFIDENCE_BAND, Method};

/// The output head, a linear module even where its matrix is the embedding's and absent from the file.
const HEAD: &str = "lm_head";

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
    /// Schemes for tensors by their whole names, before `scheme`; what it does not name is kept.
    pub recipe: Option<Recipe>,
    /// How quantized weights are laid out.
    pub container: Container,
    /// What is done with weights that are quantized already.
    pub quantized: Quantized,
    /// Steps from where rounding would go the other way within which a weight counts as one of low confidence.
    pub band: f64,
}

/// What a plan does with weights that are quantized already, in a container or in GGUF blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quantized {
    /// Refuses containers, unless all their codes have 8 bits; these and GGUF blocks are read as floats.
    #[default]
    Refuse,
    /// Takes the codes of containers as they are into another; everything else is copied.
    Repack,
    /// Chooses new codes for these, and only for these.
    Requantize,
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
            recipe: None,
            container: Container::CompressedTensors,
            quantized: Quantized::Refuse,
            band: LOW_CONFIDENCE_BAND,
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
    /// The options' container.
    pub container: Container,
    /// The options' digest of statistics.
    pub statistics: Option<String>,
    /// The options' band.
    pub band: f64,
    /// The options' recipe.
    pub recipe: Option<Recipe>,
    /// Bytes of all source tensors.
    pub bytes_in: usize,
    /// Bytes of all written tensors.
    pub bytes_out: usize,
    /// Anonymous memory expected at the peak, in bytes.
    pub peak_anonymous_bytes: usize,
    /// Linear modules that stay as they are, for the container's configuration.
    pub ignored_modules: Vec<String>,
    /// Layers of engines whose parts are stored in unlike ways, because they were asked for so.
    pub unlike: Vec<Unlike>,
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
    /// Its codes are laid out by another container.
    Repack {
        /// Bits, group, symmetry, as they are.
        scheme: Scheme,
        /// Element type of its scales in the target.
        scale_dtype: Dtype,
    },
}

impl Action {
    /// The scheme of what is quantized in the target.
    #[must_use]
    pub const fn scheme(self) -> Option<Scheme> {
        match self {
            Self::Quantize { scheme, .. } | Self::Repack { scheme, .. } => Some(scheme),
            Self::Copy | Self::Cast(_) => None,
        }
    }

    /// What a tensor stored as `from` becomes: `BF16`, `int4-g64`.
    fn becomes(self, from: &str) -> String {
        match self {
            Self::Copy => from.to_owned(),
            Self::Cast(dtype) => dtype.to_string(),
            Self::Quantize { scheme, .. } | Self::Repack { scheme, .. } => scheme.to_string(),
        }
    }

    /// Whether the target holds codes, chosen or taken over.
    #[must_use]
    pub const fn makes_codes(self) -> bool {
        self.scheme().is_some()
    }
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
        self.action.becomes(&self.from)
    }
}

impl Plan {
    /// Decides about every weight of a model. Reads no weight.
    ///
    /// # Errors
    /// `PlanError`, where patterns match nothing, groups do not divide in strict mode, or a scheme was asked for a
    /// tensor that cannot have it.
    pub fn new(model: &Model, options: &PlanOptions) -> Result<Self, PlanError> {
        named::check(model, options)?;
        let refused = options.scheme.filter(|_| options.quantized == Quantized::Refuse && !is_master(model));
        if let (Some(what), Some(_)) = (model.quant_method(), refused) {
            return Err(PlanError::AlreadyQuantized { model: model.path().to_owned(), what });
        }
        let is_multimodal = model.config().is_some_and(|config| config.get("text_config").is_some());
        let mut decisions = Vec::with_capacity(model.weights().len());
        for weight in model.weights() {
            let role = roles::role(weight, model.config_text("model_type"));
            let tower = if is_multimodal { roles::tower(&weight.name) } else { None };
            let (action, reason) = decide(weight, (role, tower), options)?;
            decisions.push(Decision { weight, role, tower, action, reason });
        }
        if options.container.one_scheme() {
            agree::one_scheme(&mut decisions, options)?;
        }
        let unlike = agree::fused(&mut decisions, options);
        let mut ignored_modules = ignored_modules(&decisions, is_multimodal);
        let mut tensors = Vec::with_capacity(decisions.len());
        for Decision { weight, action, reason, .. } in decisions {
            let outputs = outputs(weight, action, options.container);
            let (name, from) = (weight.name.clone(), weight.stored_as());
            tensors.push(PlannedTensor { name, from, action, reason, outputs, shard: 0 });
        }
        let tied = model.config().and_then(|config| config.get("tie_word_embeddings")).and_then(Value::as_bool);
        if tied.unwrap_or(false) && !ignored_modules.iter().any(|module| module == HEAD) {
            ignored_modules.push(HEAD.to_owned());
        }
        let wants_codes = options.scheme.is_some() || options.quantized == Quantized::Repack;
        if wants_codes && !tensors.iter().any(|tensor| tensor.action.makes_codes()) {
            let model = model.path().to_owned();
            return Err(match options.quantized {
                Quantized::Refuse => PlanError::NothingToDo { model },
                Quantized::Repack | Quantized::Requantize => PlanError::NothingQuantized { model },
            });
        }
        let n_shards = assign_shards(&mut tensors, options.max_shard_bytes);
        Ok(Self {
            n_shards,
            method: options.method,
            band: options.band,
            container: options.container,
            statistics: options.statistics.clone(),
            recipe: options.recipe.clone(),
            bytes_in: model.stored_bytes(),
            bytes_out: tensors.iter().map(PlannedTensor::bytes_out).sum(),
            peak_anonymous_bytes: memory::peak_anonymous_bytes(model, &tensors, options.method, options.container),
            tensors,
            ignored_modules,
            unlike,
        })
    }

    /// What decides the target's bytes, as one digest: another plan or another version of this crate gives another.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let version = env!("CARGO_PKG_VERSION");
        let mut text = format!("reweight {version} {} {} {} {}", self.container, self.method, self.band, self.n_shards);
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
            let quantization = self.container.layout().quantization_config(&quantized, &self.ignored_modules);
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

    /// The file that repeats the settings of `config.json` for older loaders, and its content.
    #[must_use]
    pub fn settings_file(&self) -> Option<(&'static str, Value)> {
        let quantized = self.quantized();
        let name = self.container.layout().settings_file().filter(|_| !quantized.is_empty())?;
        Some((name, self.container.layout().quantization_config(&quantized, &self.ignored_modules)))
    }

    /// The element type that most unquantized floats were cast to, in the spelling of `config.json`.
    fn model_dtype(&self) -> Option<&'static str> {
        let cast = self.tensors.iter().find_map(|tensor| match tensor.action {
            Action::Cast(dtype) => Some(dtype),
            Action::Copy | Action::Quantize { .. } | Action::Repack { .. } => None,
        });
        match cast? {
            Dtype::Bf16 => Some("bfloat16"),
            Dtype::F16 => Some("float16"),
            Dtype::F32 => Some("float32"),
            _ => None,
        }
    }

    /// Whether codes are chosen anywhere, by the method.
    #[must_use]
    pub fn chooses_codes(&self) -> bool {
        self.tensors.iter().any(|tensor| matches!(tensor.action, Action::Quantize { .. }))
    }

    /// Names and schemes of what is quantized.
    #[must_use]
    pub fn quantized(&self) -> Vec<(&str, Scheme)> {
        self.tensors.iter().filter_map(|tensor| Some((tensor.name.as_str(), tensor.action.scheme()?))).collect()
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

/// What is done with a weight, before all of them are looked at together.
struct Decision<'a> {
    weight: &'a Weight,
    role: Role,
    /// What it belongs to, if not to the language model.
    tower: Option<&'static str>,
    action: Action,
    reason: String,
}

/// Linear modules that keep their type, as configurations name them. Loaders know the modules of a multimodal model by other names than its
/// files do, so patterns stand for those.
fn ignored_modules(decisions: &[Decision<'_>], is_multimodal: bool) -> Vec<String> {
    let mut ignored: Vec<String> = Vec::new();
    for Decision { weight, role, tower, action, .. } in decisions {
        if !role.is_linear_module() || action.makes_codes() {
            continue;
        }
        let module = module_name(&weight.name);
        let pattern = |from: &str| format!("re:.*{}$", module[module.find(from).unwrap_or(0)..].replace('.', "\\."));
        let coded =
            |tower: &str| decisions.iter().any(|other| other.tower == Some(tower) && other.action.makes_codes());
        let entry = match tower {
            Some(tower) if coded(tower) => pattern(tower),
            Some(tower) => format!("re:.*{tower}.*"),
            None if is_multimodal && *role == Role::Head => pattern(module.rsplit('.').next().unwrap_or(module)),
            None => module.to_owned(),
        };
        if ignored.last() != Some(&entry) {
            ignored.push(entry);
        }
    }
    ignored
}

/// Whether a quantized model is as good as an original: 8 bits lose next to nothing.
#[must_use]
pub fn is_master(model: &Model) -> bool {
    model.container().is_some()
        && model.weights().iter().all(|weight| match &weight.storage {
            Storage::Packed(packed) => packed.scheme().bits() == 8,
            Storage::Plain(_) | Storage::Ggml(_) => true,
        })
}

fn is_quantized(storage: &Storage) -> bool {
    match storage {
        Storage::Packed(_) => true,
        Storage::Ggml(blocks) => blocks.plain_dtype().is_none(),
        Storage::Plain(_) => false,
    }
}

fn decide(
    weight: &Weight,
    (role, tower): (Role, Option<&str>),
    options: &PlanOptions,
) -> Result<(Action, String), PlanError> {
    let unquantized = unquantized_action(weight, options.dtype);
    match (options.quantized, &weight.storage) {
        (Quantized::Refuse, _) => {}
        (Quantized::Repack, Storage::Packed(packed)) => {
            return Ok((repack(weight, packed, options.container)?, String::new()));
        }
        (Quantized::Requantize, storage) if is_quantized(storage) => {}
        (Quantized::Repack | Quantized::Requantize, _) => return Ok((unquantized, String::new())),
    }
    let (named, why) = match named::named(weight, role, options)? {
        Named::Keep(reason) => return Ok((unquantized, reason)),
        Named::Store(scheme, why) => (Some(scheme), why),
        Named::Nothing => (None, String::new()),
    };
    let scheme = match (named, role.kept_because(), options.scheme) {
        (None, Some(reason), _) => return Ok((unquantized, reason.to_owned())),
        (None, None, None) => return Ok((unquantized, String::new())),
        (None, None, Some(_)) if tower.is_some() => return Ok((unquantized, "not the language model".to_owned())),
        (Some(scheme), _, _) | (None, None, Some(scheme)) => scheme,
    };
    if weight.n_elements() == 0 {
        return Ok((unquantized, "empty".to_owned()));
    }
    if weight.columns() < compressed_tensors::COLUMNS_MIN {
        let why = format!("fewer than {} input channels", compressed_tensors::COLUMNS_MIN);
        return match named {
            None => Ok((unquantized, why)),
            Some(scheme) => {
                let (tensor, scheme) = (weight.name.clone(), scheme.to_string());
                Err(PlanError::CannotQuantize { tensor, scheme, why })
            }
        };
    }
    let (fitted, reason) = fit_group(weight, scheme, options.strict)?;
    let reason = [why, reason].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ");
    // Loaders compute in the dtype of the model, so only scales of that dtype mean the same to all of them.
    let scale_dtype = options.scale_dtype.unwrap_or(match options.dtype.or(weight.dtype()) {
        Some(Dtype::F16) => Dtype::F16,
        Some(Dtype::F32 | Dtype::F64) => Dtype::F32,
        _ => Dtype::Bf16,
    });
    if let Some(why) = options.container.scheme_limit(fitted, scale_dtype) {
        return Err(container_limit(options.container, fitted, why));
    }
    if let Some(why) = options.container.layout().shape_limit(weight.rows(), weight.columns(), fitted.bits()) {
        return if named.is_some() || options.strict {
            let (tensor, scheme) = (weight.name.clone(), fitted.to_string());
            Err(PlanError::CannotQuantize { tensor, scheme, why })
        } else {
            Ok((unquantized, why))
        };
    }
    Ok((Action::Quantize { scheme: fitted, scale_dtype }, reason))
}

/// A scheme that a container cannot hold, and what can be done.
fn container_limit(container: Container, scheme: Scheme, why: String) -> PlanError {
    let hint = if scheme.is_affine() {
        format!("{} goes into {container}", container.default_scheme())
    } else {
        "the toolkit's own layout holds every scheme (`--to reweight`); `convert` then takes it further where that is exact"
            .to_owned()
    };
    PlanError::ContainerLimit { container: container.name(), scheme: scheme.to_string(), why, hint }
}

/// Codes as they are in another container, or why they cannot be.
fn repack(weight: &Weight, packed: &PackedTensor, container: Container) -> Result<Action, PlanError> {
    let layout = container.layout();
    // An asymmetric container says a symmetric zero too.
    let refuse = |why| PlanError::CannotRepack { tensor: weight.name.clone(), container: container.name(), why };
    let stored = packed.scheme();
    let scheme = match container {
        Container::Reweight => stored,
        _ => stored.as_affine().ok_or_else(|| refuse(format!("the levels of {stored} are no integers in steps")))?,
    };
    let scheme = if container == Container::Awq { scheme.asymmetric() } else { scheme };
    let scale_dtype = layout.float_dtype().unwrap_or(packed.scale_dtype());
    let why = if packed.is_reordered() {
        Some("its columns are grouped in another order than their own".to_owned())
    } else {
        let shape = || layout.shape_limit(weight.rows(), weight.columns(), scheme.bits());
        layout.scheme_limit(scheme, scale_dtype).or_else(shape)
    };
    match why {
        Some(why) => Err(refuse(why)),
        None => Ok(Action::Repack { scheme, scale_dtype }),
    }
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

fn outputs(weight: &Weight, action: Action, container: Container) -> Vec<NewTensor> {
    let plain = |dtype| vec![NewTensor { name: weight.name.clone(), dtype, shape: weight.shape.clone() }];
    match action {
        Action::Cast(dtype) => plain(dtype),
        Action::Quantize { scheme, scale_dtype } | Action::Repack { scheme, scale_dtype } => {
            let matrix = Matrix { rows: weight.rows(), columns: weight.columns(), scheme };
            container.layout().outputs(&weight.name, matrix, scale_dtype)
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
