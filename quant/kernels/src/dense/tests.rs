//! Every table against sums in f64, within the bound of a dot product.

use super::{Dense, Rows, RowsMut};
use crate::{Kernels, supported};

struct Case {
    rows: usize,
    outputs: usize,
    inputs: usize,
}

/// Values in -1..1 that no pattern of a kernel lines up with.
fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed | 1;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
        })
        .collect()
}

fn check(case: &Case, dense: &Dense, w: &[f32], used: (usize, usize)) {
    let (x_stride, out_stride) = (case.inputs + 3, case.outputs + 5);
    let x = values(case.rows * x_stride, 7);
    let (outputs, inputs) = used;
    let split: Vec<_> = supported().into_iter().map(Kernels::with_split_products).collect();
    for kernels in supported().into_iter().chain(split.into_iter().filter(|kernels| kernels.splits_products())) {
        let mut out = vec![f32::NAN; case.rows * out_stride];
        dense.product_part(
            kernels,
            Rows { values: &x, stride: x_stride },
            case.rows,
            RowsMut { values: &mut out, stride: out_stride },
            outputs,
            inputs,
        );
        for row in 0..case.rows {
            for output in 0..out_stride {
                let found = out[row * out_stride + output];
                if output >= outputs {
                    assert!(found.is_nan(), "{}: wrote beyond the outputs", kernels.name);
                    continue;
                }
                let terms =
                    (0..inputs).map(|i| f64::from(x[row * x_stride + i]) * f64::from(w[output * case.inputs + i]));
                let (exact, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
                let split = if kernels.splits_products() { 3.0 * 2_f64.powi(-16) } else { 0.0 };
                let bound = ((inputs as f64 + 1.0) * f64::from(f32::EPSILON) + split) * size;
                assert!(
                    (f64::from(found) - exact).abs() <= bound,
                    "{} {}x{}x{} row {row} output {output}: {found}, expected {exact} within {bound}",
                    kernels.name,
                    case.rows,
                    case.outputs,
                    case.inputs,
                );
            }
        }
    }
}

#[test]
fn products_equal_sums_in_f64_within_the_bound() {
    let sizes = [1, 2, 3, 5, 12, 13, 23, 24, 31, 32, 33, 65, 96, 129];
    for rows in sizes {
        for outputs in [1, 31, 32, 33, 70] {
            for inputs in [1, 7, 64, 513] {
                let w = values(outputs * inputs, 3);
                let mut dense = Dense::default();
                dense.reset(outputs, inputs);
                dense.set_rows(Rows { values: &w, stride: inputs });
                check(&Case { rows, outputs, inputs }, &dense, &w, (outputs, inputs));
            }
        }
    }
}

#[test]
fn a_transpose_and_a_part_give_the_same_matrix() {
    let case = Case { rows: 250, outputs: 67, inputs: 40 };
    let w = values(case.outputs * case.inputs, 5);
    let mut transposed = vec![0.0; w.len()];
    for output in 0..case.outputs {
        for input in 0..case.inputs {
            transposed[input * case.outputs + output] = w[output * case.inputs + input];
        }
    }
    let mut dense = Dense::default();
    dense.reset(3, 3);
    dense.reset(case.outputs, case.inputs);
    dense.set_columns(Rows { values: &transposed, stride: case.outputs });
    check(&case, &dense, &w, (case.outputs, case.inputs));
    check(&case, &dense, &w, (33, 17));
}

#[test]
fn no_inputs_give_zeros() {
    let mut dense = Dense::default();
    dense.reset(2, 0);
    let mut out = [1.0; 4];
    let x = Rows { values: &[], stride: 0 };
    dense.product(supported()[0], x, 2, RowsMut { values: &mut out, stride: 2 });
    assert!(out.iter().all(|x| x.to_bits() == 0), "{out:?}");
}

#[test]
fn split_products_of_bf16_weights_and_of_more_rows_than_a_block() {
    let case = Case { rows: 530, outputs: 40, inputs: 70 };
    let w: Vec<f32> = values(case.outputs * case.inputs, 11)
        .iter()
        .map(|value| f32::from_bits(value.to_bits() & 0xFFFF_0000))
        .collect();
    let mut dense = Dense::default();
    dense.reset(case.outputs, case.inputs);
    dense.set_rows(Rows { values: &w, stride: case.inputs });
    check(&case, &dense, &w, (case.outputs, case.inputs));
}
