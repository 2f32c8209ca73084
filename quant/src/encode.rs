//! One tensor from values to the bytes of its container, and back to an error. Pure computation: no files, no order.
//!
//! Rows are worked on in blocks whose size depends on the tensor alone, and block results are added in order, so the
//! bytes and the errors are the same for any number of threads.

pub mod clip;
mod rows;
mod settle;

use std::ops::Range;

use rayon::prelude::*;
use reweight_kernels::{Kernels, QuadraticForm};

use crate::compensate::Factor;
use crate::error::RunError;
use crate::grid::Coder;
use crate::importance::Importance;
use crate::pack::{CodedRows, Container, Matrix, PackedTensor};
use crate::plan::Method;
use crate::scheme::Scheme;
use crate::store::Weight;
use crate::store::safetensors::NewTensor;
use crate::tensor::Dtype;
use rows::{Scratch, Stored};

/// Elements of a block of rows: large enough that threads rarely meet, small enough to stay in a core's cache.
const BLOCK_ELEMENTS: usize = 1 << 16;

/// Elements read at a time where rows are compared.
const STEP_ELEMENTS: usize = 1 << 12;

/// One tensor in the container's byte layout. Reused from tensor to tensor.
#[derive(Debug, Default)]
pub struct Encoded {
    /// What the container is laid out from.
    rows: CodedRows,
    /// The tensors of the container, in its order.
    parts: Vec<Vec<u8>>,
}

impl Encoded {
    /// Bytes of all buffers for a tensor of that size.
    #[must_use]
    pub fn bytes_needed(container: Container, matrix: Matrix, scale_dtype: Dtype) -> usize {
        let outputs = container.layout().outputs("", matrix, scale_dtype);
        let zeros = matrix.rows * matrix.groups();
        let stored = outputs.iter().map(NewTensor::bytes).sum::<usize>() + zeros;
        match container {
            // Codes and scales are stored as they are made.
            Container::CompressedTensors => stored,
            _ => stored + matrix.rows * (matrix.row_bytes() + matrix.groups() * scale_dtype.bytes()),
        }
    }

    /// The tensors of the container, in its order.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().map(Vec::as_slice)
    }

    /// Takes the codes of a tensor that is quantized already, to be laid out by another container.
    ///
    /// # Errors
    /// `RunError::CannotHold` where they cannot be said there.
    pub fn repack(
        &mut self,
        kernels: &Kernels,
        weight: &Weight,
        packed: &PackedTensor,
        (container, scheme, scale_dtype): (Container, Scheme, Dtype),
    ) -> Result<(), RunError> {
        packed.coded_rows(kernels, (scheme, scale_dtype), &mut self.rows).map_err(|why| RunError::CannotHold {
            file: weight.file().to_owned(),
            tensor: weight.name.clone(),
            container: container.name(),
            why,
        })?;
        let matrix = Matrix { rows: weight.rows(), columns: weight.columns(), scheme };
        container.layout().lay_out(kernels, matrix, &mut self.rows, &mut self.parts);
        Ok(())
    }
}

/// Sums of squared error of a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TensorError {
    /// Of what is stored.
    pub squared: f64,
    /// Of `rtn` at the same scheme.
    pub squared_rtn: f64,
    /// Squared error of the outputs a token, summed over the rows, as the statistics tell it; `None` without statistics.
    pub output: Option<f64>,
    /// Of `rtn` at the same scheme on the weights before any scaling.
    pub output_rtn: Option<f64>,
    /// Weights within the band of where rounding would go the other way.
    pub near_bounds: u64,
}

impl TensorError {
    /// Adds the errors of more rows.
    fn add(&mut self, other: Self) {
        self.squared += other.squared;
        self.squared_rtn += other.squared_rtn;
        self.output = sum(self.output, other.output);
        self.output_rtn = sum(self.output_rtn, other.output_rtn);
        self.near_bounds += other.near_bounds;
    }
}

fn sum(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a + b),
        (a, b) => a.or(b),
    }
}

/// How a tensor is quantized.
#[derive(Clone, Copy, Debug)]
pub struct Recipe<'a> {
    /// Bits, group, symmetry.
    pub scheme: Scheme,
    /// Element type of the scales: bf16, f16 or f32.
    pub scale_dtype: Dtype,
    /// What it is laid out as.
    pub container: Container,
    /// How codes are chosen.
    pub method: Method,
    /// Steps from where rounding would go the other way within which a weight is counted.
    pub band: f32,
    /// What statistics say about its columns.
    pub importance: Option<&'a Importance>,
}

