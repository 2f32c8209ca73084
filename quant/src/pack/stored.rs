//! A quantized weight of a checkpoint, in whichever container: its tensors, checked against one another, and its values.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;
use reweight_kernels::Kernels;
use reweight_kernels::packed::{CodedMatrix, PackedMatrix, PackedMatrixError, Zeros};

use super::Container;
use super::rows::{CodedRows, Matrix, pack_codes};
use crate::grid::dequantize_levels;
use crate::scheme::{Levels, Scheme};
use crate::store::weight::{PlainTensor, read_elements};
use crate::tensor::Dtype;

/// A quantized weight of a checkpoint: its tensors, checked against one another.
#[derive(Clone, Debug)]
pub struct PackedTensor {
    pub(super) container: Container,
    pub(super) matrix: Matrix,
    pub(super) codes: PlainTensor,
    pub(super) scales: PlainTensor,
    pub(super) zeros: Option<PlainTensor>,
    /// What codes stand for, where they are no integers.
    pub(super) levels: Option<Arc<[f32]>>,
    /// What else the container stores: the shape, the group of each column, levels, the scheme.
    pub(super) extra: Vec<PlainTensor>,
    /// The group of each column, where groups are not runs of columns.
    pub(super) group_of: Option<Arc<[u32]>>,
    /// Whether no code crosses words, which leaves bits at the end of each unused.
    pub(super) padded: bool,
}

impl PackedTensor {
    /// The container it is in.
    #[must_use]
    pub const fn container(&self) -> Container {
        self.container
    }

