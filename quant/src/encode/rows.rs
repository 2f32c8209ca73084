//! Rows of one block from values to stored bytes, by each method.

use std::ops::Range;

use reweight_kernels::{COMPENSATED_ROWS as LANES, CompensatedRows, Kernels, RowCodes, RowErrors};

use super::clip::clip;
use super::settle;
use super::{Recipe, TensorError, write_elements};
use crate::compensate::Factor;
use crate::grid::Coder;
use crate::importance::Importance;
use crate::pack::pack_codes;
use crate::plan::Method;
use crate::store::Weight;

/// Buffers of one thread.
pub(super) struct Scratch<'a> {
    pub(super) coder: &'a Coder,
    pub(super) row: Vec<f32>,
    pub(super) original: Vec<f32>,
    pub(super) codes: Vec<u8>,
    pub(super) scales: Vec<f32>,
    pub(super) zeros: Vec<u8>,
    /// Of rows whose weights in doubt are decided together.
    pub(super) block: settle::Block,
    lanes: Option<CompensatedRows>,
    differences: Vec<[f32; LANES]>,
}

/// Where rows go.
pub(super) struct Stored<'a> {
    pub(super) packed: &'a mut [u8],
    pub(super) scales: &'a mut [u8],
    pub(super) zeros: &'a mut [u8],
}

/// The place and the value of a weight that is no number.
pub(super) type NonFinite = (usize, f32);

impl<'a> Scratch<'a> {
    pub(super) fn new(coder: &'a Coder, columns: usize, groups: usize) -> Self {
        Self {
            coder,
            row: vec![0.0; columns],
            original: Vec::new(),
            codes: vec![0; columns],
            scales: vec![0.0; groups],
            zeros: vec![0; groups],
            block: settle::Block::default(),
            lanes: None,
            differences: Vec::new(),
        }
    }

    /// Quantizes consecutive rows.
    pub(super) fn encode(
        &mut self,
        kernels: &Kernels,
        weight: &Weight,
        rows: Range<usize>,
        recipe: &Recipe<'_>,
        stored: &mut Stored<'_>,
    ) -> Result<TensorError, NonFinite> {
        let mut total = TensorError::default();
        let first = rows.start;
        if let Some((importance, factor)) = recipe.compensation() {
            for start in rows.clone().step_by(LANES) {
                let rows = start..(start + LANES).min(rows.end);
                total.add(self.compensated(kernels, weight, (rows, first), recipe, (importance, factor), stored)?);
            }
            return Ok(total);
        }
        if let Some(by) = recipe.settling() {
            return self.settled(kernels, weight, rows, recipe, by, stored);
        }
        for row in rows {
            self.read(kernels, weight, row)?;
            let error = match recipe.importance {
                None => self.plain(kernels, recipe),
                Some(importance) => self.weighted(kernels, weight, row, recipe, importance),
            };
            total.add(error);
            total.near_bounds += self.near_bounds(kernels, recipe);
            self.store(kernels, recipe, row - first, stored);
        }
        Ok(total)
    }

    pub(super) fn read(&mut self, kernels: &Kernels, weight: &Weight, row: usize) -> Result<(), NonFinite> {
        weight.read_rows(kernels, row..row + 1, &mut self.row);
        match kernels.first_non_finite(&self.row) {
            Some(index) => Err((row * self.row.len() + index, self.row[index])),
            None => Ok(()),
        }
    }

    pub(super) fn choose(&mut self, kernels: &Kernels, recipe: &Recipe<'_>, weights: Option<&[f32]>) -> RowErrors {
        let group = recipe.scheme.group_len(self.row.len());
        let Self { coder, row, codes, scales, zeros, .. } = self;
        let mut out = RowCodes { codes, scales, zeros };
        match recipe.method {
            Method::Rtn | Method::AwqPaper => coder.rtn(kernels, group, row, weights, &mut out),
            _ => coder.search(kernels, group, row, weights, &mut out),
        }
    }

