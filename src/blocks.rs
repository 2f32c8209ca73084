//! Quantizing block by block while text goes through the model: each block's statistics are gathered, its channels scaled, its
//! weights rounded and written, and what it then gives goes into the next one.
//!
//! Only one block's statistics are in memory at a time. With [`Propagate::Quantized`] every block is calibrated on what the
//! blocks before it really give once they are quantized, so that it makes good part of their errors.

use reweight_quant::awq::{Chosen, Form, Mapping, Objective, Search};
use reweight_quant::error::Error as QuantError;
use reweight_quant::plan::{Action, Method, Plan};
use reweight_quant::stats::{Collector, Provenance, Statistics};
use reweight_quant::store::{Model, Scaling};
use reweight_quant::stream::{Outcome, Writer};
use reweight_quant::tensor::Dtype;

use crate::awq::fold_checked;
use crate::awq_paper::Published;
use crate::calibrate::{Sample, Watch};
use crate::model::{HiddenStates, MEMORY_BUDGET, ModelError, Network, Nobody, Run};

/// What goes into a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagate {
    /// What the quantized blocks before it give.
    Quantized,
    /// What the blocks before it gave before they were quantized.
    Original,
}

impl Propagate {
    /// How often each token passes a block.
    #[must_use]
    pub const fn passes(self) -> usize {
        match self {
            Self::Quantized => 2,
            Self::Original => 1,
        }
    }
}

