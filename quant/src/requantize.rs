//! Quantized tensors with other values, stored as they were: the same container, bits and groups, or the same type of GGUF blocks.
//!
//! The grid that a group has already is a candidate beside the one that a search finds (for GGUF, the block as it is), and the one with
//! the smaller squared error is taken. So what is lost of a change is never more than the change, and where none is asked for
//! the bytes stay.

use rayon::prelude::*;
use reweight_kernels::{BLOCK_ROWS, DEFAULT_CANDIDATES, Kernels, RowCodes};

use crate::encode::write_elements;
use crate::error::RunError;
use crate::grid::affine;
use crate::pack::gguf::{WRITTEN, encode_rows};
use crate::pack::{CodedRows, Matrix, PackedTensor};
use crate::plan::Method;
use crate::store::gguf::dequantize;
use crate::store::{GgmlRows, Storage, Weight};

/// A tensor stored anew.
#[derive(Clone, Debug)]
pub struct Requantized {
    /// Bytes of its parts, in the order and of the lengths of [`Weight::stored_parts`].
    pub parts: Vec<Vec<u8>>,
    /// What became of the change.
    pub energy: Energy,
}

/// Sums of squares over the elements of quantized tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Energy {
    /// Of the change that was asked for.
    pub wanted: f64,
    /// Of what is stored less what was asked for.
    pub lost: f64,
}

impl Energy {
    /// Adds those of other elements.
    pub fn add(&mut self, other: Self) {
        self.wanted += other.wanted;
        self.lost += other.lost;
    }

    /// The share of the change that is there, 1 - lost / wanted; `None` where none was asked for.
    #[must_use]
    pub fn survived(self) -> Option<f64> {
        (self.wanted > 0.0).then(|| 1.0 - self.lost / self.wanted)
    }
}

/// Why a tensor cannot be given other values in the layout that it has, or `None` where it can.
#[must_use]
pub fn limit(weight: &Weight) -> Option<String> {
    match &weight.storage {
        Storage::Plain(plain) => Some(format!("{} is not quantized in groups or blocks", plain.dtype)),
        Storage::Ggml(rows) => {
            (!WRITTEN.contains(&rows.ty)).then(|| format!("{} is read here, but not written", rows.ty))
        }
        Storage::Packed(packed) if packed.is_reordered() => {
            Some("its columns are grouped in another order than their own".to_owned())
        }
        Storage::Packed(packed) if packed.is_padded() => {
            Some("its codes are padded, as compressed-tensors packed them before 0.18".to_owned())
        }
        Storage::Packed(packed) if !packed.scheme().is_affine() => Some(format!(
            "the codes of {} stand for levels, and new ones are chosen for integers only",
            packed.scheme()
        )),
        Storage::Packed(packed) => {
            let (matrix, layout) = (packed.matrix(), packed.container().layout());
            let by_scheme = layout.scheme_limit(matrix.scheme, packed.scale_dtype());
            by_scheme.or_else(|| layout.shape_limit(matrix.rows, matrix.columns, matrix.scheme.bits()))
        }
    }
}

/// A place and a value that is no number.
type NonFinite = (usize, f32);

/// Stores other values in a quantized tensor. `change` is given memory of one thread, the number of a row, its values, and where to
/// put the values wanted instead.
///
/// Cost: reads each stored byte once; memory for the parts once more, and a few rows for each thread. The same bytes for any
/// number of threads.
///
/// # Errors
/// `RunError::NonFinite` for the first value wanted that is NaN or infinite.
///
/// # Panics
/// Where [`limit`] names a reason against it.
pub fn requantize<S: Default + Send>(
    kernels: &'static Kernels,
    weight: &Weight,
    change: impl Fn(&mut S, usize, &[f32], &mut [f32]) + Sync,
) -> Result<Requantized, RunError> {
    let result = match &weight.storage {
        Storage::Packed(packed) => in_groups(kernels, packed, change),
        Storage::Ggml(rows) => in_blocks(kernels, weight, rows, change),
        Storage::Plain(_) => unreachable!("plain tensors have a limit"),
    };
    result.map_err(|(index, value)| RunError::NonFinite {
        file: weight.file().to_owned(),
        tensor: weight.name.clone(),
        index,
        value,
    })
}

