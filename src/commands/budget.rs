//! Choosing schemes within a budget, for `plan` and `quantize`.

use reweight::calibrate::Sample;
use reweight::eval::Score;
use reweight::model::Network;
use reweight::sensitivity::{Probe, Sensitivity};
use reweight_quant::budget::{Allocation, Choice, Measure, Unit, Units, allocate, measure, schemes, schemes_of};
use reweight_quant::kernels::Kernels;
use reweight_quant::plan::{Method, PlanOptions};
use reweight_quant::recipe::{Recipe, nameable};
use reweight_quant::stats::{Key, Statistics};
use reweight_quant::store::Model;

use super::guidance;
use crate::args::{Budget, Guidance};
use crate::failure::Problem;
use crate::ui::Ui;

/// By how much the units that are tried alone may exceed an even share of the budget.
const PROBE_MARGIN: f64 = 1.1;

/// What was chosen, and what by.
pub(super) struct Planned {
    pub(super) recipe: Recipe,
    pub(super) units: Units,
    pub(super) measures: Vec<Vec<Measure>>,
    /// Where text was given.
    pub(super) sensitivity: Option<Sensitivity>,
    pub(super) allocation: Allocation,
    /// Of the chosen schemes with nearest codes, on the windows on which layers were tried.
    pub(super) score: Option<Score>,
}

/// Everything a choice goes by.
pub(super) struct Job<'a> {
    pub(super) model: &'a Model,
    pub(super) options: &'a PlanOptions,
    pub(super) budget: &'a Budget,
    pub(super) guidance: &'a Guidance,
    pub(super) kernels: &'static Kernels,
    pub(super) ui: &'a Ui,
}

impl Job<'_> {
    /// Chooses a scheme for each tensor.
    pub(super) fn plan(&self) -> anyhow::Result<Planned> {
        let Self { model, options, kernels, ui, .. } = *self;
        if options.container.one_scheme() {
            let problem = Problem::usage(format!("{} holds one scheme for all tensors", options.container.name()));
            return Err(problem.hint("a budget is spent on several: `--to compressed-tensors`").into());
        }
        let considered = if self.budget.schemes.is_empty() { schemes() } else { schemes_of(&self.budget.schemes)? };
        let units = Units::of(model, options, &considered)?;
        let bytes = self.bytes(&units)?;
        let statistics = guidance::statistics(self.guidance, Method::Search, model, kernels, ui)?;
        let measures = self.measure(&units, statistics.as_ref())?;
        let kernels = kernels.with_split_products();
        let network = if self.tries() { Some(Network::open(model, kernels)?) } else { None };
        let Some(network) = network.as_ref().filter(|network| network.is_decoder()) else {
            let allocation = choose(&units, &measures, None, bytes)?;
            let recipe = recipe(model, &units, &allocation, None, None)?;
            return Ok(Planned { recipe, units, measures, sensitivity: None, allocation, score: None });
        };
        let sample = self.sample(network)?;
        let progress = ui.progress_of_tokens(sample.n_tokens(), Probe::passes(model, network, &units));
        let advance = |name: &str, tokens: u64| progress.step(name, tokens);
        let probe = Probe::new(model, network, &sample.windows, statistics.as_ref(), ui.interrupted(), &advance)?;
        let tried = probed(&units, &measures, model, bytes);
        let sensitivity = probe.sensitivity(&units, &measures, &tried)?;
        let allocation = choose(&units, &measures, Some(&sensitivity), bytes)?;
        let score = probe.score(&units, &allocation.chosen)?;
        progress.finish();
        let recipe = recipe(model, &units, &allocation, Some(&sensitivity), Some(&score))?;
        Ok(Planned { recipe, units, measures, sensitivity: Some(sensitivity), allocation, score: Some(score) })
    }

    fn tries(&self) -> bool {
        !self.guidance.text.is_empty() && self.budget.probe_tokens > 0
    }

    /// What all units may take.
    fn bytes(&self, units: &Units) -> anyhow::Result<usize> {
        let (least, kept) = (units.bytes_min(), units.kept_bytes);
        let (bytes, asked) = match (self.budget.target_bpw, self.budget.target_size) {
            (Some(bits), _) => (units.budget(bits), format!("{bits} bits per weight")),
            (None, Some(size)) => {
                let size = usize::try_from(size.0).unwrap_or(usize::MAX);
                (size.saturating_sub(kept), crate::ui::bytes(size as u64))
            }
            (None, None) => {
                let problem = Problem::usage("no budget to plan for");
                return Err(problem.hint("name one with `--target-bpw X` or `--target-size SIZE`").into());
            }
        };
        if bytes < least {
            let (bits, size) = (units.bits_per_weight(least), crate::ui::bytes((least + kept) as u64));
            let problem =
                format!("{asked} cannot be met: the smallest schemes take {bits:.3} bits per weight, {size} in all");
            return Err(Problem::usage(problem)
                .hint("more schemes (`--schemes`), or fewer kept tensors, make it smaller")
                .into());
        }
        Ok(bytes)
    }

    fn measure(&self, units: &Units, statistics: Option<&Statistics>) -> anyhow::Result<Vec<Vec<Measure>>> {
        let n_bytes: usize =
            units.units.iter().flat_map(|unit| &unit.members).map(|member| self.stored(member.index)).sum();
        let progress = self.ui.progress(n_bytes as u64);
        let advance = |name: &str| {
            let bytes = self.model.position(name).map_or(0, |index| self.stored(index));
            progress.step(name, bytes as u64);
        };
        let measures =
            measure(self.model, units, statistics, self.kernels, &advance).map_err(reweight_quant::Error::from)?;
        progress.finish();
        Ok(measures)
    }

    fn stored(&self, index: usize) -> usize {
        self.model.weights()[index].stored_bytes()
    }

    /// The windows on which layers are tried.
    fn sample(&self, network: &Network<'_>) -> anyhow::Result<Sample> {
        let sample = guidance::sample_of_tokens(self.guidance, self.budget.probe_tokens, self.model, network)?;
        if sample.windows.iter().all(|window| window.len() < 2) {
            let problem =
                format!("{} tokens of text leave none to predict, and layers are tried by what is", sample.n_tokens());
            return Err(Problem::usage(problem).hint("more text, or a larger --probe-tokens").into());
        }
        Ok(sample)
    }
}