impl Recipe<'_> {
    /// What error-compensating rounding goes by, where that is the method and there is a Gram matrix.
    fn compensation(&self) -> Option<(&Importance, &Factor)> {
        let importance = self.importance.filter(|_| self.method.compensates())?;
        Some((importance, importance.factor.as_ref()?))
    }

    /// What weights in doubt are decided by, where that is the method and there is a Gram matrix.
    fn settling(&self) -> Option<(&Importance, &QuadraticForm)> {
        let importance = self.importance.filter(|_| self.method.settles())?;
        Some((importance, importance.form.as_ref()?))
    }

    /// What the rows of a tensor are put on.
    fn coder(&self, kernels: &Kernels, weight: &Weight) -> Coder {
        let moments = self.importance.map(|importance| importance.scaled_moments.as_slice());
        let searched = !matches!(self.method, Method::Rtn | Method::AwqPaper);
        Coder::of(kernels, weight, (self.scheme, self.scale_dtype), moments, searched)
    }
}

/// Blocks of whole rows that cover `rows`, each but the last of the same size.
#[must_use]
pub fn blocks(rows: usize, columns: usize) -> impl IndexedParallelIterator<Item = Range<usize>> {
    let block = (BLOCK_ELEMENTS / columns.max(1)).max(1);
    (0..rows.div_ceil(block)).into_par_iter().map(move |index| index * block..((index + 1) * block).min(rows))
}

/// Quantizes a matrix into the container's layout.
///
/// Cost: reads each stored byte once; memory as [`Encoded::bytes_needed`] plus one row per thread.
///
/// # Errors
/// `RunError::NonFinite` for the first weight (in row-major order) that is NaN or infinite, `RunError::Overflow` where a scale does not
/// fit its type.
pub fn encode(
    kernels: &Kernels,
    weight: &Weight,
    recipe: &Recipe<'_>,
    out: &mut Encoded,
) -> Result<TensorError, RunError> {
    let (rows, columns, scheme) = (weight.rows(), weight.columns(), recipe.scheme);
    let matrix = Matrix { rows, columns, scheme };
    let (groups, row_bytes) = (matrix.groups(), matrix.row_bytes());
    let scale_bytes = groups * recipe.scale_dtype.bytes();
    out.rows.resize(matrix, recipe.scale_dtype);
    let coder = recipe.coder(kernels, weight);
    out.rows.levels.clear();
    out.rows.levels.extend_from_slice(coder.levels());
    let block = (BLOCK_ELEMENTS / columns).max(1);
    let parts = (out.rows.packed.par_chunks_mut(block * row_bytes))
        .zip(out.rows.scales.par_chunks_mut(block * scale_bytes))
        .zip(out.rows.zeros.par_chunks_mut(block * groups));
    let results: Vec<Result<TensorError, (usize, f32)>> = blocks(rows, columns)
        .zip(parts)
        .map_init(
            || Scratch::new(&coder, columns, groups),
            |scratch, (rows, ((packed, scales), zeros))| {
                scratch.encode(kernels, weight, rows, recipe, &mut Stored { packed, scales, zeros })
            },
        )
        .collect();
    let mut total = TensorError::default();
    for result in results {
        let error = result.map_err(|(index, value)| RunError::NonFinite {
            file: weight.file().to_owned(),
            tensor: weight.name.clone(),
            index,
            value,
        })?;
        total.add(error);
    }
    if recipe.scale_dtype == Dtype::F16
        && let Some(first) = first_saturated(&out.rows.scales)
    {
        return Err(too_large(kernels, weight, scheme, (first / groups, first % groups)));
    }
    recipe.container.layout().lay_out(kernels, matrix, &mut out.rows, &mut out.parts);
    Ok(total)
}

/// The first scale that is as large as f16 has any: what it was to be was more.
fn first_saturated(scales: &[u8]) -> Option<usize> {
    let saturated = |bytes: &[u8; 2]| u16::from_le_bytes(*bytes) & 0x7fff >= 0x7bff;
    scales.as_chunks::<2>().0.iter().position(saturated)
}