    /// Ranges from minimum to maximum, clipped where the Gram matrix is at hand; returns the weighted error.
    fn choose_published(&mut self, kernels: &Kernels, recipe: &Recipe<'_>, importance: &Importance) -> f64 {
        let group = recipe.scheme.group_len(self.row.len());
        let Some(grams) = &importance.groups else {
            return self.choose(kernels, recipe, Some(&importance.scaled_moments)).squared;
        };
        let Self { coder, row, original, codes, scales, zeros, .. } = self;
        clip(kernels, (*coder, group), row, grams, &mut RowCodes { codes, scales, zeros });
        original.resize(row.len(), 0.0);
        coder.dequantize(kernels, group, (codes, scales, zeros), original);
        kernels.squared_error(group, original, row, Some(&importance.scaled_moments))
    }

    fn plain(&mut self, kernels: &Kernels, recipe: &Recipe<'_>) -> TensorError {
        let RowErrors { squared, squared_rtn } = self.choose(kernels, recipe, None);
        TensorError { squared, squared_rtn, ..TensorError::default() }
    }

    /// One row whose columns matter more or less.
    fn weighted(
        &mut self,
        kernels: &Kernels,
        weight: &Weight,
        row: usize,
        recipe: &Recipe<'_>,
        importance: &Importance,
    ) -> TensorError {
        let group = recipe.scheme.group_len(self.row.len());
        let row_factor = weight.scaling.as_ref().map_or(1.0, |scaling| f64::from(scaling.row(row)));
        let output_rtn = self.rtn_original(kernels, weight, row, recipe, &importance.moments).squared;
        let squared_rtn = self.rtn_here(kernels, recipe);
        let weights = &importance.scaled_moments;
        let output = if recipe.method == Method::AwqPaper {
            self.choose_published(kernels, recipe, importance)
        } else {
            self.choose(kernels, recipe, Some(weights)).squared
        };
        let output = output / (row_factor * row_factor);
        let squared = self.squared(kernels, group);
        let (output, output_rtn) = (Some(output), Some(output_rtn));
        TensorError { squared, squared_rtn, output, output_rtn, ..TensorError::default() }
    }

    /// What rounding to nearest does to the row as the file has it, which `original` is left holding.
    pub(super) fn rtn_original(
        &mut self,
        kernels: &Kernels,
        weight: &Weight,
        row: usize,
        recipe: &Recipe<'_>,
        moments: &[f32],
    ) -> RowErrors {
        let group = recipe.scheme.group_len(self.row.len());
        self.original.resize(self.row.len(), 0.0);
        weight.read_stored_rows(kernels, row..row + 1, &mut self.original);
        let Self { coder, original, codes, scales, zeros, .. } = self;
        coder.rtn(kernels, group, original, Some(moments), &mut RowCodes { codes, scales, zeros })
    }

    pub(super) fn rtn_here(&mut self, kernels: &Kernels, recipe: &Recipe<'_>) -> f64 {
        let group = recipe.scheme.group_len(self.row.len());
        let Self { coder, row, codes, scales, zeros, .. } = self;
        coder.rtn(kernels, group, row, None, &mut RowCodes { codes, scales, zeros }).squared
    }

    /// Error of the codes held, summed as a reader of the target sums it.
    pub(super) fn squared(&mut self, kernels: &Kernels, group: usize) -> f64 {
        let Self { coder, row, original, codes, scales, zeros, .. } = self;
        original.resize(row.len(), 0.0);
        coder.dequantize(kernels, group, (codes, scales, zeros), original);
        kernels.squared_error(group, original, row, None)
    }

    /// Weights of the row that rounding to nearest could as well have put elsewhere.
    pub(super) fn near_bounds(&self, kernels: &Kernels, recipe: &Recipe<'_>) -> u64 {
        let group = recipe.scheme.group_len(self.row.len());
        self.coder.near_bounds(kernels, (group, recipe.band), &self.row, (&self.scales, &self.zeros)) as u64
    }

    pub(super) fn store(&self, kernels: &Kernels, recipe: &Recipe<'_>, index: usize, stored: &mut Stored<'_>) {
        let groups = self.scales.len();
        let row_bytes = recipe.scheme.row_bytes(self.row.len());
        let scale_bytes = groups * recipe.scale_dtype.bytes();
        pack_codes(kernels, recipe.scheme, &self.codes, &mut stored.packed[index * row_bytes..][..row_bytes]);
        write_elements(
            kernels,
            recipe.scale_dtype,
            &self.scales,
            &mut stored.scales[index * scale_bytes..][..scale_bytes],
        );
        stored.zeros[index * groups..][..groups].copy_from_slice(&self.zeros);
    }