/// What each unit is tried with: of the schemes about as small as an even share of the budget, or smaller, the one of least error.
fn probed(units: &Units, measures: &[Vec<Measure>], model: &Model, bytes: usize) -> Vec<usize> {
    let share = PROBE_MARGIN * bytes as f64 / units.n_weights as f64;
    let of_unit = |(unit, measures): (&Unit, &Vec<Measure>)| {
        let n_weights: usize = unit.members.iter().map(|member| model.weights()[member.index].n_elements()).sum();
        let within = |choice: &usize| unit.bytes[*choice] as f64 <= share * n_weights as f64;
        let choices = (0..unit.schemes.len()).filter(within);
        let smallest = || (0..unit.schemes.len()).min_by_key(|choice| unit.bytes[*choice]);
        let best = choices.min_by(|a, b| error_of(measures, *a).total_cmp(&error_of(measures, *b)));
        best.or_else(smallest).unwrap_or(0)
    };
    units.units.iter().zip(measures).map(of_unit).collect()
}

/// Relative errors of a unit's members by one choice.
pub(super) fn error_of(measures: &[Measure], choice: usize) -> f64 {
    measures.iter().map(|measure| measure.errors[choice]).sum()
}

fn choose(
    units: &Units,
    measures: &[Vec<Measure>],
    sensitivity: Option<&Sensitivity>,
    bytes: usize,
) -> anyhow::Result<Allocation> {
    let choices = |(index, unit): (usize, &Unit)| -> Vec<Choice> {
        let factor = sensitivity.map_or(1.0, |sensitivity| sensitivity.factors[index]);
        let choice = |(choice, bytes): (usize, &usize)| Choice {
            bytes: *bytes,
            loss: factor * error_of(&measures[index], choice),
        };
        unit.bytes.iter().enumerate().map(choice).collect()
    };
    let choices: Vec<Vec<Choice>> = units.units.iter().enumerate().map(choices).collect();
    let none = || Problem::internal("the smallest schemes were to fit the budget");
    Ok(allocate(&choices, bytes).ok_or_else(none)?)
}

fn recipe(
    model: &Model,
    units: &Units,
    allocation: &Allocation,
    sensitivity: Option<&Sensitivity>,
    score: Option<&Score>,
) -> anyhow::Result<Recipe> {
    let mut recipe = Recipe {
        bits_per_weight: Some(units.bits_per_weight(allocation.bytes)),
        predicted_loss: sensitivity.map(|_| allocation.loss),
        measured_loss: score.and_then(|score| Some(score.nll - score.against.as_ref()?.reference_nll)),
        ..Recipe::default()
    };
    for (unit, choice) in units.units.iter().zip(&allocation.chosen) {
        for member in &unit.members {
            let scheme =
                nameable(member.fitted[*choice], unit.schemes[*choice]).map_err(reweight_quant::Error::from)?;
            recipe.tensors.insert(Key(model.weights()[member.index].name.clone()), scheme);
        }
    }
    Ok(recipe)
}
