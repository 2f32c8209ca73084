//! Tensors that must agree on a scheme: all of a container that states but one, and those that engines compute as one layer.

use super::{Action, Decision, PlanOptions, Quantized, unquantized_action};
use crate::error::PlanError;
use crate::fused::{FusedSet, fused_sets};
use crate::scheme::{Group, Scheme};
use crate::store::Weight;

/// A layer of an engine whose parts are stored in unlike ways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlike {
    /// The engine's name of the layer.
    pub layer: String,
    /// The first part that is stored in each of the ways, and the way: `int4-g64`, `BF16`.
    pub parts: Vec<(String, String)>,
}

/// Brings all tensors to one scheme, where the container states but one: the smallest group that any of them needs.
pub(super) fn one_scheme(decisions: &mut [Decision<'_>], options: &PlanOptions) -> Result<(), PlanError> {
    let container = options.container.name();
    let schemes: Vec<Scheme> = decisions.iter().filter_map(|decision| decision.action.scheme()).collect();
    let Some(&first) = schemes.first() else { return Ok(()) };
    if schemes.iter().all(|scheme| *scheme == first) {
        return Ok(());
    }
    let mut asked = options.overrides.iter().map(|(_, scheme)| *scheme);
    let limit = |scheme: Scheme| {
        let (scheme, hint) = (scheme.to_string(), "compressed-tensors holds several".to_owned());
        PlanError::ContainerLimit {
            container,
            scheme,
            why: format!("it states one scheme for all, here {first}"),
            hint,
        }
    };
    let odd = schemes.iter().copied().find(|scheme| scheme.with_group(first.group()) != first);
    if let Some(other) = odd.or_else(|| asked.find(|scheme| Some(*scheme) != options.scheme)) {
        return Err(limit(other));
    }
    if let Some(other) = schemes.iter().find(|scheme| **scheme != first)
        && (options.strict || options.quantized == Quantized::Repack)
    {
        return Err(limit(*other));
    }
    let sizes = schemes.iter().filter_map(|scheme| match scheme.group() {
        Group::Size(size) => Some(size),
        Group::Channel => None,
    });
    let Some(smallest) = sizes.min() else { return Ok(()) };
    for decision in decisions {
        let Action::Quantize { scheme, scale_dtype } = decision.action else { continue };
        if scheme.group() == Group::Channel {
            decision.action = unquantized_action(decision.weight, options.dtype);
            decision.reason = format!("{container} states one group for all, and {smallest} does not divide it");
        } else if scheme.group() != Group::Size(smallest) {
            decision.action = Action::Quantize { scheme: scheme.with_group(Group::Size(smallest)), scale_dtype };
            decision.reason = format!("{container} states one group for all");
        }
    }
    Ok(())
}

/// Brings the parts of each fused layer together, unless some are named by `--tensor` or `--keep`, or all by a recipe: they get the smallest group that any of
/// them needs, and where one cannot be quantized, none is. Gives the layers whose parts stay unlike.
pub(super) fn fused(decisions: &mut [Decision<'_>], options: &PlanOptions) -> Vec<Unlike> {
    let name = |decision: &Decision<'_>| decision.weight.name.clone();
    // What is no linear layer has a name that is in no set.
    let names: Vec<String> =
        decisions.iter().map(|d| if d.role.is_linear_module() { name(d) } else { String::new() }).collect();
    let mut unlike = Vec::new();
    for FusedSet { layer, parts } in fused_sets(names.iter().map(String::as_str)) {
        if ways(decisions, &parts).len() > 1 {
            // What a recipe does not name is to stay as it is, so a recipe names all.
            let is_asked =
                options.recipe.is_some() || parts.iter().any(|&part| is_asked(decisions[part].weight, options));
            if !is_asked && options.quantized == Quantized::Refuse {
                bring_together(decisions, &layer, &parts, options);
            }
            let parts = ways(decisions, &parts);
            if parts.len() > 1 {
                unlike.push(Unlike { layer, parts });
            }
        }
    }
    unlike
}

/// The first part of each scheme that some are stored by; what is not quantized has one in common, none.
fn ways(decisions: &[Decision<'_>], parts: &[usize]) -> Vec<(String, String)> {
    let mut known = Vec::new();
    let mut ways = Vec::new();
    for Decision { weight, action, .. } in parts.iter().map(|&part| &decisions[part]) {
        if !known.contains(&action.scheme()) {
            known.push(action.scheme());
            ways.push((weight.name.clone(), action.becomes(&weight.stored_as())));
        }
    }
    ways
}

fn is_asked(weight: &Weight, options: &PlanOptions) -> bool {
    let mut patterns = options.keep.iter().chain(options.overrides.iter().map(|(pattern, _)| pattern));
    patterns.any(|pattern| pattern.matches(&weight.name))
}

fn bring_together(decisions: &mut [Decision<'_>], layer: &str, parts: &[usize], options: &PlanOptions) {
    let kept = parts.iter().find(|&&part| !decisions[part].action.makes_codes());
    if let Some(&kept) = kept {
        let why = format!("part of {layer}, and {} is kept", decisions[kept].weight.name);
        for &part in parts.iter().filter(|&&part| part != kept) {
            let decision = &mut decisions[part];
            if decision.action.makes_codes() {
                decision.action = unquantized_action(decision.weight, options.dtype);
                decision.reason.clone_from(&why);
            }
        }
        return;
    }
    let groups = parts.iter().filter_map(|&part| decisions[part].action.scheme()).map(Scheme::group);
    let sizes: Option<Vec<_>> = groups
        .map(|group| match group {
            Group::Size(size) => Some(size),
            Group::Channel => None,
        })
        .collect();
    let Some(smallest) = sizes.and_then(|sizes| sizes.into_iter().min()) else { return };
    for &part in parts {
        let Decision { weight, action, reason, .. } = &mut decisions[part];
        if let Action::Quantize { scheme, .. } = action
            && scheme.group() != Group::Size(smallest)
            && weight.columns().is_multiple_of(smallest.get())
        {
            *scheme = scheme.with_group(Group::Size(smallest));
            *reason = format!("the parts of {layer} share a group");
        }
    }
}
