//! One tensor on its way into a GGUF file: its rows as values, as bytes, and the error of these.

use rayon::prelude::*;
use reweight_kernels::{BLOCK_ROWS, Kernels};

use super::GgufPlan;
use crate::error::RunError;
use crate::importance::Importance;
use crate::pack::PackedTensor;
use crate::pack::gguf::{encode_rows, overflows_from};
use crate::plan::Method;
use crate::scheme::Scheme;
use crate::stats::Statistics;
use crate::store::gguf::export::Exported;
use crate::store::gguf::{GgmlType, RowOrder, dequantize};
use crate::store::{Model, Storage, Weight};
use crate::stream::Control;

/// Values whose squared errors are added in f32 before the sum goes on in f64.
const ERROR_GROUP: usize = 256;

/// Sums of squared error of a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sums {
    pub(super) squared: f64,
    /// Of the whole range of each block, where it is asked for.
    pub(super) squared_rtn: Option<f64>,
}

impl Sums {
    pub(super) fn add(&mut self, other: Self) {
        self.squared += other.squared;
        self.squared_rtn = self.squared_rtn.zip(other.squared_rtn).map(|(a, b)| a + b);
    }
}

/// One tensor on its way into the file.
pub(super) struct TensorWork<'a> {
    kernels: &'static Kernels,
    exported: &'a Exported,
    ty: GgmlType,
    method: Method,
    repack: bool,
    compare: bool,
    sources: Vec<&'a Weight>,
    /// How much each column matters, for each source.
    importance: Vec<Vec<f32>>,
    columns: usize,
}