fn sum(results: Vec<Result<Energy, NonFinite>>) -> Result<Energy, NonFinite> {
    results.into_iter().try_fold(Energy::default(), |mut total, result| {
        total.add(result?);
        Ok(total)
    })
}

/// Memory of one thread for rows in groups.
struct Scratch {
    base: Vec<f32>,
    wanted: Vec<f32>,
    old: OwnedCodes,
    new: OwnedCodes,
}

/// What a row is made of.
struct OwnedCodes {
    codes: Vec<u8>,
    scales: Vec<f32>,
    zeros: Vec<u8>,
}

impl OwnedCodes {
    fn new(columns: usize, groups: usize) -> Self {
        Self { codes: vec![0; columns], scales: vec![0.0; groups], zeros: vec![0; groups] }
    }
}

fn in_groups<S: Default + Send>(
    kernels: &'static Kernels,
    packed: &PackedTensor,
    change: impl Fn(&mut S, usize, &[f32], &mut [f32]) + Sync,
) -> Result<Requantized, NonFinite> {
    let (matrix, scale_dtype) = (packed.matrix(), packed.scale_dtype());
    let Matrix { columns, scheme, .. } = matrix;
    let (groups, group, grid) = (matrix.groups(), scheme.group_len(columns), affine(scheme, scale_dtype));
    let mut rows = CodedRows::default();
    rows.resize(matrix, scale_dtype);
    let results = (rows.packed.par_chunks_mut(matrix.row_bytes()))
        .zip(rows.scales.par_chunks_mut(groups * scale_dtype.bytes()))
        .zip(rows.zeros.par_chunks_mut(groups))
        .enumerate()
        .map_init(
            || (Scratch::new(columns, groups), S::default()),
            |(scratch, own), (row, ((codes, scales), zeros))| {
                scratch.read(kernels, packed, row, group);
                change(own, row, &scratch.base, &mut scratch.wanted);
                if let Some(index) = kernels.first_non_finite(&scratch.wanted) {
                    return Err((row * columns + index, scratch.wanted[index]));
                }
                let OwnedCodes { codes: new, scales: new_scales, zeros: new_zeros } = &mut scratch.new;
                let mut found = RowCodes { codes: new, scales: new_scales, zeros: new_zeros };
                kernels.search(grid, group, &scratch.wanted, None, DEFAULT_CANDIDATES, &mut found);
                let energy = scratch.settle(packed, group);
                kernels.pack(scheme.bits(), &scratch.new.codes, codes);
                write_elements(kernels, scale_dtype, &scratch.new.scales, scales);
                zeros.copy_from_slice(&scratch.new.zeros);
                Ok(energy)
            },
        )
        .collect();
    let energy = sum(results)?;
    let mut parts = Vec::new();
    packed.container().layout().lay_out(kernels, matrix, &mut rows, &mut parts);
    Ok(Requantized { parts: packed.with_own_extra(parts), energy })
}

impl Scratch {
    fn new(columns: usize, groups: usize) -> Self {
        let [old, new] = [OwnedCodes::new(columns, groups), OwnedCodes::new(columns, groups)];
        Self { base: vec![0.0; columns], wanted: vec![0.0; columns], old, new }
    }

    fn read(&mut self, kernels: &Kernels, packed: &PackedTensor, row: usize, group: usize) {
        let OwnedCodes { codes, scales, zeros } = &mut self.old;
        packed.read_codes(kernels, row, codes, scales, zeros);
        kernels.dequantize(group, codes, scales, zeros, &mut self.base);
    }

    /// Takes for each group the grid it had where that is no worse than the new one.
    fn settle(&mut self, packed: &PackedTensor, group: usize) -> Energy {
        let scheme = packed.scheme();
        let (middle, most) = (1_u8 << (scheme.bits() - 1), u8::MAX >> (8 - scheme.bits()));
        let mut total = Energy::default();
        for index in 0..self.old.scales.len() {
            let range = index * group..(index + 1) * group;
            let (wanted, base) = (&self.wanted[range.clone()], &self.base[range.clone()]);
            let energy = wanted.iter().zip(base).map(|(a, b)| square(a - b)).sum::<f64>();
            let (scale, zero) = (self.old.scales[index], self.old.zeros[index]);
            let found = (self.new.scales[index], self.new.zeros[index]);
            let mut lost = error(wanted, &self.new.codes[range.clone()], found);
            let storable = if scheme.symmetric() { zero == middle } else { zero <= most };
            if storable {
                let codes = &mut self.old.codes[range.clone()];
                for (code, wanted) in codes.iter_mut().zip(wanted).filter(|_| scale != 0.0) {
                    *code = (wanted / scale + f32::from(zero)).round_ties_even().clamp(0.0, f32::from(most)) as u8;
                }
                let own = error(wanted, codes, (scale, zero));
                if own <= lost {
                    lost = own;
                    self.new.codes[range].copy_from_slice(codes);
                    (self.new.scales[index], self.new.zeros[index]) = (scale, zero);
                }
            }
            total.add(Energy { wanted: energy, lost });
        }
        total
    }
}