    /// Bits, group and symmetry.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.matrix.scheme
    }

    /// Element type of the scales.
    #[must_use]
    pub const fn scale_dtype(&self) -> Dtype {
        self.scales.dtype
    }

    /// Whether columns were put into groups in another order than their own (`desc_act`).
    #[must_use]
    pub const fn is_reordered(&self) -> bool {
        self.group_of.is_some()
    }

    /// Whether codes are packed as compressed-tensors did before 0.18: so many to a word as fit whole.
    #[must_use]
    pub const fn is_padded(&self) -> bool {
        self.padded
    }

    /// Its tensors, in the order in which the container digests them.
    pub fn parts(&self) -> impl Iterator<Item = &PlainTensor> {
        [Some(&self.codes), Some(&self.scales), self.zeros.as_ref()].into_iter().flatten().chain(&self.extra)
    }

    /// The same, to be changed.
    pub(crate) fn parts_mut(&mut self) -> impl Iterator<Item = &mut PlainTensor> {
        let Self { codes, scales, zeros, extra, .. } = self;
        [Some(codes), Some(scales), zeros.as_mut()].into_iter().flatten().chain(extra)
    }

    /// Rows, columns and scheme.
    pub(crate) const fn matrix(&self) -> Matrix {
        self.matrix
    }

    /// The parts that a layout makes of other codes, with what else the container stores as it is here.
    pub(crate) fn with_own_extra(&self, laid_out: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let n_changed = 2 + usize::from(self.zeros.is_some());
        let changed = laid_out.into_iter().take(n_changed);
        changed.chain(self.extra.iter().map(|extra| extra.data().to_vec())).collect()
    }

    /// Dequantizes rows to f32, one multiplication an element, not rounded to the dtype of the scales.
    ///
    /// # Panics
    /// Where `rows` lies outside, or `out` has another length than the rows.
    pub fn read_rows(&self, kernels: &Kernels, rows: Range<usize>, out: &mut [f32]) {
        let columns = self.matrix.columns;
        let group = self.matrix.scheme.group_len(columns);
        let groups = self.matrix.groups();
        let mut codes = vec![0; columns];
        let (mut scales, mut zeros) = (vec![0.0; groups], vec![0; groups]);
        for (row, out) in rows.zip(out.chunks_exact_mut(columns)) {
            self.read_codes(kernels, row, &mut codes, &mut scales, &mut zeros);
            match (&self.group_of, &self.levels) {
                (_, Some(levels)) => dequantize_levels(levels, group, (&codes, &scales), out),
                (None, None) => kernels.dequantize(group, &codes, &scales, &zeros, out),
                (Some(group_of), None) => {
                    for ((value, code), group) in out.iter_mut().zip(&codes).zip(group_of.iter()) {
                        let group = *group as usize;
                        *value = (f32::from(*code) - f32::from(zeros[group])) * scales[group];
                    }
                }
            }
        }
    }

    /// Levels that codes stand for, before the scale; `None` of integers.
    #[must_use]
    pub fn levels(&self) -> Option<&[f32]> {
        self.levels.as_deref()
    }

    /// Reads what a row is made of: a code for each column, a scale and a zero for each group. Where codes stand for levels, zeros mean nothing.
    ///
    /// # Panics
    /// Where `row` lies outside, or a buffer has another length.
    pub fn read_codes(&self, kernels: &Kernels, row: usize, codes: &mut [u8], scales: &mut [f32], zeros: &mut [u8]) {
        let groups = self.matrix.groups();
        assert_eq!((scales.len(), zeros.len()), (groups, groups), "a scale and a zero for each group");
        let bytes = self.scales.dtype.bytes();
        let stored = self.scales.data();
        if self.container.layout().scales_by_group() {
            for (group, scale) in scales.iter_mut().enumerate() {
                let at = (group * self.matrix.rows + row) * bytes;
                read_elements(kernels, self.scales.dtype, &stored[at..at + bytes], std::slice::from_mut(scale));
            }
        } else {
            read_elements(
                kernels,
                self.scales.dtype,
                &stored[row * groups * bytes..(row + 1) * groups * bytes],
                scales,
            );
        }
        if self.zeros.is_none() {
            zeros.fill(1 << (self.matrix.scheme.bits() - 1));
        }
        self.container.layout().read_row(kernels, self, row, codes, zeros);
    }

    /// The whole weight as products read it, without dequantizing.
    ///
    /// Cost: reads each stored byte once, on the threads of the current rayon pool; needs a byte for each code while it
    /// packs.
    ///
    /// # Errors
    /// `PackedMatrixError` where the weight has no elements.
    pub fn to_matrix(&self, kernels: &Kernels) -> Result<PackedMatrix, PackedMatrixError> {
        let Matrix { rows, columns, scheme } = self.matrix;
        let (group, groups) = (scheme.group_len(columns), self.matrix.groups());
        let (mut codes, mut scales) = (vec![0; rows * columns], vec![0.0; rows * groups]);
        let mut zeros = vec![0; rows * groups];
        if !codes.is_empty() {
            let params = scales.par_chunks_exact_mut(groups).zip(zeros.par_chunks_exact_mut(groups));
            codes.par_chunks_exact_mut(columns).zip(params).enumerate().for_each(|(row, (codes, (scales, zeros)))| {
                self.read_codes(kernels, row, codes, scales, zeros);
            });
        }
        let (bits, middle) = (scheme.bits(), 1_u8 << (scheme.bits() - 1));
        let (mut of_columns, mut zeros_of_columns) = (Vec::new(), Vec::new());
        let (group, scales, zeros) = match &self.group_of {
            None => (group, &scales, &zeros),
            Some(group_of) => {
                // Groups that are not runs of columns: a scale and a zero of its own for each column.
                for (scales, zeros) in scales.chunks_exact(groups).zip(zeros.chunks_exact(groups)) {
                    of_columns.extend(group_of.iter().map(|&group| scales[group as usize]));
                    zeros_of_columns.extend(group_of.iter().map(|&group| zeros[group as usize]));
                }
                (1, &of_columns, &zeros_of_columns)
            }
        };
        let zeros = match (&self.levels, scheme.levels()) {
            (Some(_), Levels::MidRise { .. }) => Zeros::Shared(f32::from(middle) - 0.5),
            (Some(_), Levels::Ternary) => Zeros::Shared(1.0),
            (Some(levels), _) => Zeros::Codebook(levels),
            (None, _) if zeros.iter().all(|&zero| zero == middle) => Zeros::Shared(f32::from(middle)),
            (None, _) => Zeros::PerGroup(zeros),
        };
        PackedMatrix::new(&CodedMatrix { rows, columns, bits, group, codes: &codes, scales, zeros })
    }

    /// Whether its codes are those of `scheme`, or the reason why not; those of levels may be said as integers
    /// ([`Scheme::as_affine`]).
    pub(crate) fn fits(&self, scheme: Scheme) -> Result<(), String> {
        let own = self.scheme();
        let is_affine = own.as_affine().is_some_and(|own| own == scheme || own.asymmetric() == scheme);
        if own == scheme || is_affine {
            return Ok(());
        }
        Err(format!("{own} is not {scheme}"))
    }

    /// A row in terms of [`Scheme::as_affine`]: halves become odd integers of one more bit at half the scale, ternary codes one more.
    pub(crate) fn read_as_affine(
        &self,
        kernels: &Kernels,
        row: usize,
        (codes, scales, zeros): (&mut [u8], &mut [f32], &mut [u8]),
    ) {
        self.read_codes(kernels, row, codes, scales, zeros);
        match self.scheme().levels() {
            Levels::MidRise { bits, .. } => {
                for code in codes {
                    *code = code.wrapping_mul(2) | 1;
                }
                for scale in scales {
                    *scale *= 0.5;
                }
                zeros.fill(1_u8.wrapping_shl(bits.into()));
            }
            Levels::Ternary => {
                for code in codes {
                    *code += 1;
                }
                zeros.fill(2);
            }
            Levels::Affine { .. } | Levels::Nf4 | Levels::Lloyd { .. } => {}
        }
    }

    /// The codes, scales and zeros as stored, or as integers, for a `scheme` that they fit; scales exactly in another element type. The place in another container is the
    /// caller's matter.
    ///
    /// # Errors
    /// What cannot be said in other containers, in words: a reordered weight, a zero that is no code or not the middle one of
    /// a symmetric scheme, a scale that the type does not hold.
    pub(crate) fn coded_rows(
        &self,
        kernels: &Kernels,
        (scheme, scale_dtype): (Scheme, Dtype),
        out: &mut CodedRows,
    ) -> Result<(), String> {
        self.fits(scheme)?;
        let matrix = Matrix { scheme, ..self.matrix };
        let (columns, as_affine) = (matrix.columns, scheme.is_affine());
        if self.is_reordered() {
            return Err("its columns are grouped in another order than their own".to_owned());
        }
        out.resize(matrix, scale_dtype);
        out.levels.clear();
        out.levels.extend(self.levels.iter().flat_map(|levels| levels.iter()));
        let (groups, row_bytes, bytes) = (matrix.groups(), matrix.row_bytes(), scale_dtype.bytes());
        let (middle, code_max) = (1_u8 << (scheme.bits() - 1), u8::MAX >> (8 - scheme.bits()));
        let (packed, scales) = (out.packed.par_chunks_mut(row_bytes), out.scales.par_chunks_mut(groups * bytes));
        let rows = packed.zip(scales).zip(out.zeros.par_chunks_mut(groups)).enumerate();
        rows.try_for_each_init(
            || (vec![0; columns], vec![0.0; groups], vec![0.0; groups]),
            |(codes, values, again), (row, ((packed, scales), zeros))| {
                if as_affine {
                    self.read_as_affine(kernels, row, (codes, values, zeros));
                } else {
                    self.read_codes(kernels, row, codes, values, zeros);
                }
                pack_codes(kernels, scheme, codes, packed);
                crate::encode::write_elements(kernels, scale_dtype, values, scales);
                read_elements(kernels, scale_dtype, scales, again);
                if let Some((value, _)) = values.iter().zip(&*again).find(|(a, b)| a.to_bits() != b.to_bits()) {
                    return Err(format!("scale {value:e} of row {row} cannot be held in {scale_dtype} exactly"));
                }
                let wrong =
                    |&&zero: &&u8| if scheme.symmetric() { as_affine && zero != middle } else { zero > code_max };
                match zeros.iter().find(wrong) {
                    Some(zero) if scheme.symmetric() => {
                        Err(format!("zero {zero} of row {row} is not the middle code {middle} of a symmetric scheme"))
                    }
                    Some(zero) => Err(format!("zero {zero} of row {row} is above the largest code {code_max}")),
                    None => Ok(()),
                }
            },
        )
    }
}
