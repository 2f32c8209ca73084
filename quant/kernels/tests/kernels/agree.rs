//! Every table of this machine against the scalar one, to the bit.

use half::{bf16, f16};
use reweight_kernels::{Grid, Kernels, ScaleFormat, by_name, packed_len, supported};

use crate::random::{Quantized, Random};

/// Past three vectors of sixteen, so that every mix of full, short and missing chunks occurs.
const LENGTHS: std::ops::RangeInclusive<usize> = 0..=49;

fn scalar() -> &'static Kernels {
    by_name("scalar").expect("the scalar table runs everywhere")
}

fn others() -> Vec<&'static Kernels> {
    supported().into_iter().filter(|kernels| kernels.name != "scalar").collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

fn grids() -> Vec<Grid> {
    let mut grids = Vec::new();
    for bits in 2..=8 {
        for scale in [ScaleFormat::F16, ScaleFormat::Bf16, ScaleFormat::F32] {
            for symmetric in [false, true] {
                grids.push(Grid::new(bits, symmetric, scale).expect("a width from 2 to 8"));
            }
        }
    }
    grids
}

#[test]
fn widening_agrees_for_every_half_at_every_alignment() {
    let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for kernels in others() {
        for (name, table, one) in
            [("bf16", Kernels::bf16_to_f32 as fn(&Kernels, &[u8], &mut [f32]), 0), ("f16", Kernels::f16_to_f32, 1)]
        {
            let (mut expected, mut got) = (vec![0.0; 1 << 16], vec![0.0; 1 << 16]);
            table(scalar(), &all, &mut expected);
            table(kernels, &all, &mut got);
            assert_eq!(bits(&expected), bits(&got), "{name}, {}", kernels.name);
            for n in LENGTHS {
                for start in [0, one, 3] {
                    let bytes = &all[0x7BE0 * 2 + start..][..2 * n];
                    let (mut expected, mut got) = (vec![0.0; n + 1], vec![0.0; n + 1]);
                    table(scalar(), bytes, &mut expected[1..]);
                    table(kernels, bytes, &mut got[1..]);
                    assert_eq!(bits(&expected), bits(&got), "{name}, {}, {n} from {start}", kernels.name);
                }
            }
        }
    }
}

#[test]
fn narrowing_agrees_for_every_kind_of_float() {
    let mut random = Random::new(21);
    let mut values: Vec<f32> = (0..=u16::MAX).map(|upper| f32::from_bits(u32::from(upper) << 16 | 0x8000)).collect();
    values.extend((0..=u16::MAX).map(|half| f16::from_bits(half).to_f32() * (1.0 + 2f32.powi(-11))));
    values.extend((0..=u16::MAX).map(|half| bf16::from_bits(half).to_f32()));
    values.extend((0..200_000).map(|_| f32::from_bits(random.bits() as u32)));
    values.extend((0..200_000).map(|_| random.normal() * 2f32.powi(-16)));
    for kernels in others() {
        for (name, table) in
            [("bf16", Kernels::f32_to_bf16 as fn(&Kernels, &[f32], &mut [u8])), ("f16", Kernels::f32_to_f16)]
        {
            let (mut expected, mut got) = (vec![0; 2 * values.len()], vec![0; 2 * values.len()]);
            table(scalar(), &values, &mut expected);
            table(kernels, &values, &mut got);
            assert!(expected == got, "{name}, {}", kernels.name);
            for n in LENGTHS {
                let (mut expected, mut got) = (vec![0; 2 * n + 1], vec![0; 2 * n + 1]);
                table(scalar(), &values[3..3 + n], &mut expected[1..]);
                table(kernels, &values[3..3 + n], &mut got[1..]);
                assert_eq!(expected, got, "{name}, {}, {n}", kernels.name);
            }
        }
    }
}

#[test]
fn reductions_agree() {
    let mut random = Random::new(22);
    let (a, b, weights) = (random.normals(5000, 3.0), random.normals(5000, 2.0), random.weights(5000));
    for kernels in others() {
        for n in LENGTHS.chain([255, 256, 257, 4999]) {
            for start in [0, 1] {
                let (a, b, weights) = (&a[start..start + n], &b[start..start + n], &weights[start..start + n]);
                let case = format!("{}, {n} from {start}", kernels.name);
                assert_eq!(scalar().extent(a), kernels.extent(a), "{case}");
                for group in [1, 16, 31, 128, usize::MAX] {
                    for weights in [None, Some(weights)] {
                        let expected = scalar().squared_error(group, a, b, weights);
                        assert_eq!(expected.to_bits(), kernels.squared_error(group, a, b, weights).to_bits(), "{case}");
                    }
                }
                let mut bad = a.to_vec();
                assert_eq!(kernels.first_non_finite(&bad), None, "{case}");
                for at in [0, n / 2, n.saturating_sub(1)] {
                    if let Some(value) = bad.get_mut(at) {
                        *value = if at % 2 == 0 { f32::NAN } else { f32::NEG_INFINITY };
                        assert_eq!(scalar().first_non_finite(&bad), kernels.first_non_finite(&bad), "{case}, at {at}");
                    }
                }
            }
        }
    }
}

