//! What codes stand for, and how a row is put on it: the group affine grids of the kernels, and tables of levels. One rule, one file.

mod doubts;
mod fit;
mod lloyd;
mod nf4;
mod statsq;
mod table;
pub mod ternary;

use reweight_kernels::{
    Column, CompensatedRows, DEFAULT_CANDIDATES, Grid, Kernels, RowCodes, RowErrors, ScaleFormat, Triangle,
};

use crate::scheme::{Levels, Scheme};
use crate::store::Weight;
use crate::tensor::Dtype;
use table::Table;

/// How the rows of one tensor are coded.
#[derive(Clone, Debug)]
pub struct Coder(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Affine(Grid),
    Table { levels: Levels, format: ScaleFormat, table: Table },
}

/// Where the scale of a group comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    /// The published rule.
    Rule,
    /// The rule with a factor by the shape of the data, or the rule where that is better.
    Shape,
    /// A search; or the rule where that is better.
    Search,
}

impl Coder {
    /// For the rows of a tensor. Where levels are fitted to the tensor, this reads it, and scales count as `searched` or not; `moments` are the
    /// mean squares of its input channels.
    #[must_use]
    pub fn of(
        kernels: &Kernels,
        weight: &Weight,
        (scheme, scale_dtype): (Scheme, Dtype),
        moments: Option<&[f32]>,
        searched: bool,
    ) -> Self {
        let format = format(scale_dtype);
        let table = match scheme.levels() {
            Levels::Affine { .. } => return Self(Kind::Affine(affine(scheme, scale_dtype))),
            Levels::Lloyd { bits } => {
                let shape = (bits, scheme.group_len(weight.columns()));
                Table::nearest(lloyd::fit(kernels, weight, shape, moments, searched))
            }
            Levels::MidRise { bits, .. } => Table::halves(bits),
            Levels::Ternary => Table::with_bounds(&ternary::LEVELS, &ternary::BOUNDS),
            Levels::Nf4 => Table::nearest(nf4::LEVELS.to_vec()),
        };
        Self(Kind::Table { levels: scheme.levels(), format, table })
    }

    /// For a group affine grid.
    #[must_use]
    pub const fn on_integers(grid: Grid) -> Self {
        Self(Kind::Affine(grid))
    }

    /// Puts a row on the grid by the published rule; weights change the reported error only.
    pub fn rtn(
        &self,
        kernels: &Kernels,
        group: usize,
        row: &[f32],
        weights: Option<&[f32]>,
        out: &mut RowCodes<'_>,
    ) -> RowErrors {
        match &self.0 {
            Kind::Affine(grid) => kernels.rtn(*grid, group, row, weights, out),
            Kind::Table { levels: Levels::MidRise { fit: true, .. }, .. } => {
                self.on_table(kernels, group, (row, weights), From::Shape, out)
            }
            Kind::Table { .. } => self.on_table(kernels, group, (row, weights), From::Rule, out),
        }
    }

    /// Puts a row on the grid with the scales (and zeros) of a small squared error, weighted when weights are given; a group comes out no worse
    /// than by the published rule. `StatsQ` without `fit` keeps the scales of its rule.
    pub fn search(
        &self,
        kernels: &Kernels,
        group: usize,
        row: &[f32],
        weights: Option<&[f32]>,
        out: &mut RowCodes<'_>,
    ) -> RowErrors {
        match &self.0 {
            Kind::Affine(grid) => kernels.search(*grid, group, row, weights, DEFAULT_CANDIDATES, out),
            Kind::Table { levels: Levels::MidRise { fit: false, .. }, .. } => {
                self.on_table(kernels, group, (row, weights), From::Rule, out)
            }
            Kind::Table { .. } => self.on_table(kernels, group, (row, weights), From::Search, out),
        }
    }

