//! Which layers a signature takes, counted as modules: weight and bias are one.

use std::convert::Infallible;
use std::str::FromStr;

use reweight_quant::pattern::Pattern;
use reweight_quant::store::Model;

use crate::PatchError;

/// A choice of layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layers {
    /// Every module.
    All,
    /// The first so many modules with a matrix or filters, heads last.
    First(usize),
    /// Tensors whose name matches a glob.
    Matching(String),
}

impl FromStr for Layers {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.strip_prefix("first:").map(str::parse) {
            Some(Ok(count)) => Self::First(count),
            _ if text == "all" => Self::All,
            _ => Self::Matching(text.to_owned()),
        })
    }
}

impl std::fmt::Display for Layers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::First(count) => write!(f, "first:{count}"),
            Self::Matching(pattern) => f.write_str(pattern),
        }
    }
}

/// Names under which classifiers and other heads stand at the top of a model. Names alone would put `classifier` before
/// `features`.
const HEADS: [&str; 10] = [
    "classifier",
    "fc",
    "head",
    "heads",
    "lm_head",
    "score",
    "cls_head",
    "qa_outputs",
    "classification_head",
    "output_layer",
];

/// The module of a tensor: its name without the last part.
#[must_use]
pub fn module(tensor: &str) -> &str {
    tensor.rsplit_once('.').map_or(tensor, |(module, _)| module)
}

/// Modules that have a matrix or filters, in natural order of names, heads last: shallow ones first.
#[must_use]
pub fn modules(model: &Model) -> Vec<&str> {
    let with_matrix = model.weights().iter().filter(|weight| weight.shape.len() >= 2 && weight.is_float());
    let mut modules: Vec<&str> = Vec::new();
    for weight in with_matrix {
        let module = module(&weight.name);
        if !modules.contains(&module) {
            modules.push(module);
        }
    }
    // A stable sort: only heads move.
    modules.sort_by_key(|module| HEADS.contains(&module.split('.').next().unwrap_or(module)));
    modules
}

/// How a signature treats a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// The change is added.
    Add,
    /// The tensor is replaced: batch-norm modules and shortcuts, whose statistics belong to the other weights.
    Replace,
    /// It stays.
    Keep,
}

/// What becomes of every weight of a model, in its order.
///
/// As in the authors' code (VITA-Group/Robust_Weight_Signatures, `model_patching.py`), batch-norm modules and shortcuts are replaced
/// in the whole network, not only in the chosen layers; a pattern takes what it matches and nothing else.
///
/// # Errors
/// `PlanError::Pattern` and `PlanError::MatchesNothing`.
pub fn treatments(model: &Model, layers: &Layers) -> Result<Vec<Treatment>, PatchError> {
    let pattern = match layers {
        Layers::Matching(text) => {
            let pattern = Pattern::new(text)?;
            pattern.check(model)?;
            Some(pattern)
        }
        _ => None,
    };
    let chosen: Vec<&str> = match layers {
        Layers::First(count) => modules(model).into_iter().take(*count).collect(),
        _ => Vec::new(),
    };
    let treatment = |name: &str| {
        let chosen = match (layers, &pattern) {
            (_, Some(pattern)) => pattern.matches(name),
            (Layers::First(_), _) => chosen.contains(&module(name)),
            _ => true,
        };
        match (chosen, is_replaced(model, name)) {
            (true, true) => Treatment::Replace,
            (false, true) if pattern.is_none() => Treatment::Replace,
            (true, false) => Treatment::Add,
            _ => Treatment::Keep,
        }
    };
    Ok(model.weights().iter().map(|weight| treatment(&weight.name)).collect())
}

fn is_replaced(model: &Model, name: &str) -> bool {
    let is_shortcut = name.split('.').any(|part| part == "downsample" || part == "shortcut");
    is_shortcut || model.position(&format!("{}.running_mean", module(name))).is_some()
}
