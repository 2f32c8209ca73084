//! Activation-aware scaling of a whole model: every mapping searched, each fold tried on its block before it is used.

use std::collections::BTreeSet;

use rayon::prelude::*;
use reweight_quant::awq::{Chosen, Fold, Mapping, Search, fold};
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
    search: &Search<'_>,
    dtype: Option<Dtype>,
    done: &(dyn Fn(&Mapping) + Sync),
) -> Result<Scaled, ModelError> {
    let network = Network::open(search.model, search.kernels)?;
    let mappings = network.mappings();
    let mut chosen = search.run(&mappings, done);
    let model = fold_checked(search.model, &network, &mappings, &mut chosen, dtype)?;
    Ok(Scaled { model, mappings: mappings.into_iter().zip(chosen).collect() })
}

/// Folds what was chosen for some mappings into a model. A fold that changes its block is left out, and said to be refused.
///
/// # Errors
/// `ModelError` where a block cannot be run.
pub fn fold_checked(
    model: &Model,
    network: &Network<'_>,
    mappings: &[Mapping],
    chosen: &mut [Chosen],
    dtype: Option<Dtype>,
) -> Result<Model, ModelError> {
    let kernels = network.kernels();
    let mut folds: Vec<Option<Fold>> = mappings
        .par_iter()
        .zip(&mut *chosen)
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
    let mut scaled = model.scaled(folds.iter().flatten().flatten());
    let failed = failures(model, network, &scaled, mappings, &folds)?;
    if !failed.is_empty() {
        for (index, difference) in failed {
            folds[index] = None;
            chosen[index] = Chosen::refused(format!("the block would change by {difference:.1e}"));
        }
        scaled = model.scaled(folds.iter().flatten().flatten());
    }
    Ok(scaled)
}

/// The folds of blocks that would change, and by how much: where one alone does not, all of its block, as not a number.
fn failures(
    model: &Model,
    network: &Network<'_>,
    scaled: &Model,
    mappings: &[Mapping],
    folds: &[Option<Fold>],
) -> Result<Vec<(usize, f64)>, ModelError> {
    let folded = Network::open(scaled, network.kernels())?;
    let blocks: BTreeSet<usize> = mappings.iter().map(|mapping| mapping.block).collect();
    let failed: Result<Vec<Vec<(usize, f64)>>, ModelError> = blocks
        .into_par_iter()
        .map(|block| {
            let own: Vec<(usize, &Fold)> = (folds.iter().enumerate())
                .filter(|(index, _)| mappings[*index].block == block)
                .filter_map(|(index, fold)| Some((index, fold.as_ref()?)))
                .collect();
            let mut failed = Vec::new();
            if own.is_empty() || holds(network.block_difference(&folded, block)?) {
                return Ok(failed);
            }
            for (index, fold) in &own {
                let alone = model.scaled(*fold);
                let difference = network.block_difference(&Network::open(&alone, network.kernels())?, block)?;
                if !holds(difference) {
                    failed.push((*index, difference));
                }
            }
            if failed.is_empty() {
                failed.extend(own.iter().map(|(index, _)| (*index, f64::NAN)));
            }
            Ok(failed)
        })
        .collect();
    Ok(failed?.concat())
}

/// Not a number does not hold.
fn holds(difference: f64) -> bool {
    difference <= TOLERANCE
}
