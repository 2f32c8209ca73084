//! Activation-aware scaling of a whole model: every mapping searched, each fold tried on its block before it is used.

use std::collections::BTreeMap;

use rayon::prelude::*;
use reweight_quant::awq::{Chosen, Fold, Mapping, Search, fold};
use reweight_quant::kernels::Kernels;
use reweight_quant::plan::Plan;
use reweight_quant::stats::Statistics;
use reweight_quant::store::Model;
use reweight_quant::tensor::Dtype;

use crate::model::{ModelError, Network};

/// How far the output of a block in f32 may be from what it was, relative to what the block adds.
pub const TOLERANCE: f64 = 1e-5;

/// A model whose channels are scaled, and what was done.
pub struct Scaled {
    /// Computes what the original computes.
    pub model: Model,
    /// Every mapping and what came of it.
    pub mappings: Vec<(Mapping, Chosen)>,
}

/// Searches and folds. `dtype` is the type that norms will be stored in; `None` for their own.
///
/// Cost: as [`Search::run`], then every block with a fold is laid out twice and run on a few rows.
///
/// # Errors
/// `ModelError` where the architecture is not known or a tensor does not fit it.
pub fn scale(
    model: &Model,
    plan: &Plan,
    statistics: &Statistics,
    kernels: &'static Kernels,
    dtype: Option<Dtype>,
    done: &(dyn Fn(&Mapping) + Sync),
) -> Result<Scaled, ModelError> {
    let network = Network::open(model, kernels)?;
    let mappings = network.mappings();
    let mut chosen = Search { model, plan, statistics, kernels }.run(&mappings, done);
    let mut folds: Vec<Option<Fold>> = mappings
        .par_iter()
        .zip(&mut chosen)
        .map(|(mapping, chosen)| {
            if chosen.scales.is_empty() {
                return None;
            }
            let folded = fold(model, kernels, mapping, &chosen.scales, dtype);
            if folded.is_none() {
                *chosen = Chosen::refused("its weights do not fit together".to_owned());
            }
            folded
        })
        .collect();
    let try_folds = |block: usize, folds: &[&Fold]| -> Result<f64, ModelError> {
        let scaled = merged(model, folds.iter().copied());
        network.block_difference(&Network::open(&scaled, kernels)?, block)
    };
    for block in 0..network.n_blocks() {
        let own: Vec<usize> =
            (0..mappings.len()).filter(|index| mappings[*index].block == block && folds[*index].is_some()).collect();
        let all: Vec<&Fold> = own.iter().filter_map(|index| folds[*index].as_ref()).collect();
        if all.is_empty() || holds(try_folds(block, &all)?) {
            continue;
        }
        let mut failed = Vec::new();
        for index in &own {
            let alone = folds[*index].as_ref().map_or(Ok(0.0), |fold| try_folds(block, &[fold]))?;
            if !holds(alone) {
                failed.push((*index, alone));
            }
        }
        if failed.is_empty() {
            failed = own.iter().map(|index| (*index, f64::NAN)).collect();
        }
        for (index, difference) in failed {
            folds[index] = None;
            chosen[index] = Chosen::refused(format!("the block would change by {difference:.1e}"));
        }
    }
    let scaled = merged(model, folds.iter().flatten());
    Ok(Scaled { model: scaled, mappings: mappings.into_iter().zip(chosen).collect() })
}

/// Not a number does not hold.
fn holds(difference: f64) -> bool {
    difference <= TOLERANCE
}

/// A model with every fold of some mappings.
fn merged<'a>(model: &Model, folds: impl Iterator<Item = &'a Fold>) -> Model {
    let mut all = BTreeMap::new();
    for (name, scaling) in folds.flatten() {
        all.entry(name.clone())
            .and_modify(|old: &mut reweight_quant::store::Scaling| *old = old.then(scaling))
            .or_insert_with(|| scaling.clone());
    }
    model.scaled(&all)
}
