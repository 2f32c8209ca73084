//! The scale of the least squared error of a few values on a table of levels, weighted where some matter more than others.
//!
//! Twelve scales from cutting off much to cutting off nothing, the rule's own among them; from the best, the scale that is best for the levels it gives,
//! which gives other levels, three times; then scales to both sides, ever closer. The error has many small valleys and no closed form.

use super::table::Table;

/// Scales from the smallest to the largest, in equal ratios.
const N_SCALES: i32 = 12;

/// Shares by which a scale is moved to both sides.
const SPREADS: [f32; 5] = [0.05, 0.025, 0.0125, 0.006, 0.003];

/// The best scale found between `least` and a little more than what cuts off nothing, or `base`. Both are above 0, and so is a value.
///
/// Without `least`, one column that weighs more than all others would have its weight put on a level at the cost of cutting off the rest: its
/// inputs are often nearly constant, and what the others lose is what tells one input from another. (MiniLM, whose hidden states have such a
/// channel, as `statsq4-fit`: a cosine of 0.30 with the original for 0.93.)
pub(super) fn scale(table: &Table, (base, least): (f32, f32), values: &[f32], weights: Option<&[f32]>) -> f32 {
    let largest = values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    let full = largest / table.reach();
    let (low, high) = (least, 1.1 * base.max(full).max(least));
    let mut best = (base, table.sums(base, values, weights));
    let mut consider = |scale: f32| {
        if scale >= low && scale <= high {
            let sums = table.sums(scale, values, weights);
            if sums.error < best.1.error {
                best = (scale, sums);
            }
        }
        best
    };
    let ratio = (high / low).powf(1.0 / (N_SCALES - 1) as f32);
    let mut around = (base, table.sums(base, values, weights));
    let mut scale = low;
    for _ in 0..N_SCALES {
        around = consider(scale);
        scale *= ratio;
    }
    for _ in 0..3 {
        around = consider(around.1.least_squares() as f32);
    }
    for spread in SPREADS {
        let center = around.0;
        for share in [1.0 - spread, 1.0 + spread] {
            around = consider(center * share);
        }
    }
    consider(around.1.least_squares() as f32).0
}
