//! Which weights of a row lie near a decision boundary, and what the code on the other side would do to their errors.

use reweight_kernels::{Doubts, vectorized};

use super::{Coder, Kind};

/// Values of one group, their codes, and where it stands in the row.
struct Group<'a> {
    values: &'a [f32],
    codes: &'a [u8],
    first: usize,
}

impl Coder {
    /// Adds a row of nearest codes to others with doubts: the errors of the codes, and for each weight within a band (a share of the step between
    /// two levels) of where rounding would go the other way, what the code on that side adds to its error. A row of errors takes `stride` places.
    pub fn doubts(
        &self,
        (group, band): (usize, f32),
        (row, codes): (&[f32], &[u8]),
        (scales, zeros): (&[f32], &[u8]),
        stride: usize,
        out: &mut Doubts,
    ) {
        let Doubts { errors, columns, steps, taken, ends } = out;
        let start = errors.len();
        errors.resize(start + stride, 0.0);
        // Every weight may be in doubt.
        let mut found = columns.len();
        columns.resize(found + row.len(), 0);
        steps.resize(found + row.len(), 0.0);
        let groups = row.chunks(group).zip(codes.chunks(group)).zip(scales.iter().zip(zeros)).enumerate();
        for (index, ((values, codes), (scale, zero))) in groups {
            let first = index * group;
            let group = Group { values, codes, first };
            let errors = &mut errors[start + first..][..values.len()];
            let out = (errors, &mut columns[found..], &mut steps[found..]);
            found += match &self.0 {
                Kind::Affine(grid) => {
                    let value = |code: f32| (code - f32::from(*zero)) * scale;
                    vectorized(|| of_group(value, f32::from(grid.code_max()), band, &group, out))
                }
                Kind::Table { table, .. } => {
                    let levels = table.values();
                    // A code beyond the last level is never in doubt, whatever it stands for.
                    let value = |code: f32| levels.get(code as usize).map_or(0.0, |level| level * scale);
                    of_group(value, (levels.len() - 1) as f32, band, &group, out)
                }
            };
        }
        columns.truncate(found);
        steps.truncate(found);
        taken.resize(found, false);
        ends.push(found);
    }
}

/// Errors of one group; returns how many of its weights are in doubt.
#[expect(clippy::inline_always, reason = "only what is inlined is compiled for the vectors of the machine")]
#[inline(always)]
fn of_group(
    value: impl Fn(f32) -> f32,
    most: f32,
    band: f32,
    group: &Group<'_>,
    (errors, columns, steps): (&mut [f32], &mut [u32], &mut [f32]),
) -> usize {
    let mut found = 0;
    for (index, ((x, code), out)) in group.values.iter().zip(group.codes).zip(errors).enumerate() {
        let code = f32::from(*code);
        let error = value(code) - x;
        *out = error;
        let other = if error > 0.0 { code - 1.0 } else { code + 1.0 };
        let step = value(other) - value(code);
        let near = step != 0.0 && error.abs() >= (0.5 - band) * step.abs();
        let in_doubt = near && (0.0..=most).contains(&other);
        // Written over by the next one unless it counts.
        columns[found] = (group.first + index) as u32;
        steps[found] = step;
        found += usize::from(in_doubt);
    }
    found
}
