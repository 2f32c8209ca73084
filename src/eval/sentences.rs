//! Sentence embeddings of an encoder: the mean of its last hidden states.

use std::sync::atomic::AtomicBool;

use crate::model::{ModelError, Network, Nobody, Run};

/// The mean hidden state of each sentence, over all its tokens.
///
/// # Errors
/// `ModelError`.
pub fn embed(
    model: &Network<'_>,
    sentences: &[&[u32]],
    stop: &AtomicBool,
    progress: &(dyn Fn(&str, u64) + Sync),
) -> Result<Vec<Vec<f32>>, ModelError> {
    let hidden = model.hidden_states(sentences, &Run { stop, progress, observe: &Nobody })?;
    let means = (0..hidden.n_windows()).map(|index| {
        let rows = hidden.window(index).chunks_exact(hidden.width());
        let n = rows.len() as f64;
        let mut sums = vec![0.0_f64; hidden.width()];
        rows.for_each(|row| sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x)));
        sums.into_iter().map(|sum| (sum / n) as f32).collect()
    });
    Ok(means.collect())
}

/// The cosine of the angle between two vectors of the same length; 0 where one is zero.
#[must_use]
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let size = (dot(a, a) * dot(b, b)).sqrt();
    if size > 0.0 { dot(a, b) / size } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::cosine;

    #[test]
    fn cosines_of_known_angles() {
        assert!((cosine(&[1.0, 0.0], &[2.0, 2.0]) - 0.5_f64.sqrt()).abs() < 1e-12);
        assert!((cosine(&[1.0, 2.0], &[-2.0, 1.0])).abs() < 1e-12);
        assert!(cosine(&[0.0], &[1.0]).abs() < 1e-12);
    }
}
