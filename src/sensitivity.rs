//! How much a model's predictions mind the errors of each tensor, told from a few windows of text with one block, or one kind of
//! layer, quantized at a time.
//!
//! The divergence that quantizing a part causes is set against the errors of its tensors. Those of a block and a kind are taken to multiply, so that the
//! 30 blocks and 4 kinds of a small Llama take 34 runs in place of 120: factors of blocks and of kinds are fitted to what
//! was measured by iterative proportional fitting (Deming and Stephan 1940).

use std::sync::atomic::AtomicBool;

use rayon::prelude::*;
use reweight_quant::budget::{Measure, Member, Unit, Units, rounded};
use reweight_quant::stats::Statistics;
use reweight_quant::store::{Model, Weight};

use crate::eval::{Score, compare};
use crate::model::{HiddenStates, ModelError, Network, Nobody, Run};

/// Rounds of fitting; they converge to a relative change far below what the measurements are good for.
const FITTING_ROUNDS: usize = 50;

/// A model and the windows on which parts of it are tried.
pub struct Probe<'a> {
    model: &'a Model,
    network: &'a Network<'a>,
    windows: Vec<&'a [u32]>,
    statistics: Option<&'a Statistics>,
    stop: &'a AtomicBool,
    progress: &'a (dyn Fn(&str, u64) + Sync),
    /// What the output layer gets from the unquantized model.
    reference: HiddenStates,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Sensitivity {
    /// Of each unit, the divergence that an error equal to its outputs would cause, in nats a token, if it went on growing as it begins.
    pub factors: Vec<f64>,
    /// Name and divergence of each block and each kind that was quantized alone.
    pub probes: Vec<(String, f64)>,
}

/// Where a unit is.
struct Place {
    block: usize,
    kind: usize,
}

impl<'a> Probe<'a> {
    /// Runs the unquantized model.
    ///
    /// # Errors
    /// `ModelError`; a model that predicts no tokens is one.
    pub fn new(
        model: &'a Model,
        network: &'a Network<'a>,
        windows: &'a [Vec<u32>],
        statistics: Option<&'a Statistics>,
        stop: &'a AtomicBool,
        progress: &'a (dyn Fn(&str, u64) + Sync),
    ) -> Result<Self, ModelError> {
        network.head()?;
        let windows: Vec<&[u32]> = windows.iter().map(Vec::as_slice).filter(|window| window.len() > 1).collect();
        let reference = network.hidden_states(&windows, &Run { stop, progress, observe: &Nobody })?;
        Ok(Self { model, network, windows, statistics, stop, progress, reference })
    }

    /// How often each token passes a block in [`Probe::new`], [`Probe::sensitivity`] and one [`Probe::score`].
    #[must_use]
    pub fn passes(model: &Model, network: &Network<'_>, units: &Units) -> usize {
        let (n, n_kinds) = (network.n_blocks(), places(model, network, units).1.len());
        n * (n + 3) / 2 + n * (n_kinds + 2)
    }

    /// The score of a model whose units are quantized by these choices, beside the unquantized one.
    ///
    /// # Errors
    /// `ModelError`.
    pub fn score(&self, units: &Units, chosen: &[usize]) -> Result<Score, ModelError> {
        let every: Vec<usize> = (0..units.units.len()).collect();
        self.quantized(self.network.embed(&self.windows, None)?, 0, &|block| self.weights(units, chosen, &every, block))
    }

