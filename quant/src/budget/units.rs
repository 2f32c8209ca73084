//! What is chosen together, and the ways to store it.

use std::collections::BTreeMap;

use crate::error::PlanError;
use crate::fused::fused_layer;
use crate::plan::{Action, Plan, PlanOptions};
use crate::scheme::Scheme;
use crate::store::Model;
use crate::tensor::Dtype;

/// Tensors that are stored by one scheme.
#[derive(Clone, Debug)]
pub struct Unit {
    /// The tensors.
    pub members: Vec<Member>,
    /// How they can be stored; at least one way.
    pub schemes: Vec<Scheme>,
    /// Bytes of all members by each scheme.
    pub bytes: Vec<usize>,
}

/// One tensor of a unit.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its place among the model's weights.
    pub index: usize,
    /// Element type of its scales.
    pub scale_dtype: Dtype,
    /// What each scheme of the unit becomes where its group does not divide the rows.
    pub fitted: Vec<Scheme>,
}

/// Everything that is quantized, and the bytes of everything else.
#[derive(Clone, Debug)]
pub struct Units {
    /// In the order of their first tensors.
    pub units: Vec<Unit>,
    /// Weights of all units.
    pub n_weights: usize,
    /// Bytes of tensors that are kept as they are.
    pub kept_bytes: usize,
}

impl Units {
    /// Finds what can be quantized, and how: by a plan for each scheme, so that sizes and limits are those of the target. A tensor that the options
    /// name a scheme for has that one way.
    ///
    /// # Errors
    /// `PlanError` as of [`Plan::new`].
    pub fn of(model: &Model, options: &PlanOptions, schemes: &[Scheme]) -> Result<Self, PlanError> {
        let mut plans = Vec::with_capacity(schemes.len());
        for scheme in schemes {
            plans.push(Plan::new(model, &PlanOptions { scheme: Some(*scheme), ..options.clone() })?);
        }
        let Some(first) = plans.first() else { return Err(PlanError::NothingToDo { model: model.path().to_owned() }) };
        let overridden = |name: &str| options.overrides.iter().any(|(pattern, _)| pattern.matches(name));
        let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let (mut order, mut kept_bytes) = (Vec::new(), 0);
        for (index, tensor) in first.tensors.iter().enumerate() {
            if !matches!(tensor.action, Action::Quantize { .. }) {
                kept_bytes += tensor.bytes_out();
                continue;
            }
            let key = if overridden(&tensor.name) { tensor.name.clone() } else { key(&tensor.name) };
            let members = groups.entry(key.clone()).or_default();
            if members.is_empty() {
                order.push(key);
            }
            members.push(index);
        }
        let units = order.iter().filter_map(|key| groups.get(key)).map(|members| unit(members, schemes, &plans));
        let n_weights = groups.values().flatten().map(|index| model.weights()[*index].n_elements()).sum();
        Ok(Self { units: units.collect(), n_weights, kept_bytes })
    }

    /// Bits of a weight on average, where the units take so many bytes.
    #[must_use]
    pub fn bits_per_weight(&self, bytes: usize) -> f64 {
        bytes as f64 * 8.0 / self.n_weights.max(1) as f64
    }

    /// The bytes that so many bits a weight allow.
    #[must_use]
    pub fn budget(&self, bits_per_weight: f64) -> usize {
        (bits_per_weight * self.n_weights as f64 / 8.0).floor() as usize
    }

    /// Bytes of all units at their smallest.
    #[must_use]
    pub fn bytes_min(&self) -> usize {
        self.units.iter().filter_map(|unit| unit.bytes.iter().min()).sum()
    }
}

/// The distinct ways in which plans store some tensors.
fn unit(members: &[usize], schemes: &[Scheme], plans: &[Plan]) -> Unit {
    let action = |plan: &Plan, index: usize| match plan.tensors[index].action {
        Action::Quantize { scheme, scale_dtype } => Some((scheme, scale_dtype)),
        _ => None,
    };
    let mut unit = Unit { members: Vec::new(), schemes: Vec::new(), bytes: Vec::new() };
    unit.members.extend(members.iter().map(|index| Member {
        index: *index,
        scale_dtype: action(&plans[0], *index).map_or(Dtype::Bf16, |(_, dtype)| dtype),
        fitted: Vec::new(),
    }));
    let mut seen: Vec<Vec<Scheme>> = Vec::new();
    for (scheme, plan) in schemes.iter().zip(plans) {
        let fitted: Option<Vec<Scheme>> = members.iter().map(|index| Some(action(plan, *index)?.0)).collect();
        let Some(fitted) = fitted.filter(|fitted| !seen.contains(fitted)) else { continue };
        unit.schemes.push(*scheme);
        unit.bytes.push(members.iter().map(|index| plan.tensors[*index].bytes_out()).sum());
        for (member, fitted) in unit.members.iter_mut().zip(&fitted) {
            member.fitted.push(*fitted);
        }
        seen.push(fitted);
    }
    unit
}

/// Tensors that engines compute as one layer have one key.
fn key(name: &str) -> String {
    fused_layer(name).unwrap_or_else(|| name.to_owned())
}
