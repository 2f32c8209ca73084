//! One prediction's sums while slices of its logits go by.

use reweight_kernels::Kernels;

/// Sums of one model's prediction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Running {
    /// The greatest logit so far, and where it is.
    max: f32,
    best: u32,
    /// Sum of exp(logit - max).
    sum: f64,
    /// The logit of the token that came.
    target: f32,
}

impl Default for Running {
    fn default() -> Self {
        Self { max: f32::NEG_INFINITY, best: 0, sum: 0.0, target: f32::NAN }
    }
}

impl Running {
    /// Takes in the logits from index `first` on; they are overwritten by exp(logit - max). Gives what earlier sums were
    /// multiplied by.
    pub(super) fn add(&mut self, kernels: &Kernels, first: usize, logits: &mut [f32], target: u32) -> f64 {
        if let Some(logit) = (target as usize).checked_sub(first).and_then(|at| logits.get(at)) {
            self.target = *logit;
        }
        let max = kernels.greatest(logits);
        let mut factor = 1.0;
        if max > self.max {
            let at = logits.iter().position(|x| *x >= max).unwrap_or(0);
            self.best = (first + at) as u32;
            factor = f64::from(self.max - max).exp();
            self.max = max;
        }
        self.sum = self.sum * factor + kernels.exponentials(self.max, logits);
        factor
    }

    /// The logarithm of the sum of exponentials of all logits.
    fn log_sum(&self) -> f64 {
        f64::from(self.max) + self.sum.ln()
    }

    /// Minus the logarithm of the probability of the token that came, in nats.
    pub(super) fn loss(&self) -> f64 {
        self.log_sum() - f64::from(self.target)
    }

    /// The most probable token.
    pub(super) fn best(&self) -> u32 {
        self.best
    }
}

/// Sums of a prediction beside a reference's.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RunningPair {
    pub(super) model: Running,
    pub(super) reference: Running,
    /// Sum of exp(r - max r) * (r - m) over logits r of the reference and m of the model.
    cross: f64,
}

impl RunningPair {
    /// Takes in both models' logits from index `first` on, which are overwritten. `difference` is memory to use.
    pub(super) fn add(
        &mut self,
        kernels: &Kernels,
        first: usize,
        (model, reference): (&mut [f32], &mut [f32]),
        target: u32,
        difference: &mut Vec<f32>,
    ) {
        difference.clear();
        difference.extend(reference.iter().zip(&*model).map(|(r, m)| r - m));
        self.model.add(kernels, first, model, target);
        let factor = self.reference.add(kernels, first, reference, target);
        let part: f64 = reference.iter().zip(&*difference).map(|(p, d)| f64::from(*p) * f64::from(*d)).sum();
        self.cross = self.cross * factor + part;
    }

    /// KL(reference || model) in nats; rounding may leave it a little below zero, which is given as zero. NaN stays.
    pub(super) fn divergence(&self) -> f64 {
        let mean_difference = self.cross / self.reference.sum;
        let divergence = mean_difference - self.reference.log_sum() + self.model.log_sum();
        if divergence < 0.0 { 0.0 } else { divergence }
    }
}

#[cfg(test)]
mod tests {
    use super::{Running, RunningPair};
    use reweight_kernels::supported;

    fn log_softmax(logits: &[f32]) -> Vec<f64> {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|x| f64::from(x - max).exp()).sum();
        logits.iter().map(|x| f64::from(x - max) - sum.ln()).collect()
    }

    #[test]
    fn slices_add_up_to_the_formulas_over_all_logits() {
        let model: Vec<f32> = (0..500).map(|i| (i as f32 * 1.3).sin() * 8.0).collect();
        let reference: Vec<f32> = (0..500).map(|i| (i as f32 * 1.3).sin() * 8.0 + (i as f32 * 0.37).cos()).collect();
        let (log_model, log_reference) = (log_softmax(&model), log_softmax(&reference));
        let divergence: f64 = log_reference.iter().zip(&log_model).map(|(r, m)| r.exp() * (r - m)).sum();
        for kernels in supported() {
            for slice in [500, 128, 7] {
                let (mut pair, mut memory) = (RunningPair::default(), Vec::new());
                for first in (0..500).step_by(slice) {
                    let end = 500.min(first + slice);
                    let (mut m, mut r) = (model[first..end].to_vec(), reference[first..end].to_vec());
                    pair.add(kernels, first, (&mut m, &mut r), 321, &mut memory);
                }
                assert!((pair.model.loss() + log_model[321]).abs() < 1e-6);
                assert!((pair.reference.loss() + log_reference[321]).abs() < 1e-6);
                assert!((pair.divergence() - divergence).abs() < 1e-6, "{} {divergence}", pair.divergence());
                let best = (0..500).max_by(|a, b| model[*a].total_cmp(&model[*b])).expect("there are logits");
                assert_eq!(pair.model.best() as usize, best);
            }
        }
    }

    #[test]
    fn a_prediction_equals_itself() {
        let kernels = supported()[0];
        let logits: Vec<f32> = (0..64).map(|i| i as f32 * 0.1).collect();
        let mut pair = RunningPair::default();
        pair.add(kernels, 0, (&mut logits.clone(), &mut logits.clone()), 3, &mut Vec::new());
        assert!(pair.divergence() < 1e-7);
        assert!(Running::default().loss().is_nan());
        let mut pair = RunningPair::default();
        pair.add(kernels, 0, (&mut logits.clone(), &mut [f32::NAN; 64]), 3, &mut Vec::new());
        assert!(pair.divergence().is_nan(), "{}", pair.divergence());
    }
}