    /// Quantizes each block and each kind alone, by the choices given, and fits factors of units to the divergences.
    ///
    /// # Errors
    /// `ModelError`.
    pub fn sensitivity(
        &self,
        units: &Units,
        measures: &[Vec<Measure>],
        chosen: &[usize],
    ) -> Result<Sensitivity, ModelError> {
        let (places, kinds) = places(self.model, self.network, units);
        let errors: Vec<f64> = measures.iter().zip(chosen).map(|(unit, choice)| error_of(unit, *choice)).collect();
        let mut probes = Vec::new();
        let blocks = self.blocks(units, chosen, &mut probes)?;
        let mut of_kinds = Vec::with_capacity(kinds.len());
        for (index, kind) in kinds.iter().enumerate() {
            let of_kind = |unit: &usize| places[*unit].as_ref().is_some_and(|place| place.kind == index);
            let own: Vec<usize> = (0..units.units.len()).filter(of_kind).collect();
            let hidden = self.network.embed(&self.windows, None)?;
            let score = self.quantized(hidden, 0, &|block| self.weights(units, chosen, &own, block))?;
            of_kinds.push(divergence(&score));
            probes.push((kind.clone(), divergence(&score)));
        }
        Ok(Sensitivity { factors: fit(&places, &errors, &blocks, &of_kinds), probes })
    }

    /// The divergence of each block quantized alone. What goes into a block is computed once.
    fn blocks(&self, units: &Units, chosen: &[usize], probes: &mut Vec<(String, f64)>) -> Result<Vec<f64>, ModelError> {
        let every: Vec<usize> = (0..units.units.len()).collect();
        let mut hidden = self.network.embed(&self.windows, None)?;
        let mut divergences = Vec::new();
        for index in 0..self.network.n_blocks() {
            let weights = |block: usize| {
                if block == index { self.weights(units, chosen, &every, block) } else { Vec::new() }
            };
            let score = self.quantized(hidden.copied()?, index, &weights)?;
            divergences.push(divergence(&score));
            probes.push((self.network.block_prefix(index).trim_end_matches('.').to_owned(), divergence(&score)));
            self.network.run_block(index, &mut hidden, &self.run())?;
        }
        Ok(divergences)
    }

    fn run(&self) -> Run<'_> {
        Run { stop: self.stop, progress: self.progress, observe: &Nobody }
    }

    /// Takes states from one block to the end, with weights of each block replaced as it is run, and scores what comes out.
    fn quantized(
        &self,
        mut hidden: HiddenStates,
        first: usize,
        weights: &dyn Fn(usize) -> Vec<Weight>,
    ) -> Result<Score, ModelError> {
        let kernels = self.network.kernels();
        for index in first..self.network.n_blocks() {
            let weights = weights(index);
            if weights.is_empty() {
                self.network.run_block(index, &mut hidden, &self.run())?;
            } else {
                let model = self.model.with_weights(weights);
                Network::open(&model, kernels)?.run_block(index, &mut hidden, &self.run())?;
            }
        }
        self.network.finish(&mut hidden);
        compare(kernels, &self.network.head()?, (&hidden, &self.reference), &self.windows, self.stop)
    }

    /// The quantized weights of one block, of some units.
    fn weights(&self, units: &Units, chosen: &[usize], own: &[usize], block: usize) -> Vec<Weight> {
        let prefix = self.network.block_prefix(block);
        let members = own.iter().flat_map(|unit| units.units[*unit].members.iter().map(move |member| (*unit, member)));
        let members: Vec<(usize, &Member)> =
            members.filter(|(_, member)| self.model.weights()[member.index].name.starts_with(&prefix)).collect();
        let quantize = |(unit, member): &(usize, &Member)| {
            let as_stored = (member.fitted[chosen[*unit]], member.scale_dtype);
            rounded(self.network.kernels(), &self.model.weights()[member.index], as_stored, self.statistics)
        };
        members.par_iter().map(quantize).collect()
    }
}

/// The place of each unit that lies in a block, and the names of the kinds.
fn places(model: &Model, network: &Network<'_>, units: &Units) -> (Vec<Option<Place>>, Vec<String>) {
    let prefixes: Vec<String> = (0..network.n_blocks()).map(|block| network.block_prefix(block)).collect();
    let mut kinds: Vec<String> = Vec::new();
    let mut place = |unit: &Unit| {
        let name = &model.weights()[unit.members.first()?.index].name;
        let (block, rest) =
            prefixes.iter().enumerate().find_map(|(block, prefix)| Some((block, name.strip_prefix(prefix)?)))?;
        let kind = kinds.iter().position(|kind| kind == rest).unwrap_or_else(|| {
            kinds.push(rest.to_owned());
            kinds.len() - 1
        });
        Some(Place { block, kind })
    };
    let places = units.units.iter().map(&mut place).collect();
    (places, kinds)
}

