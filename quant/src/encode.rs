//! One tensor from values to the bytes of its container, and back to an error. Pure computation: no files, no order.
//!
//! Rows are worked on in blocks whose size depends on the tensor alone, and block results are added in order, so the
//! bytes and the errors are the same for any number of threads.

use std::ops::Range;

use rayon::prelude::*;
use reweight_kernels::{DEFAULT_CANDIDATES, Grid, Kernels, RowCodes, RowErrors, ScaleFormat};

use crate::error::RunError;
use crate::pack::compressed_tensors::{pack_zeros, packed_bytes};
use crate::plan::Method;
use crate::scheme::Scheme;
use crate::store::Weight;
use crate::tensor::Dtype;

/// Elements of a block of rows: large enough that threads rarely meet, small enough to stay in a core's cache.
const BLOCK_ELEMENTS: usize = 1 << 16;

/// Elements read at a time where rows are compared.
const STEP_ELEMENTS: usize = 1 << 12;

/// Codes, scales and zeros of one tensor, in the container's byte layout. Reused from tensor to tensor.
#[derive(Debug, Default)]
pub struct Encoded {
    /// `weight_packed`.
    pub packed: Vec<u8>,
    /// `weight_scale`.
    pub scales: Vec<u8>,
    /// `weight_zero_point`; empty when symmetric.
    pub zeros: Vec<u8>,
    /// `weight_shape`.
    pub shape: Vec<u8>,
    /// Zero codes by row, before they are packed down the columns.
    zero_codes: Vec<u8>,
}

impl Encoded {
    /// Bytes of all buffers for a tensor of that size.
    #[must_use]
    pub fn bytes_needed(rows: usize, columns: usize, scheme: Scheme, scale_dtype: Dtype) -> usize {
        let groups = columns.div_ceil(scheme.group_len(columns).max(1));
        let zeros = if scheme.symmetric() { 0 } else { packed_bytes(rows, scheme.bits()) * groups };
        rows * packed_bytes(columns, scheme.bits()) + rows * groups * scale_dtype.bytes() + zeros + rows * groups + 16
    }

    /// The tensors of the container, in the order of [`crate::pack::compressed_tensors::outputs`].
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let zeros = (!self.zeros.is_empty()).then_some(self.zeros.as_slice());
        [Some(self.packed.as_slice()), Some(&self.scales), zeros, Some(&self.shape)].into_iter().flatten()
    }
}

/// Sums of squared error of a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TensorError {
    /// Of what is stored.
    pub squared: f64,
    /// Of `rtn` at the same scheme.
    pub squared_rtn: f64,
}

/// How a tensor is quantized.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// Bits, group, symmetry.
    pub scheme: Scheme,
    /// Element type of the scales: bf16, f16 or f32.
    pub scale_dtype: Dtype,
    /// How codes are chosen.
    pub method: Method,
}