#[test]
fn packing_agrees() {
    let mut random = Random::new(23);
    let codes: Vec<u8> = (0..1200).map(|_| random.bits() as u8).collect();
    for kernels in others() {
        for width in 1..=8 {
            for n in (0..=200).chain([1000]) {
                let case = format!("{}, {n} codes of {width} bits", kernels.name);
                let codes = &codes[n % 3..n % 3 + n];
                let n_bytes = packed_len(width, n);
                let (mut expected, mut got) = (vec![0xAA; n_bytes + 1], vec![0xAA; n_bytes + 1]);
                scalar().pack(width, codes, &mut expected[1..]);
                kernels.pack(width, codes, &mut got[1..]);
                assert_eq!(expected, got, "{case}");
                let (mut expected, mut unpacked) = (vec![0xAA; n], vec![0xAA; n]);
                scalar().unpack(width, &got[1..], &mut expected);
                kernels.unpack(width, &got[1..], &mut unpacked);
                assert_eq!(expected, unpacked, "{case}");
            }
        }
    }
}

/// From bf16 in one call or in two.
fn compare_bf16(kernels: &Kernels, grid: Grid, group: usize, row: &[f32], weights: Option<&[f32]>) {
    let n = row.len();
    let case = format!("{}, {n} in groups of {group}, {grid:?}, {}", kernels.name, weights.is_some());
    let (mut bytes, mut values, mut values_fused) = (vec![0; 2 * n], vec![0.0; n], vec![0.0; n]);
    scalar().f32_to_bf16(row, &mut bytes);
    scalar().bf16_to_f32(&bytes, &mut values);
    let (mut expected, mut got) = (Quantized::new(n, group), Quantized::new(n, group));
    let errors = scalar().rtn(grid, group, &values, weights, &mut expected.as_row());
    let errors_fused = kernels.rtn_bf16(grid, group, &bytes, weights, &mut values_fused, &mut got.as_row());
    assert_eq!((expected, bits(&values)), (got, bits(&values_fused)), "{case}");
    assert_eq!(errors.squared.to_bits(), errors_fused.squared.to_bits(), "{case}");
    assert_eq!(errors.squared_rtn.to_bits(), errors_fused.squared_rtn.to_bits(), "{case}");
}

#[test]
fn quantizing_bf16_in_one_call_is_two_calls() {
    let mut random = Random::new(26);
    for kernels in supported() {
        for (n, group) in [(0, 1), (1, 1), (40, 16), (576, 32), (4096, 128), (2100, 64), (600, 600), (5000, 128)] {
            let (row, weights) = (random.normals(n, 0.02), random.weights(n));
            for grid in grids() {
                compare_bf16(kernels, grid, group, &row, None);
                compare_bf16(kernels, grid, group, &row, Some(&weights));
            }
        }
    }
}

/// Quantizes with both tables and compares all they give; then reads the result back with both.
fn compare(kernels: &Kernels, grid: Grid, group: usize, row: &[f32], weights: Option<&[f32]>, shape: &str) {
    let n = row.len();
    let case = format!("{}, {shape}, {n} in groups of {group}, {grid:?}, {}", kernels.name, weights.is_some());
    for n_candidates in [None, Some(3), Some(20)] {
        let (mut expected, mut got) = (Quantized::new(n, group), Quantized::new(n, group));
        let run = |table: &Kernels, out: &mut Quantized| match n_candidates {
            None => table.rtn(grid, group, row, weights, &mut out.as_row()),
            Some(n) => table.search(grid, group, row, weights, n, &mut out.as_row()),
        };
        let (expected_errors, got_errors) = (run(scalar(), &mut expected), run(kernels, &mut got));
        assert_eq!(expected, got, "{case}, {n_candidates:?}");
        assert_eq!(expected_errors.squared.to_bits(), got_errors.squared.to_bits(), "{case}, {n_candidates:?}");
        assert_eq!(expected_errors.squared_rtn.to_bits(), got_errors.squared_rtn.to_bits(), "{case}");
        let (mut expected_values, mut values) = (vec![0.0; n], vec![0.0; n]);
        scalar().dequantize(group, &got.codes, &got.scales, &got.zeros, &mut expected_values);
        kernels.dequantize(group, &got.codes, &got.scales, &got.zeros, &mut values);
        assert_eq!(bits(&expected_values), bits(&values), "{case}");
        let read_again = kernels.squared_error(group, &values, row, weights);
        assert_eq!(read_again.to_bits(), got_errors.squared.to_bits(), "{case}");
    }
}

#[test]
fn quantizing_agrees_at_every_length() {
    let mut random = Random::new(24);
    for kernels in others() {
        for n in LENGTHS {
            let row = random.normals(n + 1, 0.02);
            let weights = random.weights(n + 1);
            for grid in grids() {
                for group in [16, 24, n.max(1)] {
                    compare(kernels, grid, group, &row[1..], None, "normal");
                    compare(kernels, grid, group, &row[1..], Some(&weights[1..]), "normal");
                }
            }
        }
    }
}

#[test]
fn quantizing_agrees_for_every_shape_of_row() {
    let mut random = Random::new(25);
    for kernels in others() {
        for (n, group) in [(576, 32), (576, 64), (640, 128), (576, 576), (1100, 100), (2100, 64), (77, 1)] {
            let weights = random.weights(n);
            for (shape, row) in random.rows(n) {
                for grid in grids() {
                    compare(kernels, grid, group, &row, None, shape);
                    compare(kernels, grid, group, &row, Some(&weights), shape);
                }
            }
        }
    }
}
