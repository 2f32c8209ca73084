//! How far two models are apart, weight by weight, whatever containers they are in.

use std::collections::BTreeMap;

use rayon::prelude::*;
use reweight_kernels::Kernels;
use serde::Serialize;

use crate::encode::blocks;
use crate::manifest::digest_of;
use crate::store::{Model, Storage, Weight};
use crate::tensor::shape_text;

/// The comparison of two models.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// Whether every weight is in both and all are equal.
    pub identical: bool,
    /// Weights in both.
    pub tensors: Vec<TensorDifference>,
    /// Names in the first only.
    pub only_in_a: Vec<String>,
    /// Names in the second only.
    pub only_in_b: Vec<String>,
}

/// The comparison of one weight. Numbers are absent where shapes differ.
#[derive(Clone, Debug, Serialize)]
pub struct TensorDifference {
    /// Its name.
    pub name: String,
    /// Shape and storage in the first.
    pub a: String,
    /// Shape and storage in the second.
    pub b: String,
    /// Whether all values are equal, bit for bit as f32 (or byte for byte, where both store the same type).
    pub identical: bool,
    /// Largest absolute difference; absent where a value is not finite.
    pub max_abs: Option<f64>,
    /// Mean squared difference.
    pub mse: Option<f64>,
    /// Signal to quantization noise: 10 log10 of mean squared value of the first over `mse`, in decibels; absent where
    /// they are equal or the first is all zero.
    pub sqnr_db: Option<f64>,
}

/// Compares weights of the same name; `wanted` chooses among them.
///
/// Cost: reads both models once.
#[must_use]
pub fn diff(kernels: &Kernels, a: &Model, b: &Model, wanted: impl Fn(&str) -> bool) -> Difference {
    let mut others: BTreeMap<&str, &Weight> = b.weights().iter().map(|weight| (weight.name.as_str(), weight)).collect();
    let (mut tensors, mut only_in_a) = (Vec::new(), Vec::new());
    for weight in a.weights().iter().filter(|weight| wanted(&weight.name)) {
        match others.remove(weight.name.as_str()) {
            Some(other) => tensors.push(compare(kernels, weight, other)),
            None => only_in_a.push(weight.name.clone()),
        }
    }
    let only_in_b: Vec<String> = others.into_keys().filter(|name| wanted(name)).map(ToOwned::to_owned).collect();
    let identical = only_in_a.is_empty() && only_in_b.is_empty() && tensors.iter().all(|tensor| tensor.identical);
    Difference { identical, tensors, only_in_a, only_in_b }
}

/// BLAKE3 over the values of some weights as f32, names and shapes with them: the same wherever the values are stored.
///
/// Cost: reads each weight once, on the threads of the current pool, in memory of a few rows a thread.
#[must_use]
pub fn values_digest(kernels: &Kernels, weights: &[&Weight]) -> String {
    let digests: Vec<(String, String)> = weights
        .par_iter()
        .map(|weight| {
            let mut hasher = blake3::Hasher::new();
            let mut values = vec![0.0; if weight.rows() == 0 { 0 } else { weight.columns() }];
            for row in 0..weight.rows() {
                weight.read_rows(kernels, row..row + 1, &mut values);
                for value in &values {
                    hasher.update(&value.to_le_bytes());
                }
            }
            weight.release_rows(0..weight.rows());
            (format!("{} {}", weight.name, shape_text(&weight.shape)), hasher.finalize().to_string())
        })
        .collect();
    digest_of(digests.iter().map(|(name, digest)| (name, digest)))
}

#[derive(Clone, Copy)]
struct Sums {
    equal: bool,
    max_abs: f64,
    squared: f64,
    signal: f64,
}

fn compare(kernels: &Kernels, a: &Weight, b: &Weight) -> TensorDifference {
    let describe = |weight: &Weight| format!("{} {}", weight.stored_as(), shape_text(&weight.shape));
    let mut difference = TensorDifference {
        name: a.name.clone(),
        a: describe(a),
        b: describe(b),
        identical: false,
        max_abs: None,
        mse: None,
        sqnr_db: None,
    };
    if a.shape != b.shape {
        return difference;
    }
    // A row of a weight without rows may be of any width, and is not to be reserved.
    let columns = if a.rows() == 0 { 0 } else { a.columns() };
    let sums: Vec<Sums> = blocks(a.rows(), columns)
        .map_init(
            || (vec![0.0; columns], vec![0.0; columns]),
            |(left, right), rows| {
                let mut sums = Sums { equal: true, max_abs: 0.0, squared: 0.0, signal: 0.0 };
                for row in rows {
                    a.read_rows(kernels, row..row + 1, left);
                    b.read_rows(kernels, row..row + 1, right);
                    sums.add(left, right);
                }
                sums
            },
        )
        .collect();
    let total = sums.into_iter().fold(Sums { equal: true, max_abs: 0.0, squared: 0.0, signal: 0.0 }, Sums::join);
    a.release_rows(0..a.rows());
    b.release_rows(0..b.rows());
    let n = a.n_elements().max(1) as f64;
    difference.identical = match (&a.storage, &b.storage) {
        (Storage::Plain(x), Storage::Plain(y)) if x.dtype == y.dtype => x.data() == y.data(),
        _ => total.equal,
    };
    difference.max_abs = total.max_abs.is_finite().then_some(total.max_abs);
    difference.mse = total.squared.is_finite().then_some(total.squared / n);
    let noise = 10.0 * (total.signal / total.squared).log10();
    difference.sqnr_db = noise.is_finite().then_some(noise);
    difference
}

impl Sums {
    fn add(&mut self, left: &[f32], right: &[f32]) {
        for (&x, &y) in left.iter().zip(right) {
            let distance = f64::from(x) - f64::from(y);
            self.equal &= x.to_bits() == y.to_bits();
            // A NaN in the difference must show, and `f64::max` would hide it.
            let hides = distance.is_nan() || self.max_abs.is_nan();
            self.max_abs = if hides { f64::NAN } else { self.max_abs.max(distance.abs()) };
            self.squared += distance * distance;
            self.signal += f64::from(x) * f64::from(x);
        }
    }

    fn join(self, other: Self) -> Self {
        let max_abs =
            if self.max_abs.is_nan() || other.max_abs.is_nan() { f64::NAN } else { self.max_abs.max(other.max_abs) };
        Self {
            equal: self.equal && other.equal,
            max_abs,
            squared: self.squared + other.squared,
            signal: self.signal + other.signal,
        }
    }
}