impl Recipe {
    fn grid(&self) -> Grid {
        let format = match self.scale_dtype {
            Dtype::F16 => ScaleFormat::F16,
            Dtype::Bf16 => ScaleFormat::Bf16,
            _ => ScaleFormat::F32,
        };
        Grid::new(self.scheme.bits(), self.scheme.symmetric(), format).expect("a scheme has 2 to 8 bits, as a grid has")
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
/// `RunError::NonFinite` for the first weight (in row-major order) that is NaN or infinite.
pub fn encode(kernels: &Kernels, weight: &Weight, recipe: &Recipe, out: &mut Encoded) -> Result<TensorError, RunError> {
    let (rows, columns, scheme) = (weight.rows(), weight.columns(), recipe.scheme);
    let groups = columns.div_ceil(scheme.group_len(columns));
    let row_bytes = packed_bytes(columns, scheme.bits());
    let scale_bytes = groups * recipe.scale_dtype.bytes();
    out.packed.resize(rows * row_bytes, 0);
    out.scales.resize(rows * scale_bytes, 0);
    out.zero_codes.resize(rows * groups, 0);
    out.shape.clear();
    out.shape.extend([rows, columns].into_iter().flat_map(|size| (size as u64).to_le_bytes()));
    let block = (BLOCK_ELEMENTS / columns).max(1);
    let parts = (out.packed.par_chunks_mut(block * row_bytes))
        .zip(out.scales.par_chunks_mut(block * scale_bytes))
        .zip(out.zero_codes.par_chunks_mut(block * groups));
    let results: Vec<Result<TensorError, (usize, f32)>> = blocks(rows, columns)
        .zip(parts)
        .map_init(
            || Scratch::new(columns, groups),
            |scratch, (rows, ((packed, scales), zeros))| {
                let mut total = TensorError::default();
                for (index, row) in rows.enumerate() {
                    let mut stored = StoredRow {
                        packed: &mut packed[index * row_bytes..][..row_bytes],
                        scales: &mut scales[index * scale_bytes..][..scale_bytes],
                        zeros: &mut zeros[index * groups..][..groups],
                    };
                    let error = scratch.encode_row(kernels, weight, row, recipe, &mut stored)?;
                    total.squared += error.squared;
                    total.squared_rtn += error.squared_rtn;
                }
                Ok(total)
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
        total.squared += error.squared;
        total.squared_rtn += error.squared_rtn;
    }
    out.zeros.clear();
    if !scheme.symmetric() {
        out.zeros.resize(packed_bytes(rows, scheme.bits()) * groups, 0);
        pack_zeros(scheme.bits(), groups, &out.zero_codes, &mut out.zeros);
    }
    Ok(total)
}

/// Buffers of one thread.
struct Scratch {
    row: Vec<f32>,
    codes: Vec<u8>,
    scales: Vec<f32>,
}

/// Where one row goes.
struct StoredRow<'a> {
    packed: &'a mut [u8],
    scales: &'a mut [u8],
    zeros: &'a mut [u8],
}

impl Scratch {
    fn new(columns: usize, groups: usize) -> Self {
        Self { row: vec![0.0; columns], codes: vec![0; columns], scales: vec![0.0; groups] }
    }

    fn encode_row(
        &mut self,
        kernels: &Kernels,
        weight: &Weight,
        row: usize,
        recipe: &Recipe,
        stored: &mut StoredRow<'_>,
    ) -> Result<RowErrors, (usize, f32)> {
        weight.read_rows(kernels, row..row + 1, &mut self.row);
        if let Some(index) = kernels.first_non_finite(&self.row) {
            return Err((row * self.row.len() + index, self.row[index]));
        }
        let group = recipe.scheme.group_len(self.row.len());
        let mut out = RowCodes { codes: &mut self.codes, scales: &mut self.scales, zeros: &mut *stored.zeros };
        let errors = match recipe.method {
            Method::Rtn => kernels.rtn(recipe.grid(), group, &self.row, None, &mut out),
            Method::Search => kernels.search(recipe.grid(), group, &self.row, None, DEFAULT_CANDIDATES, &mut out),
        };
        kernels.pack(recipe.scheme.bits(), &self.codes, stored.packed);
        write_elements(kernels, recipe.scale_dtype, &self.scales, stored.scales);
        Ok(errors)
    }
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

/// Casts rows of a weight to an element type.
pub fn cast_rows(kernels: &Kernels, weight: &Weight, rows: Range<usize>, dtype: Dtype, out: &mut Vec<u8>) {
    let columns = weight.columns();
    out.resize(rows.len() * columns * dtype.bytes(), 0);
    let width = columns * dtype.bytes();
    if width == 0 {
        return;
    }
    out.par_chunks_mut(width).enumerate().for_each_init(
        || vec![0.0; columns],
        |values, (index, bytes)| {
            let row = rows.start + index;
            weight.read_rows(kernels, row..row + 1, values);
            write_elements(kernels, dtype, values, bytes);
        },
    );
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