impl<'a> TensorWork<'a> {
    pub(super) fn of(
        model: &'a Model,
        plan: &'a GgufPlan,
        index: usize,
        (kernels, statistics): (&'static Kernels, Option<&Statistics>),
    ) -> Self {
        let exported = &plan.exported[index];
        let columns = exported.shape.last().copied().unwrap_or(1);
        let sources: Vec<&Weight> = exported.sources.iter().map(|&source| &model.weights()[source]).collect();
        let importance = sources.iter().map(|weight| {
            let input = statistics.and_then(|statistics| statistics.of_layer(&weight.name));
            let found = input.and_then(|input| Importance::of(kernels, input, weight, false));
            let moments = found.map(|importance| importance.scaled_moments);
            moments.filter(|moments| moments.iter().any(|moment| *moment > 0.0)).unwrap_or_else(|| vec![1.0; columns])
        });
        let (ty, method, repack) = (plan.types[index], plan.method, plan.repack);
        let compare = plan.compare && method != Method::Rtn && !repack && ty.block_elements() > 1;
        Self { kernels, exported, ty, method, repack, compare, importance: importance.collect(), sources, columns }
    }

    pub(super) fn n_rows(&self) -> usize {
        self.exported.shape.iter().product::<usize>() / self.columns.max(1)
    }

    pub(super) fn row_bytes(&self) -> usize {
        self.columns / self.ty.block_elements() * self.ty.block_bytes()
    }

    /// The source of a row of the file, and the row there.
    fn place(&self, row: usize) -> (usize, usize) {
        let of_each = (self.n_rows() / self.sources.len()).max(1);
        let order = if self.exported.shape.len() < 2 { RowOrder::Natural } else { self.exported.row_order };
        (row / of_each, order.hf_row(row % of_each))
    }

    /// The values of a row of the file.
    fn values(&self, row: usize, out: &mut [f32]) -> Result<(), RunError> {
        let (source, source_row) = self.place(row);
        let weight = self.sources[source];
        if self.exported.shape.len() < 2 {
            // A vector is one row, whatever its source's shape: [1, n] becomes [n].
            weight.read_rows(self.kernels, 0..weight.rows(), out);
            if self.exported.row_order != RowOrder::Natural {
                let stored = out.to_vec();
                out.iter_mut().enumerate().for_each(|(j, value)| *value = stored[self.exported.row_order.hf_row(j)]);
            }
        } else {
            weight.read_rows(self.kernels, source_row..source_row + 1, out);
        }
        let place = |index: usize| (weight.file().to_owned(), weight.name.clone(), source_row * self.columns + index);
        // Floats may be what they are; a block of them would be lost with one.
        if self.ty.block_elements() > 1
            && let Some(index) = self.kernels.first_non_finite(out)
        {
            let ((file, tensor, index), value) = (place(index), out[index]);
            return Err(RunError::NonFinite { file, tensor, index, value });
        }
        if self.exported.plus_one {
            for value in &mut *out {
                *value += 1.0;
            }
        }
        let bound = overflows_from(self.ty);
        let overflows = |value: &f32| value.is_finite() && value.abs() >= bound;
        // Without a branch an element, since next to no row has one.
        if out.iter().fold(false, |any, value| any | overflows(value))
            && let Some(column) = out.iter().position(overflows)
        {
            let ((file, tensor, index), value, ty) = (place(column), out[column], self.ty.to_string());
            return Err(RunError::Overflow { file, tensor, index, value, ty });
        }
        Ok(())
    }

    /// Nothing, of as many rows as none.
    pub(super) fn no_sums(&self) -> Sums {
        Sums { squared: 0.0, squared_rtn: self.compare.then_some(0.0) }
    }

    /// Stores the rows that `bytes` has room for, from `start` on, on all threads.
    pub(super) fn piece(&self, start: usize, bytes: &mut [u8]) -> Result<Sums, RunError> {
        let found: Result<Vec<Sums>, RunError> = bytes
            .par_chunks_mut(BLOCK_ROWS * self.row_bytes())
            .enumerate()
            .map_init(|| self.room(), |room, (index, bytes)| self.rows(start + index * BLOCK_ROWS, room, bytes))
            .collect();
        let mut sums = self.no_sums();
        found?.into_iter().for_each(|found| sums.add(found));
        Ok(sums)
    }

    /// For the values of some rows, and for what is read back of them.
    pub(super) fn room(&self) -> [Vec<f32>; 2] {
        [(); 2].map(|()| vec![0.0; BLOCK_ROWS.min(self.n_rows()) * self.columns])
    }

    /// Stores the rows that `bytes` has room for, from `start` on.
    pub(super) fn rows(
        &self,
        start: usize,
        [values, back]: &mut [Vec<f32>; 2],
        bytes: &mut [u8],
    ) -> Result<Sums, RunError> {
        let n_rows = bytes.len() / self.row_bytes();
        let (values, back) = (&mut values[..n_rows * self.columns], &mut back[..n_rows * self.columns]);
        for (index, values) in values.chunks_exact_mut(self.columns).enumerate() {
            self.values(start + index, values)?;
        }
        let mut sums = self.no_sums();
        if self.repack
            && self.ty.block_elements() > 1
            && let Storage::Packed(_) = &self.sources[0].storage
        {
            for (index, bytes) in bytes.chunks_exact_mut(self.row_bytes()).enumerate() {
                self.repack_row(start + index, bytes)?;
            }
        } else {
            if self.compare {
                self.encode(Method::Rtn, start, values, bytes);
                sums.squared_rtn = Some(self.error(values, bytes, back));
            }
            self.encode(self.method, start, values, bytes);
        }
        if self.ty.block_elements() > 1 {
            sums.squared = self.error(values, bytes, back);
        }
        Ok(sums)
    }

    /// The squared error of stored rows, decoded as the reader of a file decodes them, in the order of the kernels.
    fn error(&self, values: &[f32], stored: &[u8], back: &mut [f32]) -> f64 {
        dequantize(self.ty, stored, back);
        self.kernels.squared_error(ERROR_GROUP.min(self.columns), back, values, None)
    }

    /// Stores rows, those of each source by its own weights.
    fn encode(&self, method: Method, start: usize, values: &[f32], bytes: &mut [u8]) {
        let (mut row, end) = (start, start + values.len() / self.columns);
        while row < end {
            let (source, _) = self.place(row);
            let next = (row + 1..end).find(|next| self.place(*next).0 != source).unwrap_or(end);
            let of = |size: usize| (row - start) * size..(next - start) * size;
            let (values, bytes) = (&values[of(self.columns)], &mut bytes[of(self.row_bytes())]);
            encode_rows(self.kernels, self.ty, method, values, &self.importance[source], bytes);
            row = next;
        }
    }

    /// A row's codes as they are.
    fn repack_row(&self, row: usize, bytes: &mut [u8]) -> Result<(), RunError> {
        let (source, source_row) = self.place(row);
        let weight = self.sources[source];
        let refuse = |why| {
            let (file, tensor) = (weight.file().to_owned(), weight.name.clone());
            RunError::CannotHold { file, tensor, container: "gguf", why }
        };
        match &weight.storage {
            Storage::Packed(packed) => self.repack(packed, source_row, bytes).map_err(refuse),
            Storage::Plain(_) | Storage::Ggml(_) => {
                Err(refuse("one of the tensors it is made of is not packed".to_owned()))
            }
        }
    }

    fn repack(&self, packed: &PackedTensor, row: usize, bytes: &mut [u8]) -> Result<(), String> {
        let group = packed.scheme().group_len(self.columns);
        let (mut codes, groups) = (vec![0; self.columns], self.columns / group);
        let (mut scales, mut zeros) = (vec![0.0; groups], vec![0; groups]);
        packed.read_as_affine(self.kernels, row, (&mut codes, &mut scales, &mut zeros));
        let bits = packed.scheme().as_affine().map_or(8, Scheme::bits);
        let middle = 1_u8 << (bits - 1);
        if let Some(zero) = zeros.iter().find(|zero| **zero != middle) {
            return Err(format!("zero {zero} of row {row} is not the middle code {middle} of a symmetric scheme"));
        }
        for (index, (block, codes)) in
            bytes.chunks_exact_mut(self.ty.block_bytes()).zip(codes.chunks_exact(32)).enumerate()
        {
            let scale = scales[index * 32 / group];
            let stored = half::f16::from_f32(scale);
            if stored.to_f32().to_bits() != scale.to_bits() {
                return Err(format!("scale {scale:e} of row {row} cannot be held in F16 exactly"));
            }
            block[..2].copy_from_slice(&stored.to_le_bytes());
            match self.ty {
                GgmlType::Q8_0 => {
                    block[2..].iter_mut().zip(codes).for_each(|(byte, code)| *byte = code.wrapping_sub(middle));
                }
                GgmlType::Q5_0 => {
                    let high = codes.iter().enumerate().fold(0_u32, |high, (j, code)| high | u32::from(code >> 4) << j);
                    block[2..6].copy_from_slice(&high.to_le_bytes());
                    nibbles(&mut block[6..], codes);
                }
                _ => nibbles(&mut block[2..], codes),
            }
        }
        Ok(())
    }

    pub(super) fn release(&self, control: &Control<'_>) {
        for weight in &self.sources {
            weight.release_rows(0..weight.rows());
            (control.progress)(&weight.name, weight.stored_bytes() as u64);
        }
    }
}

fn nibbles(out: &mut [u8], codes: &[u8]) {
    for (j, byte) in out.iter_mut().enumerate() {
        *byte = codes[j] & 15 | (codes[j + 16] & 15) << 4;
    }
}