    /// Up to [`LANES`] rows, each column's rounding made good by later columns. Ranges are searched beforehand.
    fn compensated(
        &mut self,
        kernels: &Kernels,
        weight: &Weight,
        (rows, first): (Range<usize>, usize),
        recipe: &Recipe<'_>,
        (importance, factor): (&Importance, &Factor),
        stored: &mut Stored<'_>,
    ) -> Result<TensorError, NonFinite> {
        let (columns, groups) = (self.row.len(), self.scales.len());
        let group = recipe.scheme.group_len(columns);
        let mut lanes = self.lanes.take().unwrap_or_else(|| CompensatedRows::new(columns, groups));
        self.differences.resize(columns, [0.0; LANES]);
        let mut total = TensorError { output: Some(0.0), output_rtn: Some(0.0), ..TensorError::default() };
        for (lane, row) in rows.clone().enumerate() {
            self.read(kernels, weight, row)?;
            self.rtn_original(kernels, weight, row, recipe, &importance.moments);
            self.take_differences(kernels, weight, row, group, lane);
            total.squared_rtn += self.rtn_here(kernels, recipe);
            self.choose(kernels, recipe, Some(&importance.scaled_moments));
            total.near_bounds += self.near_bounds(kernels, recipe);
            lanes.weights.iter_mut().zip(&self.row).for_each(|(lanes, value)| lanes[lane] = *value);
            lanes.scales.iter_mut().zip(&self.scales).for_each(|(lanes, value)| lanes[lane] = *value);
            lanes.zeros.iter_mut().zip(&self.zeros).for_each(|(lanes, value)| lanes[lane] = f32::from(*value));
        }
        let output = self.coder.round_compensated(kernels, group, factor.triangle(), &mut lanes);
        let output_rtn = kernels.compensated_error(factor.triangle(), &self.differences, &mut lanes);
        for (lane, row) in rows.enumerate() {
            self.row.iter_mut().zip(&lanes.weights).for_each(|(value, lanes)| *value = lanes[lane]);
            let factor = weight.scaling.as_ref().map_or(1.0, |scaling| f64::from(scaling.row(row)));
            self.codes.iter_mut().zip(&lanes.codes).for_each(|(code, lanes)| *code = lanes[lane]);
            self.scales.iter_mut().zip(&lanes.scales).for_each(|(value, lanes)| *value = lanes[lane]);
            if self.coder.levels().is_empty() {
                self.zeros.iter_mut().zip(&lanes.zeros).for_each(|(value, lanes)| *value = lanes[lane] as u8);
            }
            total.squared += self.squared(kernels, group);
            total.add(TensorError {
                output: Some(output[lane] / (factor * factor)),
                output_rtn: Some(output_rtn[lane] / (factor * factor)),
                ..TensorError::default()
            });
            self.store(kernels, recipe, row - first, stored);
        }
        self.lanes = Some(lanes);
        Ok(total)
    }

    /// Errors of rounding the unscaled row to nearest, in the scaled matrix's units.
    fn take_differences(&mut self, kernels: &Kernels, weight: &Weight, row: usize, group: usize, lane: usize) {
        let mut differences = std::mem::take(&mut self.differences);
        let errors = self.original_errors(kernels, weight, row, group);
        differences.iter_mut().zip(errors).for_each(|(difference, error)| difference[lane] = error);
        self.differences = differences;
    }

    /// The same, column after column.
    pub(super) fn original_errors(&self, kernels: &Kernels, weight: &Weight, row: usize, group: usize) -> Vec<f32> {
        let Self { coder, original, codes, scales, zeros, .. } = self;
        let mut nearest = vec![0.0; original.len()];
        coder.dequantize(kernels, group, (codes, scales, zeros), &mut nearest);
        let scaling = weight.scaling.as_deref();
        let columns = scaling.and_then(|scaling| scaling.columns());
        let row_factor = scaling.map_or(1.0, |scaling| scaling.row(row));
        let pairs = original.iter().zip(nearest).enumerate();
        let error = |(j, (value, nearest)): (usize, (&f32, f32))| {
            (value - nearest) * columns.map_or(1.0, |columns| columns[j]) * row_factor
        };
        pairs.map(error).collect()
    }
}