/// The error for a group whose scale is out of range, with the largest of its weights.
fn too_large(kernels: &Kernels, weight: &Weight, scheme: Scheme, (row, group): (usize, usize)) -> RunError {
    let columns = weight.columns();
    let len = scheme.group_len(columns);
    let mut values = vec![0.0; columns];
    weight.read_rows(kernels, row..row + 1, &mut values);
    let of_group = group * len..((group + 1) * len).min(columns);
    let largest = of_group.max_by(|a, b| values[*a].abs().total_cmp(&values[*b].abs())).unwrap_or(0);
    let (file, tensor, index) = (weight.file().to_owned(), weight.name.clone(), row * columns + largest);
    RunError::Overflow { file, tensor, index, value: values[largest], ty: "a scale in F16".to_owned() }
}

/// Rounds f32 values to an element type, little-endian.
///
/// # Panics
/// For an element type that is no float of 16, 32 or 64 bits; a plan asks for no other.
pub fn write_elements(kernels: &Kernels, dtype: Dtype, values: &[f32], out: &mut [u8]) {
    match dtype {
        Dtype::Bf16 => kernels.f32_to_bf16(values, out),
        Dtype::F16 => kernels.f32_to_f16(values, out),
        Dtype::F32 => {
            for (bytes, value) in out.as_chunks_mut::<4>().0.iter_mut().zip(values) {
                *bytes = value.to_le_bytes();
            }
        }
        Dtype::F64 => {
            for (bytes, value) in out.as_chunks_mut::<8>().0.iter_mut().zip(values) {
                *bytes = f64::from(*value).to_le_bytes();
            }
        }
        _ => unreachable!("plans cast to floats of 16 bits or more, not to {dtype}"),
    }
}

/// The least magnitude that rounds to infinity in a type narrower than f32: half a unit above the largest number.
fn overflows_from(dtype: Dtype) -> f32 {
    match dtype {
        Dtype::F16 => 65520.0,
        Dtype::Bf16 => f32::from_bits(0x7f7f_8000),
        _ => f32::INFINITY,
    }
}

/// Casts rows of a weight to an element type. NaN and infinities stay what they are.
///
/// # Errors
/// `RunError::Overflow` for the first finite value of the rows that the type does not hold.
pub fn cast_rows(
    kernels: &Kernels,
    weight: &Weight,
    rows: Range<usize>,
    dtype: Dtype,
    out: &mut Vec<u8>,
) -> Result<(), RunError> {
    let columns = weight.columns();
    out.resize(rows.len() * columns * dtype.bytes(), 0);
    let width = columns * dtype.bytes();
    if width == 0 {
        return Ok(());
    }
    let bound = overflows_from(dtype);
    let overflows = |value: &f32| value.is_finite() && value.abs() >= bound;
    let first = out
        .par_chunks_mut(width)
        .enumerate()
        .map_init(
            || vec![0.0; columns],
            |values, (index, bytes)| {
                let row = rows.start + index;
                weight.read_rows(kernels, row..row + 1, values);
                write_elements(kernels, dtype, values, bytes);
                // Without a branch an element, since next to no row has one.
                let any = values.iter().fold(false, |any, value| any | overflows(value));
                let column = if any { values.iter().position(overflows) } else { None };
                column.map(|column| (row * columns + column, values[column]))
            },
        )
        .find_first(Option::is_some);
    match first.flatten() {
        None => Ok(()),
        Some((index, value)) => {
            let (file, tensor) = (weight.file().to_owned(), weight.name.clone());
            Err(RunError::Overflow { file, tensor, index, value, ty: dtype.to_string() })
        }
    }
}

/// The squared error of a stored tensor against its source, summed as the quantizer sums it.
#[must_use]
pub fn squared_error(kernels: &Kernels, source: &Weight, stored: &Weight, scheme: Scheme) -> f64 {
    let columns = source.columns();
    let group = scheme.group_len(columns);
    // Rows read at a time: few enough for the first cache, enough that a call is not felt.
    let step = (STEP_ELEMENTS / columns.max(1)).max(1);
    let sums: Vec<f64> = blocks(source.rows(), columns)
        .map_init(
            || (vec![0.0; step * columns], vec![0.0; step * columns]),
            |(a, b), rows| {
                let mut sum = 0.0;
                for start in rows.clone().step_by(step) {
                    let rows = start..(start + step).min(rows.end);
                    let (a, b) = (&mut a[..rows.len() * columns], &mut b[..rows.len() * columns]);
                    stored.read_rows(kernels, rows.clone(), a);
                    source.read_rows(kernels, rows, b);
                    for (a, b) in a.chunks_exact(columns).zip(b.chunks_exact(columns)) {
                        sum += kernels.squared_error(group, a, b, None);
                    }
                }
                sum
            },
        )
        .collect();
    sums.into_iter().fold(0.0, |total, sum| total + sum)
}