/// Everything a run goes by.
pub struct Blocks<'a> {
    /// Unscaled.
    pub model: &'a Model,
    /// Of the same model.
    pub network: &'a Network<'a>,
    /// Says how each tensor will be stored.
    pub plan: &'a Plan,
    /// The text.
    pub sample: &'a Sample,
    /// What goes into each block.
    pub propagate: Propagate,
    /// What scales are searched by.
    pub objective: Objective,
    /// The forms of factors that are tried.
    pub forms: &'a [Form],
    /// The type that norms will be stored in; `None` for their own.
    pub dtype: Option<Dtype>,
    /// Stop, and the tokens that passed each block; what it observes is left out.
    pub run: Run<'a>,
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlocksError {
    /// A block could not be run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A tensor could not be quantized or written.
    #[error(transparent)]
    Quant(#[from] QuantError),
}

impl Blocks<'_> {
    /// Quantizes everything and lets the target appear; returns also every mapping and what came of it.
    ///
    /// Cost: a forward pass that gathers statistics, and with [`Propagate::Quantized`] a second one; the scale search and
    /// rounding of each layer. Memory for one block in f32, its statistics, and the hidden states up to
    /// [`MEMORY_BUDGET`].
    ///
    /// # Errors
    /// `BlocksError`; finished tensors then wait for a run with `resume`.
    pub fn quantize(&self, mut writer: Writer<'_>) -> Result<(Outcome, Vec<(Mapping, Chosen)>), BlocksError> {
        let windows: Vec<&[u32]> = self.sample.windows.iter().map(Vec::as_slice).collect();
        let mut hidden = self.network.embed(&windows, None)?;
        let mut rest: Vec<usize> = (0..self.plan.tensors.len()).collect();
        let (mut mappings, mut scalings) = (Vec::new(), Vec::new());
        for index in 0..self.network.n_blocks() {
            let prefix = self.network.block_prefix(index);
            let own: Vec<usize>;
            (own, rest) = rest.into_iter().partition(|at| self.plan.tensors[*at].name.starts_with(&prefix));
            let (model, found) = match self.block(index, &own, &mut hidden, &mut writer) {
                Err(BlocksError::Model(ModelError::Interrupted)) => return Err(writer.interrupted().into()),
                result => result?,
            };
            for at in own {
                let weight = &model.weights()[at];
                scalings.extend(weight.scaling.as_ref().map(|scaling| (weight.name.clone(), Scaling::clone(scaling))));
            }
            mappings.extend(found);
        }
        writer.stage(self.model, None, &rest)?;
        let model = self.model.scaled(scalings.iter().map(|(name, scaling)| (name, scaling)));
        Ok((writer.finish(&model)?, mappings))
    }

    /// One block; the hidden states go through it. Returns the model with this block scaled.
    fn block(
        &self,
        index: usize,
        own: &[usize],
        hidden: &mut HiddenStates,
        writer: &mut Writer<'_>,
    ) -> Result<(Model, Vec<(Mapping, Chosen)>), BlocksError> {
        let scales = self.plan.method.scales();
        let mappings = if scales { self.network.block_mappings(index) } else { Vec::new() };
        let note = format!("block {index}");
        let noted = writer.noted::<Vec<Chosen>>(&note).filter(|chosen| chosen.len() == mappings.len());
        let fold = |chosen: &mut Vec<Chosen>| fold_checked(self.model, self.network, &mappings, chosen, self.dtype);
        // What an earlier run decided and finished is not decided again.
        let (known, finished) = match noted {
            Some(mut chosen) => {
                let model = fold(&mut chosen)?;
                let finished = writer.take_over(&model, own)?;
                (Some((model, chosen)), finished)
            }
            None => (None, false),
        };
        let statistics = if finished { None } else { Some(self.observe(index, hidden)?) };
        let (model, chosen) = match (known, &statistics) {
            (Some(known), _) => known,
            (None, Some(statistics)) => {
                let mut chosen = self.search(index, statistics, hidden, &mappings)?;
                let model = fold(&mut chosen)?;
                writer.note(&note, &chosen)?;
                (model, chosen)
            }
            (None, None) => unreachable!("what is finished is known"),
        };
        if !finished {
            writer.stage(&model, statistics.as_ref(), own)?;
        }
        drop(statistics);
        let run = Run { observe: &Nobody, ..self.run };
        match self.propagate {
            Propagate::Quantized => {
                let written = self.model.with_weights(writer.written(own)?);
                Network::open(&written, self.network.kernels())?.run_block(index, hidden, &run)?;
            }
            Propagate::Original if finished || self.keeps_inputs() => self.network.run_block(index, hidden, &run)?,
            Propagate::Original => {}
        }
        Ok((model, mappings.into_iter().zip(chosen).collect()))
    }

    /// The factors of one block's mappings.
    fn search(
        &self,
        index: usize,
        statistics: &Statistics,
        hidden: &HiddenStates,
        mappings: &[Mapping],
    ) -> Result<Vec<Chosen>, ModelError> {
        let (model, plan, kernels) = (self.model, self.plan, self.network.kernels());
        if plan.method == Method::AwqPaper {
            let published = Published { model, network: self.network, plan, statistics, index, hidden };
            return mappings.iter().map(|mapping| published.one(mapping)).collect();
        }
        let (objective, forms) = (self.objective, self.forms);
        Ok(Search { model, plan, statistics, objective, forms, kernels }.run(mappings, &|_| {}))
    }

    /// Whether it takes how channels go together.
    fn with_gram(&self) -> bool {
        self.plan.method.correlates() || (self.plan.method.scales() && self.objective == Objective::Gram)
    }

    /// Whether what goes into a block is still needed when its statistics are known.
    fn keeps_inputs(&self) -> bool {
        self.propagate == Propagate::Quantized || self.plan.method == Method::AwqPaper
    }

    /// Statistics of one block's layers. What the original gives goes on to the next block, where that is asked for.
    fn observe(&self, index: usize, hidden: &mut HiddenStates) -> Result<Statistics, ModelError> {
        let collector = Collector::new(self.network.kernels(), self.with_gram());
        let only_inputs = self.keeps_inputs();
        let run = Run { observe: &Watch { collector: &collector, only_inputs }, ..self.run };
        if only_inputs {
            self.network.observe_block(index, hidden, &run)?;
        } else {
            self.network.run_block(index, hidden, &run)?;
        }
        Ok(collector.finish(Provenance::default()))
    }

    /// Anonymous memory, in bytes, that this takes beside what the plan states: about, and rather too much.
    #[must_use]
    pub fn bytes_needed(&self) -> usize {
        let (width, threads) = (self.network.width(), rayon::current_num_threads());
        let hidden = (self.sample.n_tokens() * width * size_of::<f32>()).min(MEMORY_BUDGET);
        let longest = self.sample.windows.iter().map(Vec::len).max().unwrap_or(0);
        let block = |index: usize| {
            let prefix = self.network.block_prefix(index);
            let own = self.model.weights().iter().zip(&self.plan.tensors).filter(|(w, _)| w.name.starts_with(&prefix));
            let (mut weights, mut gram, mut widest) = (0, 0, width);
            for (weight, tensor) in own {
                weights += weight.n_elements() * size_of::<f32>();
                widest = widest.max(weight.rows()).max(weight.columns());
                if matches!(tensor.action, Action::Quantize { .. }) && self.with_gram() {
                    gram += weight.columns() * (weight.columns() + 1) / 2 * size_of::<i64>();
                }
            }
            // A window goes through with a few rows of each width, its heads' scores, and what its statistics take.
            let window = longest * (8 * width + 3 * widest + longest) * size_of::<f32>();
            let parts = if gram > 0 { 2 * widest * (widest + 1) / 2 * size_of::<i64>() } else { 0 };
            weights + gram + threads * (window + parts)
        };
        hidden + (0..self.network.n_blocks()).map(block).max().unwrap_or(0)
    }
}
