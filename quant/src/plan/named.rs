//! What the options say of one tensor by its name: to keep it, or a scheme.

use super::PlanOptions;
use crate::error::PlanError;
use crate::roles::Role;
use crate::scheme::Scheme;
use crate::stats::Key;
use crate::store::{Model, Weight};

/// What is said of a tensor.
pub(super) enum Named {
    /// It stays as it is, for a reason.
    Keep(String),
    /// It is stored so.
    Store(Scheme, String),
    /// Nothing.
    Nothing,
}

/// Requires that names and patterns mean something in this model.
pub(super) fn check(model: &Model, options: &PlanOptions) -> Result<(), PlanError> {
    for pattern in options.keep.iter().chain(options.overrides.iter().map(|(pattern, _)| pattern)) {
        pattern.check(model)?;
    }
    let mut names = options.recipe.iter().flat_map(|recipe| recipe.tensors.keys());
    match names.find(|name| model.weight(&name.0).is_none()) {
        Some(name) => Err(PlanError::NotOfThisModel { tensor: name.0.clone(), model: model.path().to_owned() }),
        None => Ok(()),
    }
}

/// `--keep` goes before `--tensor`, of which the last that matches counts, and that before the recipe.
pub(super) fn named(weight: &Weight, role: Role, options: &PlanOptions) -> Result<Named, PlanError> {
    if let Some(pattern) = options.keep.iter().find(|pattern| pattern.matches(&weight.name)) {
        return Ok(Named::Keep(format!("--keep {}", pattern.text())));
    }
    let asked = options.overrides.iter().rev().find(|(pattern, _)| pattern.matches(&weight.name));
    let by_recipe = options.recipe.as_ref().map(|recipe| recipe.tensors.get(&Key(weight.name.clone())).copied());
    let (scheme, why) = match (asked, by_recipe) {
        (Some((pattern, scheme)), _) => (*scheme, format!("--tensor {}", pattern.text())),
        (None, Some(Some(scheme))) => (scheme, String::new()),
        (None, Some(None)) => {
            return Ok(Named::Keep(role.kept_because().unwrap_or("not in the recipe").to_owned()));
        }
        (None, None) => return Ok(Named::Nothing),
    };
    let matrix = weight.shape.len() == 2 && weight.is_float() && weight.name.ends_with(".weight");
    if matrix && role.is_linear_module() {
        return Ok(Named::Store(scheme, why));
    }
    let why = role.kept_because().unwrap_or("not a matrix").to_owned();
    Err(PlanError::CannotQuantize { tensor: weight.name.clone(), scheme: scheme.to_string(), why })
}