    /// How many values of a row lie within a band of where rounding would go the other way, with the scales and zeros given. The band is
    /// a share of the step between the two levels.
    #[must_use]
    pub fn near_bounds(
        &self,
        kernels: &Kernels,
        (group, band): (usize, f32),
        row: &[f32],
        (scales, zeros): (&[f32], &[u8]),
    ) -> usize {
        match &self.0 {
            Kind::Affine(grid) => kernels.near_bounds((grid.code_max(), 0.0, band), group, row, (scales, zeros)),
            Kind::Table { levels, table, .. } => {
                if let Some(half) = table.half_levels() {
                    let code_max = u8::MAX >> (8 - bits(*levels));
                    return kernels.near_bounds((code_max, half - 0.5, band), group, row, (scales, zeros));
                }
                row.chunks(group).zip(scales).map(|(values, scale)| table.near_bounds(*scale, values, band)).sum()
            }
        }
    }

    /// Values of codes.
    pub fn dequantize(
        &self,
        kernels: &Kernels,
        group: usize,
        (codes, scales, zeros): (&[u8], &[f32], &[u8]),
        out: &mut [f32],
    ) {
        match &self.0 {
            Kind::Affine(_) => kernels.dequantize(group, codes, scales, zeros, out),
            Kind::Table { table, .. } => {
                for ((codes, out), scale) in codes.chunks(group).zip(out.chunks_mut(group)).zip(scales) {
                    table.dequantize(*scale, codes, out);
                }
            }
        }
    }

    /// [`Kernels::round_compensated`]: rows of which scales are chosen.
    pub fn round_compensated(
        &self,
        kernels: &Kernels,
        group: usize,
        triangle: Triangle<'_>,
        rows: &mut CompensatedRows,
    ) -> Column<f64> {
        match &self.0 {
            Kind::Affine(grid) => kernels.round_compensated(*grid, group, triangle, rows),
            Kind::Table { levels, format, table } => {
                // Halves are a uniform grid whose zero lies between two codes.
                let uniform = Grid::new(bits(*levels), true, *format).ok().zip(table.half_levels());
                if let Some((grid, half)) = uniform {
                    rows.zeros.fill([half - 0.5; reweight_kernels::COMPENSATED_ROWS]);
                    return kernels.round_compensated(grid, group, triangle, rows);
                }
                kernels.round_to_levels(table.values(), table.bounds(), group, triangle, rows)
            }
        }
    }

    /// The levels that codes stand for; none where they are integers.
    #[must_use]
    pub fn levels(&self) -> &[f32] {
        match &self.0 {
            Kind::Affine(_) => &[],
            Kind::Table { table, .. } => table.values(),
        }
    }

    /// A row on a table of levels, and what the rule alone would leave.
    fn on_table(
        &self,
        kernels: &Kernels,
        group: usize,
        (row, weights): (&[f32], Option<&[f32]>),
        from: From,
        out: &mut RowCodes<'_>,
    ) -> RowErrors {
        let Kind::Table { levels, format, table } = &self.0 else { unreachable!("only tables are asked for") };
        let (mut by_rule, mut found) = (vec![0.0; row.len()], vec![0.0; row.len()]);
        out.zeros.fill(0);
        for (index, values) in row.chunks(group).enumerate() {
            let at = index * group..index * group + values.len();
            let weights = weights.map(|weights| &weights[at.clone()]);
            let (codes, by_rule, found) = (&mut out.codes[at.clone()], &mut by_rule[at.clone()], &mut found[at]);
            let error = |found: &[f32]| kernels.squared_error(group, found, values, weights);
            let rule = rule(*levels, values);
            let put = |scale: f32, codes: &mut [u8], values_of: &mut [f32]| {
                table.code(scale, values, codes);
                table.dequantize(scale, codes, values_of);
                scale
            };
            let base = put(round_scale(*format, rule), codes, by_rule);
            let other = match (from, *levels) {
                _ if base == 0.0 => base,
                (From::Rule, _) => base,
                (From::Shape, Levels::MidRise { bits, .. }) => statsq::fitted_step(bits, values),
                _ => fit::scale(table, (rule, least(*levels, rule, values)), values, weights),
            };
            out.scales[index] = put(round_scale(*format, other), codes, found);
            if from != From::Rule && error(by_rule) < error(found) {
                out.scales[index] = put(base, codes, found);
            }
        }
        let squared_rtn = kernels.squared_error(group, &by_rule, row, weights);
        RowErrors { squared: kernels.squared_error(group, &found, row, weights), squared_rtn }
    }
}