fn divergence(score: &Score) -> f64 {
    score.against.as_ref().map_or(0.0, |against| against.kl_mean.max(0.0))
}

/// The errors of a unit's members by one choice.
fn error_of(unit: &[Measure], choice: usize) -> f64 {
    unit.iter().map(|member| member.errors[choice]).sum()
}

/// Factors of blocks and kinds with which errors add up to what was measured of each; those of kinds are brought to the sum of those of blocks first.
/// A unit outside all blocks gets the mean.
fn fit(places: &[Option<Place>], errors: &[f64], blocks: &[f64], kinds: &[f64]) -> Vec<f64> {
    let total: f64 = blocks.iter().sum();
    let share = total / kinds.iter().sum::<f64>().max(f64::MIN_POSITIVE);
    let (mut of_block, mut of_kind) = (vec![1.0; blocks.len()], vec![1.0; kinds.len()]);
    for _ in 0..FITTING_ROUNDS {
        let mut sums = vec![0.0; blocks.len()];
        for (place, error) in places.iter().zip(errors).filter_map(|(place, error)| Some((place.as_ref()?, error))) {
            sums[place.block] += error * of_kind[place.kind];
        }
        of_block = ratios(blocks, &sums, 1.0);
        let mut sums = vec![0.0; kinds.len()];
        for (place, error) in places.iter().zip(errors).filter_map(|(place, error)| Some((place.as_ref()?, error))) {
            sums[place.kind] += error * of_block[place.block];
        }
        of_kind = ratios(kinds, &sums, share);
    }
    let mean = total / errors.iter().sum::<f64>().max(f64::MIN_POSITIVE);
    let factor =
        |place: &Option<Place>| place.as_ref().map_or(mean, |place| of_block[place.block] * of_kind[place.kind]);
    places.iter().map(factor).collect()
}

fn ratios(measured: &[f64], sums: &[f64], share: f64) -> Vec<f64> {
    measured.iter().zip(sums).map(|(measured, sum)| if *sum > 0.0 { share * measured / sum } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::{Place, fit};

    #[test]
    fn factors_that_multiply_are_found_again() {
        let (blocks, kinds) = ([0.5, 2.0, 3.0], [1.0, 0.1]);
        let places: Vec<Option<Place>> =
            (0..6).map(|unit| Some(Place { block: unit / 2, kind: unit % 2 })).chain([None]).collect();
        let errors = [0.1, 0.2, 0.3, 0.1, 0.5, 0.4, 0.7];
        let loss = |unit: usize| errors[unit] * blocks[unit / 2] * kinds[unit % 2];
        let of_blocks: Vec<f64> = (0..3).map(|block| loss(2 * block) + loss(2 * block + 1)).collect();
        // Divergences of kinds do not add up as those of blocks do: only their shares count.
        let of_kinds: Vec<f64> = (0..2).map(|kind| 1.7 * (loss(kind) + loss(2 + kind) + loss(4 + kind))).collect();
        let factors = fit(&places, &errors, &of_blocks, &of_kinds);
        for unit in 0..6 {
            let expected = blocks[unit / 2] * kinds[unit % 2];
            assert!((factors[unit] / expected - 1.0).abs() < 1e-6, "unit {unit}: {expected}, found {}", factors[unit]);
        }
        let mean = of_blocks.iter().sum::<f64>() / errors.iter().sum::<f64>();
        assert!((factors[6] - mean).abs() < 1e-12);
    }

    #[test]
    fn what_loses_nothing_weighs_nothing() {
        let places = [Some(Place { block: 0, kind: 0 })];
        assert_eq!(fit(&places, &[0.0], &[0.0], &[0.0]), [0.0]);
    }
}