fn square(value: f32) -> f64 {
    f64::from(value) * f64::from(value)
}

fn error(wanted: &[f32], codes: &[u8], (scale, zero): (f32, u8)) -> f64 {
    let stored = codes.iter().map(|&code| (f32::from(code) - f32::from(zero)) * scale);
    wanted.iter().zip(stored).map(|(wanted, stored)| square(stored - wanted)).sum()
}

fn in_blocks<S: Default + Send>(
    kernels: &'static Kernels,
    weight: &Weight,
    rows: &GgmlRows,
    change: impl Fn(&mut S, usize, &[f32], &mut [f32]) + Sync,
) -> Result<Requantized, NonFinite> {
    let columns = weight.columns();
    let row_bytes = columns / rows.ty.block_elements() * rows.ty.block_bytes();
    if row_bytes == 0 || weight.rows() == 0 {
        return Ok(Requantized { parts: vec![rows.data().to_vec()], energy: Energy::default() });
    }
    // The row of the weight that each row of the file is.
    let mut row_of: Vec<usize> = (0..weight.rows()).collect();
    if !rows.vector {
        (0..weight.rows()).for_each(|row| row_of[rows.row_order.source_row(row)] = row);
    }
    let ones = vec![1.0; columns];
    let mut stored = vec![0; rows.data().len()];
    let results = (stored.par_chunks_mut(BLOCK_ROWS * row_bytes))
        .zip(rows.data().par_chunks(BLOCK_ROWS * row_bytes))
        .zip(row_of.par_chunks(BLOCK_ROWS))
        .map_init(
            || (S::default(), [vec![0.0; columns], vec![0.0; BLOCK_ROWS * columns], Vec::new()]),
            |(own, [base, wanted, back]), ((new, old), row_of)| {
                let wanted = &mut wanted[..row_of.len() * columns];
                for (&row, wanted) in row_of.iter().zip(wanted.chunks_exact_mut(columns)) {
                    weight.read_rows(kernels, row..row + 1, base);
                    change(own, row, base, wanted);
                    if let Some(index) = kernels.first_non_finite(wanted) {
                        return Err((row * columns + index, wanted[index]));
                    }
                    rows.to_stored(wanted, base);
                }
                encode_rows(kernels, rows.ty, Method::Search, wanted, &ones, new);
                back.resize(rows.ty.block_elements(), 0.0);
                Ok(settle_blocks(rows, wanted, old, new, back))
            },
        )
        .collect();
    let energy = sum(results)?;
    Ok(Requantized { parts: vec![stored], energy })
}

/// Leaves each block as it was where the new one is no nearer to what is wanted. Floats are neither counted nor compared.
fn settle_blocks(rows: &GgmlRows, wanted: &[f32], old: &[u8], new: &mut [u8], back: &mut [f32]) -> Energy {
    let mut total = Energy::default();
    let (elements, bytes) = (rows.ty.block_elements(), rows.ty.block_bytes());
    if elements == 1 {
        return total;
    }
    let mut error = |block: &[u8], wanted: &[f32]| {
        dequantize(rows.ty, block, back);
        wanted.iter().zip(back.iter()).map(|(a, b)| square(a - b)).sum::<f64>()
    };
    let blocks = wanted.chunks_exact(elements).zip(old.chunks_exact(bytes)).zip(new.chunks_exact_mut(bytes));
    for ((wanted, old), new) in blocks {
        let (unchanged, mut lost) = (error(old, wanted), error(new, wanted));
        if unchanged <= lost {
            lost = unchanged;
            new.copy_from_slice(old);
        }
        total.add(Energy { wanted: unchanged, lost });
    }
    total
}
