//! AWQ as published (Lin et al. 2023, arXiv 2306.00978), as a baseline: factors mean|x|^r for 20 exponents from 0 to 1, ranges from
//! minimum to maximum, each exponent judged by the outputs over the whole text.
//!
//! The grid of exponents ends at 1, as in llm-compressor 0.14; the authors' code (mit-han-lab/llm-awq) ends at 0.95. As both do, what
//! several layers read together is judged by what they give together, which takes a forward pass for each exponent:
//! the caller runs it. What one layer reads alone is judged here, by the Gram matrix of its inputs.

use std::sync::Arc;

use reweight_kernels::{Dense, Kernels, RowCodes, Rows, RowsMut};

use super::search::{magnitudes, quantized_readers};
use super::{Chosen, Form, Mapping};
use crate::grid::Coder;
use crate::plan::Plan;
use crate::scheme::Scheme;
use crate::stats::{InputStatistics, Statistics};
use crate::store::weight::PlainTensor;
use crate::store::{Bytes, Model, Storage, Weight};
use crate::tensor::Dtype;

/// How many exponents are tried.
pub const N_EXPONENTS: usize = 20;

/// The least factor before it is set about the middle.
const LEAST: f32 = 1e-4;

/// Rows that are multiplied with a Gram matrix together.
const ROWS: usize = 256;

/// The exponent of a step of the grid.
#[must_use]
pub fn exponent(step: usize) -> f32 {
    step as f32 / (N_EXPONENTS - 1) as f32
}

/// One mapping, ready to be tried.
pub struct Trial<'a> {
    kernels: &'static Kernels,
    mapping: &'a Mapping,
    readers: Vec<(&'a Weight, Scheme, Dtype)>,
    input: &'a InputStatistics,
    magnitudes: Vec<f32>,
}

impl<'a> Trial<'a> {
    /// Looks up what a mapping needs; says why it is left alone where it cannot be tried.
    ///
    /// # Errors
    /// The reason, in words.
    pub fn new(
        (model, plan): (&'a Model, &'a Plan),
        statistics: &'a Statistics,
        mapping: &'a Mapping,
        kernels: &'static Kernels,
    ) -> Result<Self, String> {
        if mapping.sharing.n_sharing > 1 {
            return Err("the published search leaves values that several heads share alone".to_owned());
        }
        let readers = quantized_readers(model, plan, mapping)?;
        let first = mapping.consumers.first().ok_or("no reader")?;
        let input = statistics.of_layer(&first.weight).filter(|input| input.tokens > 0).ok_or("no statistics")?;
        if readers.iter().any(|(weight, ..)| weight.columns() != input.width()) {
            return Err("a reader of another width".to_owned());
        }
        Ok(Self { kernels, mapping, readers, input, magnitudes: magnitudes(mapping, input) })
    }

    /// Factors of an exponent.
    #[must_use]
    pub fn scales(&self, exponent: f32) -> Vec<f32> {
        let powers: Vec<f32> = self.magnitudes.iter().map(|mean| mean.powf(exponent).max(LEAST)).collect();
        let (least, most) =
            powers.iter().fold((f32::INFINITY, 0.0_f32), |(a, b), power| (a.min(*power), b.max(*power)));
        let middle = (least * most).sqrt();
        let scale = |power: &f32| Some(power / middle).filter(|scale| scale.is_finite() && *scale > 0.0).unwrap_or(1.0);
        powers.iter().map(scale).collect()
    }

    /// The readers as they would be read after quantizing with some factors, taken back: Q(W s) / s, in f32.
    #[must_use]
    pub fn readers(&self, scales: &[f32]) -> Vec<Weight> {
        self.readers.iter().map(|reader| self.reader(*reader, scales)).collect()
    }

