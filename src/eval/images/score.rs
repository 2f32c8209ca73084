//! Accuracy and calibration of a classifier's answers.

use crate::model::Classified;

/// Bins of confidence, of equal width, that the calibration error is taken over.
pub const BINS: usize = 15;

/// What answers are worth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageScore {
    /// How many there are.
    pub images: usize,
    /// The share that is right.
    pub accuracy: f64,
    /// Standard error of the accuracy: sqrt(p (1 - p) / n).
    pub accuracy_standard_error: f64,
    /// Minus the logarithm of the right class's probability, in nats: the mean.
    pub nll: f64,
    /// Expected calibration error (Guo et al. 2017, arXiv 1706.04599): over bins of confidence, the mean of |accuracy - confidence|
    /// weighted by answers. Bin i of [`BINS`] holds confidences above i / n and up to (i + 1) / n.
    pub calibration_error: f64,
}

/// Scores answers against the right classes.
///
/// # Panics
/// Unless there are as many labels as answers, each the index of a logit.
#[must_use]
pub fn score_images(answers: &[Classified], labels: &[u32]) -> ImageScore {
    assert_eq!(answers.len(), labels.len(), "a label for each answer");
    let n = answers.len() as f64;
    let (mut right, mut nll) = (0.0, 0.0);
    let mut bins = [(0.0, 0.0); BINS];
    for (answer, label) in answers.iter().zip(labels) {
        let class = answer.class();
        let log_sum = log_sum_exp(&answer.logits);
        let confidence = (f64::from(answer.logits[class]) - log_sum).exp();
        let hit = f64::from(u8::from(class == *label as usize));
        right += hit;
        nll += log_sum - f64::from(answer.logits[*label as usize]);
        let bin = ((confidence * BINS as f64).ceil() as usize).clamp(1, BINS) - 1;
        bins[bin].0 += hit;
        bins[bin].1 += confidence;
    }
    let accuracy = right / n;
    ImageScore {
        images: answers.len(),
        accuracy,
        accuracy_standard_error: (accuracy * (1.0 - accuracy) / n).sqrt(),
        nll: nll / n,
        calibration_error: bins.iter().map(|(hits, confidence): &(f64, f64)| (hits - confidence).abs()).sum::<f64>()
            / n,
    }
}

/// The share of answers with the same class.
#[must_use]
pub fn agreement(a: &[Classified], b: &[Classified]) -> f64 {
    let same = a.iter().zip(b).filter(|(a, b)| a.class() == b.class()).count();
    same as f64 / a.len() as f64
}

/// The logarithm of the sum of exponentials.
pub(super) fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    max + logits.iter().map(|x| (f64::from(*x) - max).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(logits: &[f32]) -> Classified {
        Classified { logits: logits.to_vec(), features: Vec::new() }
    }

    #[test]
    fn figures_by_hand() {
        // Probabilities of class 0: 0.75, 0.75, 0.5, and 0.9 of class 1.
        let answers =
            [answer(&[3f32.ln(), 0.0]), answer(&[3f32.ln(), 0.0]), answer(&[0.0, 0.0]), answer(&[0.0, 9f32.ln()])];
        let score = score_images(&answers, &[0, 1, 0, 1]);
        assert!((score.accuracy - 0.75).abs() < 1e-12);
        assert!((score.accuracy_standard_error - (0.75f64 * 0.25 / 4.0).sqrt()).abs() < 1e-12);
        let nll = -(0.75f64.ln() + 0.25f64.ln() + 0.5f64.ln() + 0.9f64.ln()) / 4.0;
        assert!((score.nll - nll).abs() < 1e-6, "{}", score.nll);
        // Bins: {0.75, 0.75} one right: |1 - 1.5|; {0.5} right: 0.5; {0.9} right: 0.1.
        assert!((score.calibration_error - (0.5 + 0.5 + 0.1) / 4.0).abs() < 1e-6, "{}", score.calibration_error);
    }

    #[test]
    fn what_is_no_number_is_no_class_that_wins() {
        assert_eq!(answer(&[f32::NAN, 1.0, 2.0]).class(), 2);
        assert_eq!(answer(&[1.0, f32::NAN]).class(), 0);
        assert_eq!(answer(&[f32::NAN, f32::NAN]).class(), 1);
        assert_eq!(answer(&[2.0, 2.0]).class(), 0);
    }
}
