//! Which factors, by the error that quantizing would leave.

use std::sync::Arc;

use rayon::prelude::*;
use reweight_kernels::{Dense, Kernels, RowCodes, Rows, RowsMut};
use serde::{Deserialize, Serialize};

use super::Mapping;
use crate::grid::Coder;
use crate::plan::{Action, Plan};
use crate::scheme::Scheme;
use crate::stats::{InputStatistics, Statistics};
use crate::store::{Model, Weight};
use crate::tensor::Dtype;

/// Rows of a matrix on which every exponent is tried.
const GLANCED_ROWS: usize = 16;

/// Rows on which those about the best are tried.
const SAMPLED_ROWS: usize = 48;

/// Rows on which the chosen one is compared with leaving the channels alone.
const JUDGED_ROWS: usize = 192;

/// Rows that one thread takes at a time.
const ROWS_A_TASK: usize = 24;

/// Exponents tried first: 0, 1/20, .. 1.
const N_RATIOS: usize = 20;

/// How far a factor may be from the middle of its mapping.
const LARGEST_FACTOR: f32 = 256.0;

/// What errors of a layer's outputs are told by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Objective {
    /// The mean of x^2 of each channel, as if channels had nothing to do with each other.
    #[default]
    Moments,
    /// The mean of x x^T: exact. Takes a matrix as wide as the input for each input of a mapping, and several times as long.
    Gram,
}

/// Which factors are tried for an exponent r.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// mean|x|^r.
    #[default]
    Plain,
    /// mean|x|^r / (w^(1 - r) + 10^-4), w the mean over the readers' rows of |weight| as a share of the largest of its group (`AutoAWQ`'s
    /// and llm-compressor's `duo_scaling`).
    Duo,
}

/// Everything a search goes by.
pub struct Search<'a> {
    /// The model, unscaled.
    pub model: &'a Model,
    /// Says how each of its tensors will be stored.
    pub plan: &'a Plan,
    /// Of the inputs of its layers.
    pub statistics: &'a Statistics,
    /// How errors are measured; where a Gram matrix is missing, by moments.
    pub objective: Objective,
    /// The forms of factors that are tried; leaving channels alone always is.
    pub forms: &'a [Form],
    /// The kernel table.
    pub kernels: &'static Kernels,
}

/// What came of one mapping.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chosen {
    /// Exponent of the mean of |x|; 0 leaves the channels alone, in the plain form.
    pub ratio: f32,
    /// The form of the factors.
    pub form: Form,
    /// A factor for each channel that is made; empty where they are left alone.
    pub scales: Vec<f32>,
    /// Squared error of the readers' outputs with the factors, told from some of the rows; as they count in the search: each as a share
    /// of its own without factors, times the mean of these.
    pub error: f64,
    /// Without them, ranges searched.
    pub error_unscaled: f64,
    /// That of `rtn`.
    pub error_rtn: f64,
    /// Why the channels are left alone, where it is not for want of gain.
    pub refused: Option<String>,
}

/// A layer that will be quantized.
struct Reader<'a> {
    weight: &'a Weight,
    coder: Coder,
    scheme: Scheme,
    moments: Vec<f32>,
    /// Mean of x x^T of its input, laid out for products.
    gram: Option<Arc<Dense>>,
}

/// Buffers of one thread.
struct Scratch {
    row: Vec<f32>,
    found: Vec<f32>,
    codes: Vec<u8>,
    scales: Vec<f32>,
    zeros: Vec<u8>,
    /// Errors of the rows of one task, and of `rtn`.
    differences: [Vec<f32>; 2],
    products: Vec<f32>,
}

