//! Normalization of rows.

use reweight_kernels::Kernels;

use super::architecture::NormKind;
use super::error::ModelError;
use super::tensors::Tensors;

/// A norm with its weights.
#[derive(Debug, Default)]
pub(super) struct Norm {
    /// The factor of each channel: one plus the weight, where the architecture means that.
    factors: Vec<f32>,
    /// What is added after, where the kind removes means; else empty.
    biases: Vec<f32>,
    removes_mean: bool,
    epsilon: f64,
}

impl Norm {
    /// Reads `NAME.weight`, and `NAME.bias` where there is one.
    pub(super) fn load(
        tensors: &Tensors<'_>,
        kernels: &Kernels,
        name: &str,
        width: usize,
        (kind, epsilon): (NormKind, f64),
    ) -> Result<Self, ModelError> {
        // The first BERT checkpoints say gamma and beta.
        let old = tensors.find(&format!("{name}.weight")).is_none() && tensors.find(&format!("{name}.gamma")).is_some();
        let [weight, bias] = if old { ["gamma", "beta"] } else { ["weight", "bias"] };
        let mut factors = tensors.vector(kernels, &format!("{name}.{weight}"), width)?;
        if kind == NormKind::RmsOffset {
            for factor in &mut factors {
                *factor += 1.0;
            }
        }
        let biases = tensors.vector_if(kernels, &format!("{name}.{bias}"), width)?.unwrap_or_default();
        Ok(Self { factors, biases, removes_mean: kind == NormKind::Layer, epsilon })
    }

    /// Normalizes each row of `rows`. Sums are taken in eight lanes and in f64 beyond them.
    pub(super) fn apply(&self, rows: &mut [f32]) {
        let width = self.factors.len();
        for row in rows.chunks_exact_mut(width) {
            if self.removes_mean {
                let mean = (sum(row, |x| x) / width as f64) as f32;
                for x in row.iter_mut() {
                    *x -= mean;
                }
            }
            let variance = sum(row, |x| x * x) / width as f64;
            let scale = (1.0 / (variance + self.epsilon).sqrt()) as f32;
            for (x, factor) in row.iter_mut().zip(&self.factors) {
                *x = *x * scale * factor;
            }
            for (x, bias) in row.iter_mut().zip(&self.biases) {
                *x += bias;
            }
        }
    }
}

fn sum(row: &[f32], f: impl Fn(f32) -> f32) -> f64 {
    let (chunks, rest) = row.as_chunks::<8>();
    let mut lanes = [0.0_f32; 8];
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += f(*x);
        }
    }
    lanes.iter().map(|x| f64::from(*x)).sum::<f64>() + rest.iter().map(|x| f64::from(f(*x))).sum::<f64>()
}
