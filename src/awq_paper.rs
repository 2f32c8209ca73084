//! The scale search of AWQ as published, with the forward passes it takes: see [`reweight_quant::awq::paper`].

use reweight_quant::awq::paper::{N_EXPONENTS, Trial, exponent};
use reweight_quant::awq::{Chosen, Mapping, Previous};
use reweight_quant::plan::Plan;
use reweight_quant::stats::Statistics;
use reweight_quant::store::Model;

use crate::model::{HiddenStates, ModelError, Network, Sublayer};

/// One block that is about to be searched.
pub struct Published<'a> {
    /// Unscaled.
    pub model: &'a Model,
    /// Of the same model.
    pub network: &'a Network<'a>,
    /// Says how each tensor will be stored.
    pub plan: &'a Plan,
    /// Of the inputs of the block's layers, with Gram matrices.
    pub statistics: &'a Statistics,
    /// Which block.
    pub index: usize,
    /// What goes into it.
    pub hidden: &'a HiddenStates,
}

impl Published<'_> {
    /// Searches one mapping. A layer that reads alone is judged by its own outputs; several that read together by what their half of the
    /// block gives.
    ///
    /// Cost: for these, 22 passes of the text through half a block.
    ///
    /// # Errors
    /// `ModelError` where the block cannot be run.
    pub fn one(&self, mapping: &Mapping) -> Result<Chosen, ModelError> {
        let kernels = self.network.kernels();
        let trial = match Trial::new((self.model, self.plan), self.statistics, mapping, kernels) {
            Ok(trial) => trial,
            Err(why) => return Ok(Chosen::refused(why)),
        };
        let errors = match (mapping.consumers.as_slice(), &mapping.previous) {
            ([_], _) => trial.errors_alone(),
            (_, Previous::Norm { weight, .. }) => match self.network.sublayer_after(self.index, weight) {
                Some(sublayer) => Some(self.errors(sublayer, &trial)?),
                None => None,
            },
            _ => None,
        };
        Ok(errors.map_or_else(|| Chosen::refused("nothing to judge it by".to_owned()), |errors| trial.choose(&errors)))
    }

    fn errors(&self, sublayer: Sublayer, trial: &Trial<'_>) -> Result<Vec<f64>, ModelError> {
        let inputs = self.network.sublayer_inputs(self.index, sublayer, self.hidden)?;
        let outputs = self.network.sublayer_outputs(self.index, sublayer, &inputs)?;
        (0..N_EXPONENTS)
            .map(|step| {
                let tried = self.model.with_weights(trial.readers(&trial.scales(exponent(step))));
                let network = Network::open(&tried, self.network.kernels())?;
                network.sublayer_error(self.index, sublayer, &inputs, &outputs)
            })
            .collect()
    }
}