impl Search<'_> {
    /// Searches every mapping, on all threads; results are in their order and do not depend on the number of threads.
    ///
    /// Cost: 21 trials of 16 rows of each layer, up to 8 of 48, then two of 192.
    #[must_use]
    pub fn run(&self, mappings: &[Mapping], done: &(dyn Fn(&Mapping) + Sync)) -> Vec<Chosen> {
        let one = |mapping: &Mapping| {
            let chosen = self.one(mapping).unwrap_or_else(Chosen::refused);
            done(mapping);
            chosen
        };
        mappings.par_iter().map(one).collect()
    }

    fn one(&self, mapping: &Mapping) -> Result<Chosen, String> {
        let mut readers: Vec<Reader<'_>> = Vec::new();
        let mut grams: Vec<(&InputStatistics, Arc<Dense>)> = Vec::new();
        for (weight, scheme, scale_dtype) in quantized_readers(self.model, self.plan, mapping)? {
            let input = self.input_of(mapping, weight)?;
            let moments: Vec<f32> =
                input.second_moment().into_iter().map(|moment| moment.clamp(0.0, 1e20) as f32).collect();
            let known = grams.iter().find(|(known, _)| std::ptr::eq(*known, input)).map(|(_, gram)| Arc::clone(gram));
            let gram = known.or_else(|| self.lay_out_gram(input).map(Arc::new));
            grams.extend(gram.clone().map(|gram| (input, gram)));
            let coder = Coder::of(self.kernels, weight, (scheme, scale_dtype), Some(&moments), true);
            readers.push(Reader { weight, coder, scheme, moments, gram });
        }
        let input = self.input(mapping).ok_or("no statistics")?;
        let magnitudes = magnitudes(mapping, input);
        let means = if self.forms.contains(&Form::Duo) { self.weight_means(mapping, &readers) } else { Vec::new() };
        let scales_of = |form: Form, ratio: f32| match form {
            Form::Plain => scales(&magnitudes, ratio),
            Form::Duo => duo_scales(&magnitudes, &means, ratio),
        };
        // Layers that read the same count alike, however large their outputs: queries and keys are often far larger than values.
        let errors = |scales: &[f32], n_rows: usize| -> Vec<f64> {
            readers.iter().map(|reader| self.error(reader, mapping, scales, n_rows).0).collect()
        };
        let ones = vec![1.0; magnitudes.len()];
        let (glanced, sampled) = (errors(&ones, GLANCED_ROWS), errors(&ones, SAMPLED_ROWS));
        let tried = |form: Form, ratio: f32, n_rows: usize| {
            let unscaled = if n_rows == GLANCED_ROWS { &glanced } else { &sampled };
            relative(&errors(&scales_of(form, ratio), n_rows), unscaled)
        };
        let nothing = readers.len() as f64;
        let mut best = (Form::Plain, 0.0, nothing);
        for form in self.forms {
            // Few rows tell where to look, more of them what is best there.
            let mut coarse = (0, nothing);
            // An exponent of 0 in the plain form is to do nothing.
            for step in usize::from(*form == Form::Plain)..=N_RATIOS {
                let error = tried(*form, step as f32 / N_RATIOS as f32, GLANCED_ROWS);
                if error < coarse.1 {
                    coarse = (step, error);
                }
            }
            let mut own = (0.0, nothing);
            let mut consider = |ratio: f32| {
                let within = (0.0..=1.0).contains(&ratio);
                let error = if within { tried(*form, ratio, SAMPLED_ROWS) } else { f64::INFINITY };
                if error < own.1 {
                    own = (ratio, error);
                }
                own.0
            };
            if coarse.0 == 0 && *form == Form::Plain {
                coarse.0 = 1;
            }
            let mut around = consider(coarse.0 as f32 / N_RATIOS as f32);
            for spread in [0.05, 0.025, 0.0125] {
                let center = around;
                for ratio in [center - spread, center + spread] {
                    around = consider(ratio);
                }
            }
            if own.1 < best.2 {
                best = (*form, own.0, own.1);
            }
        }
        let (form, ratio, error) = best;
        let scales = if error < nothing { scales_of(form, ratio) } else { ones };
        Ok(self.judge(mapping, &readers, (form, ratio), scales))
    }

    /// Means over all readers' rows of the weights of each channel that is made, as shares of the largest of their groups.
    fn weight_means(&self, mapping: &Mapping, readers: &[Reader<'_>]) -> Vec<f64> {
        let (mut sums, mut n_rows) = (Vec::new(), 0);
        for Reader { weight, scheme, .. } in readers {
            let (columns, group) = (weight.columns(), scheme.group_len(weight.columns()));
            let mut row = vec![0.0; columns];
            sums.resize(columns / mapping.sharing.n_sharing, 0.0);
            n_rows += weight.rows() * mapping.sharing.n_sharing;
            for at in 0..weight.rows() {
                weight.read_rows(self.kernels, at..at + 1, &mut row);
                for (index, group) in row.chunks(group).enumerate().map(|(index, part)| (index * group, part)) {
                    let most = group.iter().fold(0.0_f32, |most, value| most.max(value.abs())) + 1e-6;
                    for (offset, value) in group.iter().enumerate() {
                        sums[mapping.sharing.made(index + offset)] += f64::from(value.abs() / most);
                    }
                }
            }
        }
        sums.iter().map(|sum| sum / n_rows.max(1) as f64).collect()
    }

    /// Compares with leaving the channels alone, layer by layer and on more rows.
    fn judge(&self, mapping: &Mapping, readers: &[Reader<'_>], (form, ratio): (Form, f32), scales: Vec<f32>) -> Chosen {
        let ones = vec![1.0; scales.len()];
        let unchanged = scales == ones;
        let refused = None;
        let mut chosen = Chosen { ratio, form, scales, error: 0.0, error_unscaled: 0.0, error_rtn: 0.0, refused };
        let judged: Vec<[f64; 3]> = readers
            .iter()
            .map(|reader| {
                let (unscaled, rtn) = self.error(reader, mapping, &ones, JUDGED_ROWS);
                let scaled = || self.error(reader, mapping, &chosen.scales, JUDGED_ROWS).0;
                [if unchanged { unscaled } else { scaled() }, unscaled, rtn]
            })
            .collect();
        let mean = judged.iter().map(|[_, unscaled, _]| unscaled).sum::<f64>() / readers.len() as f64;
        for (reader, [error, unscaled, rtn]) in readers.iter().zip(judged) {
            if error > rtn {
                chosen.refused = Some(format!("{} would be worse than rtn", reader.weight.name));
            }
            chosen.error += mean * share(error, unscaled);
            chosen.error_unscaled += mean * share(unscaled, unscaled);
            chosen.error_rtn += mean * share(rtn, unscaled);
        }
        if unchanged || chosen.refused.is_some() || chosen.error >= chosen.error_unscaled {
            (chosen.ratio, chosen.form) = (0.0, Form::Plain);
            (chosen.scales, chosen.error) = (Vec::new(), chosen.error_unscaled);
        }
        chosen
    }

    /// Squared error of the outputs of some rows, counted for all: with ranges searched, and of `rtn`.
    fn error(&self, reader: &Reader<'_>, mapping: &Mapping, scales: &[f32], n_rows: usize) -> (f64, f64) {
        let (weight, columns) = (reader.weight, reader.weight.columns());
        let group = reader.scheme.group_len(columns);
        let n = weight.rows().min(n_rows);
        let factors: Vec<f32> = (0..columns).map(|read| scales[mapping.sharing.made(read)]).collect();
        let moments: Vec<f32> = reader.moments.iter().zip(&factors).map(|(h, s)| h / (s * s)).collect();
        let of_rows = |scratch: &mut Scratch, part: usize| {
            let rows = part * ROWS_A_TASK..((part + 1) * ROWS_A_TASK).min(n);
            let rows = rows.map(|index| index * weight.rows() / n);
            self.error_of(reader, rows, (&factors, &moments), n_rows == JUDGED_ROWS, scratch)
        };
        let buffers = || Scratch::new(columns, columns.div_ceil(group));
        // Parts do not depend on the number of threads, and are added in order.
        let parts: Vec<(f64, f64)> = (0..n.div_ceil(ROWS_A_TASK)).into_par_iter().map_init(buffers, of_rows).collect();
        let (squared, squared_rtn) = parts.iter().fold((0.0, 0.0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
        let share = weight.rows() as f64 / n.max(1) as f64;
        (squared * share, squared_rtn * share)
    }

    /// Squared error of the outputs of some rows: with ranges searched, and, where it is `judged` or known anyway, of `rtn`.
    fn error_of(
        &self,
        reader: &Reader<'_>,
        rows: impl Iterator<Item = usize>,
        (factors, moments): (&[f32], &[f32]),
        judged: bool,
        scratch: &mut Scratch,
    ) -> (f64, f64) {
        let (columns, kernels) = (reader.weight.columns(), self.kernels);
        let group = reader.scheme.group_len(columns);
        let Scratch { row, found, codes, scales, zeros, differences, products } = scratch;
        let (mut squared, mut squared_rtn) = (0.0, 0.0);
        differences.iter_mut().for_each(Vec::clear);
        for at in rows {
            reader.weight.read_rows(kernels, at..at + 1, row);
            row.iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor);
            if kernels.first_non_finite(row).is_some() {
                // Quantizing will name it.
                return (f64::INFINITY, f64::INFINITY);
            }
            let mut out = RowCodes { codes, scales, zeros };
            let errors = reader.coder.search(kernels, group, row, Some(moments), &mut out);
            squared += errors.squared;
            squared_rtn += errors.squared_rtn;
            if reader.gram.is_none() {
                continue;
            }
            let [of_search, of_rtn] = &mut *differences;
            reader.coder.dequantize(kernels, group, (out.codes, out.scales, out.zeros), found);
            of_search
                .extend(found.iter().zip(&*row).zip(factors).map(|((found, value), factor)| (found - value) / factor));
            if judged {
                reader.coder.rtn(kernels, group, row, None, &mut out);
                reader.coder.dequantize(kernels, group, (out.codes, out.scales, out.zeros), found);
                of_rtn.extend(
                    found.iter().zip(&*row).zip(factors).map(|((found, value), factor)| (found - value) / factor),
                );
            }
        }
        let Some(gram) = &reader.gram else { return (squared, squared_rtn) };
        let [squared, squared_rtn] = [&differences[0], &differences[1]].map(|errors| {
            products.resize(errors.len(), 0.0);
            let (x, out) = (Rows { values: errors, stride: columns }, RowsMut { values: products, stride: columns });
            gram.product(kernels, x, errors.len() / columns, out);
            errors.iter().zip(&*products).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        });
        (squared, squared_rtn)
    }

    /// Statistics of what a layer reads: its own, or where it never ran those of the mapping.
    fn input_of(&self, mapping: &Mapping, weight: &Weight) -> Result<&InputStatistics, String> {
        let own = self.statistics.of_layer(&weight.name).filter(|input| input.tokens > 0);
        let input = own.or_else(|| self.input(mapping)).ok_or("no statistics")?;
        if input.width() != weight.columns() {
            return Err(format!("statistics of {} channels for {}", input.width(), weight.name));
        }
        Ok(input)
    }

    fn lay_out_gram(&self, input: &InputStatistics) -> Option<Dense> {
        let gram = input.gram.as_ref().filter(|_| self.objective == Objective::Gram)?;
        Some(gram.lay_out(input.tokens))
    }

    /// Statistics of the channels: of the reader that saw most tokens.
    fn input(&self, mapping: &Mapping) -> Option<&InputStatistics> {
        let inputs = mapping.consumers.iter().filter_map(|consumer| self.statistics.of_layer(&consumer.weight));
        inputs.max_by_key(|input| input.tokens).filter(|input| input.tokens > 0)
    }
}

impl Scratch {
    fn new(columns: usize, groups: usize) -> Self {
        Self {
            row: vec![0.0; columns],
            found: vec![0.0; columns],
            codes: vec![0; columns],
            scales: vec![0.0; groups],
            zeros: vec![0; groups],
            differences: [Vec::new(), Vec::new()],
            products: Vec::new(),
        }
    }
}

impl Chosen {
    /// A mapping that is left alone.
    #[must_use]
    pub fn refused(why: String) -> Self {
        let refused = Some(why);
        Self {
            ratio: 0.0,
            form: Form::Plain,
            scales: Vec::new(),
            error: 0.0,
            error_unscaled: 0.0,
            error_rtn: 0.0,
            refused,
        }
    }
}

/// The readers of a mapping that will be quantized, with scheme and type of scales; in words where there are none, or one is to be kept.
pub(super) fn quantized_readers<'a>(
    model: &'a Model,
    plan: &Plan,
    mapping: &Mapping,
) -> Result<Vec<(&'a Weight, Scheme, Dtype)>, String> {
    let mut readers = Vec::new();
    for consumer in &mapping.consumers {
        let index = model.position(&consumer.weight).ok_or("a reader is missing")?;
        let tensor = &plan.tensors[index];
        if tensor.reason.starts_with("--keep") {
            return Err(format!("{} is kept", consumer.weight));
        }
        if let Action::Quantize { scheme, scale_dtype } = tensor.action {
            readers.push((&model.weights()[index], scheme, scale_dtype));
        }
    }
    if readers.is_empty() { Err("no reader is quantized".to_owned()) } else { Ok(readers) }
}

/// The mean of |x| of each channel that is made; its root mean square where statistics hold no |x|.
pub(super) fn magnitudes(mapping: &Mapping, input: &InputStatistics) -> Vec<f32> {
    let mut means = input.abs_mean();
    if means.iter().all(|mean| *mean == 0.0) {
        means = input.second_moment().into_iter().map(f64::sqrt).collect();
    }
    let n = means.len() / mapping.sharing.n_sharing;
    let mut made = vec![0.0; n];
    for (read, mean) in means.iter().enumerate() {
        made[mapping.sharing.made(read)] += mean / mapping.sharing.n_sharing as f64;
    }
    made.into_iter().map(|mean| mean as f32).collect()
}

/// The sum of errors, each as a share of that without factors.
fn relative(errors: &[f64], unscaled: &[f64]) -> f64 {
    errors.iter().zip(unscaled).map(|(error, unscaled)| share(*error, *unscaled)).sum()
}

/// An error as a share of that without factors; 1 where there is nothing to gain: no error, or weights that are no numbers.
fn share(error: f64, unscaled: f64) -> f64 {
    if unscaled > 0.0 && unscaled.is_finite() { error / unscaled } else { 1.0 }
}

/// Powers of the magnitudes about their geometric middle. A channel that is always zero, and one whose magnitude is no
/// number, gets 1.
fn scales(magnitudes: &[f32], ratio: f32) -> Vec<f32> {
    let known = |magnitude: f32| magnitude.is_finite() && magnitude > 0.0;
    let power = |magnitude: &f32| if known(*magnitude) { magnitude.powf(ratio) } else { 0.0 };
    about_the_middle(&magnitudes.iter().map(power).collect::<Vec<f32>>())
}

/// The same divided by powers of the weights' means.
fn duo_scales(magnitudes: &[f32], means: &[f64], ratio: f32) -> Vec<f32> {
    let known = |magnitude: f32| magnitude.is_finite() && magnitude > 0.0;
    let power = |(magnitude, mean): (&f32, &f64)| {
        if known(*magnitude) { magnitude.powf(ratio) / ((*mean as f32).powf(1.0 - ratio) + 1e-4) } else { 0.0 }
    };
    about_the_middle(&magnitudes.iter().zip(means).map(power).collect::<Vec<f32>>())
}

/// Divided by their geometric middle; 1 for what is no number above 0.
fn about_the_middle(powers: &[f32]) -> Vec<f32> {
    let known = |power: f32| power.is_finite() && power > 0.0;
    let present = || powers.iter().copied().filter(|power| known(*power));
    let middle = (present().fold(0.0, f32::max) * present().fold(f32::INFINITY, f32::min)).sqrt();
    let scale = |power: &f32| {
        if known(*power) && known(middle) { (power / middle).clamp(1.0 / LARGEST_FACTOR, LARGEST_FACTOR) } else { 1.0 }
    };
    powers.iter().map(scale).collect()
}

#[cfg(test)]
mod tests {
    use super::scales;

    #[test]
    fn scales_lie_about_one_and_are_never_none() {
        let found = scales(&[1.0, 4.0, 16.0, 0.0, f32::NAN, f32::INFINITY], 0.5);
        assert_eq!(found, [0.5, 1.0, 2.0, 1.0, 1.0, 1.0]);
        assert_eq!(scales(&[0.0, 0.0], 0.5), [1.0, 1.0]);
        assert_eq!(scales(&[3.0, 7.0], 0.0), [1.0, 1.0]);
        assert!(scales(&[1e-30, 1e30], 1.0).iter().all(|scale| (1.0 / 256.0..=256.0).contains(scale)));
    }
}