/// The affine grid of a scheme.
///
/// # Panics
/// For a scheme that is not affine.
pub(crate) fn affine(scheme: Scheme, scale_dtype: Dtype) -> Grid {
    Grid::new(scheme.bits(), scheme.symmetric(), format(scale_dtype))
        .expect("affine schemes have 2 to 8 bits, as a grid has")
}

/// How kernels store scales of a type.
fn format(scale_dtype: Dtype) -> ScaleFormat {
    match scale_dtype {
        Dtype::F16 => ScaleFormat::F16,
        Dtype::Bf16 => ScaleFormat::Bf16,
        _ => ScaleFormat::F32,
    }
}

fn bits(levels: Levels) -> u8 {
    match levels {
        Levels::Affine { bits, .. } | Levels::MidRise { bits, .. } | Levels::Lloyd { bits } => bits,
        Levels::Ternary => 2,
        Levels::Nf4 => 4,
    }
}

/// Levels that are the same for all tensors, before the scale; `None` for integers and for fitted ones.
#[must_use]
pub fn fixed_levels(levels: Levels) -> Option<Vec<f32>> {
    match levels {
        Levels::MidRise { bits, .. } => Some(statsq::levels(bits)),
        Levels::Ternary => Some(ternary::LEVELS.to_vec()),
        Levels::Nf4 => Some(nf4::LEVELS.to_vec()),
        Levels::Affine { .. } | Levels::Lloyd { .. } => None,
    }
}

/// Values of a row of codes on levels; a code without a level gives 0.
pub fn dequantize_levels(levels: &[f32], group: usize, (codes, scales): (&[u8], &[f32]), out: &mut [f32]) {
    for ((codes, out), scale) in codes.chunks(group).zip(out.chunks_mut(group)).zip(scales) {
        table::dequantize(levels, None, *scale, codes, out);
    }
}

/// The scale of the published rule.
fn rule(levels: Levels, values: &[f32]) -> f32 {
    match levels {
        Levels::MidRise { bits, .. } => statsq::step(bits, values),
        Levels::Ternary => statsq::mean_magnitude(values),
        Levels::Affine { .. } | Levels::Nf4 | Levels::Lloyd { .. } => {
            values.iter().fold(0.0, |most, value| most.max(value.abs()))
        }
    }
}

/// The least scale that a search considers: near the best one for values of that shape, so that most of them are not cut off.
fn least(levels: Levels, rule: f32, values: &[f32]) -> f32 {
    match levels {
        Levels::MidRise { bits, .. } => 0.8 * statsq::fitted_step(bits, values),
        Levels::Ternary => 0.8 * rule,
        Levels::Affine { .. } | Levels::Nf4 | Levels::Lloyd { .. } => lloyd::LEAST * rule,
    }
}

/// A scale as stored: rounded half to even, between the format's floor and its cap; 0 stays 0.
fn round_scale(format: ScaleFormat, scale: f32) -> f32 {
    let rounded = match format {
        ScaleFormat::F16 => half::f16::from_f32(scale).to_f32(),
        ScaleFormat::Bf16 => half::bf16::from_f32(scale).to_f32(),
        ScaleFormat::F32 => scale,
    };
    if scale > 0.0 { rounded.clamp(format.floor(), format.cap()) } else { 0.0 }
}