    fn reader(&self, (weight, scheme, scale_dtype): (&Weight, Scheme, Dtype), scales: &[f32]) -> Weight {
        let columns = weight.columns();
        let group = scheme.group_len(columns);
        let groups = columns.div_ceil(group);
        let factors: Vec<f32> = (0..columns).map(|read| scales[self.mapping.sharing.made(read)]).collect();
        let (mut row, mut bytes) = (vec![0.0; columns], Vec::with_capacity(weight.n_elements() * size_of::<f32>()));
        let (mut codes, mut group_scales, mut zeros) = (vec![0; columns], vec![0.0; groups], vec![0; groups]);
        let coder = Coder::of(self.kernels, weight, (scheme, scale_dtype), None, false);
        for index in 0..weight.rows() {
            weight.read_rows(self.kernels, index..index + 1, &mut row);
            row.iter_mut().zip(&factors).for_each(|(value, factor)| *value *= factor);
            // Quantizing will name what is not a number; here it makes the exponent a bad one.
            if self.kernels.first_non_finite(&row).is_none() {
                let mut out = RowCodes { codes: &mut codes, scales: &mut group_scales, zeros: &mut zeros };
                coder.rtn(self.kernels, group, &row, None, &mut out);
                coder.dequantize(self.kernels, group, (&codes, &group_scales, &zeros), &mut row);
            }
            let values = row.iter().zip(&factors).map(|(value, factor)| value / factor);
            bytes.extend(values.flat_map(f32::to_le_bytes));
        }
        let range = 0..bytes.len();
        let plain = PlainTensor { dtype: Dtype::F32, bytes: Bytes::from_vec(bytes), range };
        Weight {
            name: weight.name.clone(),
            shape: weight.shape.clone(),
            file: Arc::clone(&weight.file),
            storage: Storage::Plain(plain),
            scaling: None,
        }
    }

    /// The squared error of the outputs of a layer that reads alone, for each exponent, by the Gram matrix of its inputs; `None` where
    /// there is none.
    #[must_use]
    pub fn errors_alone(&self) -> Option<Vec<f64>> {
        let gram = self.input.gram.as_ref()?.lay_out(self.input.tokens);
        let error = |step: usize| {
            let tried = self.readers(&self.scales(exponent(step)));
            let originals = self.readers.iter().map(|(weight, ..)| *weight);
            originals.zip(&tried).map(|(weight, tried)| self.output_error(weight, tried, &gram)).sum()
        };
        Some((0..N_EXPONENTS).map(error).collect())
    }

    fn output_error(&self, weight: &Weight, tried: &Weight, gram: &Dense) -> f64 {
        let width = weight.columns();
        let (mut a, mut b, mut products) = (vec![0.0; ROWS * width], vec![0.0; ROWS * width], vec![0.0; ROWS * width]);
        let mut sum = 0.0;
        for first in (0..weight.rows()).step_by(ROWS) {
            let rows = first..(first + ROWS).min(weight.rows());
            let n = rows.len() * width;
            weight.read_rows(self.kernels, rows.clone(), &mut a[..n]);
            tried.read_rows(self.kernels, rows.clone(), &mut b[..n]);
            a.iter_mut().zip(&b).for_each(|(a, b)| *a -= b);
            let out = RowsMut { values: &mut products, stride: width };
            gram.product(self.kernels, Rows { values: &a, stride: width }, rows.len(), out);
            sum += a[..n].iter().zip(&products).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        }
        sum
    }

    /// The exponent with the least error; the first of equal ones. Where none is finite the channels are left alone.
    #[must_use]
    pub fn choose(&self, errors: &[f64]) -> Chosen {
        let mut best = (0, f64::INFINITY);
        for (step, error) in errors.iter().enumerate() {
            if *error < best.1 {
                best = (step, *error);
            }
        }
        if !best.1.is_finite() {
            return Chosen::refused("no exponent gives finite outputs".to_owned());
        }
        let ratio = exponent(best.0);
        let scales = if best.0 == 0 { Vec::new() } else { self.scales(ratio) };
        // Exponent 0 is rounding to nearest without factors.
        let unscaled = errors[0];
        Chosen {
            ratio,
            form: Form::Plain,
            scales,
            error: best.1,
            error_unscaled: unscaled,
            error_rtn: unscaled,
            refused: None,
        }
    }
}
