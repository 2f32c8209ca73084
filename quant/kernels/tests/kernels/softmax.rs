//! Softmax of every table against f64: every variant, kind of store and type of input, awkward lengths and values.

use reweight_kernels::softmax::{Options, SoftmaxKernels, Source, Store, Variant, softmax, softmax_in_place};

use crate::random::Random;

/// Documented bounds.
const ULP: f64 = 8.0;
const ULP_ONLINE: f64 = 24.0;
const INF: f32 = f32::INFINITY;

fn options(variant: Variant, store: Store) -> Options {
    Options { variant: Some(variant), store: Some(store), parallel: false }
}

fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..n).map(|_| random.normal() * 4.0).collect()
}

fn exact(x: &[f32]) -> Vec<f64> {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exps: Vec<f64> = x.iter().map(|x| (f64::from(*x) - f64::from(max)).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.iter().map(|exp| exp / sum).collect()
}

/// The largest distance in units in the last place of the exact result; what lies below the normal numbers may be 0.
fn worst_ulp(found: &[f32], exact: &[f64]) -> f64 {
    let ulp = |exact: f64| 2.0_f64.powi(exact.abs().log2().floor() as i32 - 23);
    let least = f64::from(f32::MIN_POSITIVE);
    let one = |(found, exact): (&f32, &f64)| {
        let found = f64::from(*found);
        if *exact < 1.01 * least {
            if (0.0..1.02 * least).contains(&found) { 0.0 } else { f64::INFINITY }
        } else {
            (found - exact).abs() / ulp(*exact)
        }
    };
    found.iter().zip(exact).map(one).fold(0.0, |worst, ulp| if ulp <= worst { worst } else { ulp })
}

const fn bound(variant: Variant) -> f64 {
    if matches!(variant, Variant::Online) { ULP_ONLINE } else { ULP }
}

#[test]
fn every_variant_is_within_its_bound_at_every_short_length_and_misaligned() {
    for k in SoftmaxKernels::supported() {
        for n in (0..=49).chain([127, 128, 129, 1000, 4095, 4096, 4097]) {
            let x = values(n + 3, n as u64 + 1);
            for (variant, store) in Variant::ALL.into_iter().flat_map(|v| [(v, Store::Plain), (v, Store::NonTemporal)])
            {
                for start in 0..3 {
                    let x = &x[start..start + n];
                    let mut room = vec![-1.0; n + 4];
                    k.softmax(Source::F32(x), n, &mut room[start + 1..=start + n], options(variant, store));
                    let worst = worst_ulp(&room[start + 1..=start + n], &exact(x));
                    assert!(worst <= bound(variant), "{} {variant:?} {store:?} {n}: {worst} ULP", k.table);
                    let outside = room[..=start].iter().chain(&room[start + n + 1..]);
                    assert!(outside.copied().all(|x| x == -1.0), "{} {variant:?} {n} writes outside", k.table);
                    let mut place = x.to_vec();
                    k.softmax_in_place(&mut place, n, options(variant, store));
                    assert_eq!(place, room[start + 1..=start + n], "{} {variant:?} {n} in place", k.table);
                }
            }
        }
    }
}

#[test]
fn long_rows_stay_within_the_bounds_and_threads_change_nothing() {
    let n = (1 << 18) + 77;
    let x = values(n, 7);
    let exact = exact(&x);
    for k in SoftmaxKernels::supported() {
        for variant in Variant::ALL {
            let (mut one, mut many) = (vec![0.0; n], vec![0.0; n]);
            k.softmax(Source::F32(&x), n, &mut one, options(variant, Store::Plain));
            let worst = worst_ulp(&one, &exact);
            println!("{} {variant:?}: {worst:.2} ULP", k.table);
            assert!(worst <= bound(variant), "{} {variant:?}: {worst} ULP", k.table);
            for threads in [2, 3, 5] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
                let options = Options { parallel: true, ..options(variant, Store::NonTemporal) };
                pool.install(|| k.softmax(Source::F32(&x), n, &mut many, options));
                assert!(one == many, "{} {variant:?} on {threads} threads", k.table);
            }
        }
    }
}

/// Rows far from 0, rows with most of their sum far below the maximum, and rows of equal elements, whose sums round one way.
#[test]
fn where_a_row_lies_does_not_show() {
    let mut random = Random::new(21);
    for offset in [0.0, 31.9, -33.0, 70.0, -70.0, 1000.0, -1000.0, 13_000.0, -13_000.0, 14_000.0, -1e6] {
        for spread in [0.0, 1.0, 30.0] {
            for n in [1, 17, 300, 5000] {
                let mut x: Vec<f32> = (0..n).map(|_| offset + spread * random.normal()).collect();
                // One masked in front, one that leads by far at the end.
                for ends in [false, true] {
                    if ends {
                        (x[0], x[n - 1]) = (-INF, offset + 17.3);
                    }
                    let exact = exact(&x);
                    for k in SoftmaxKernels::supported() {
                        for variant in Variant::ALL {
                            let mut out = vec![0.0; n];
                            k.softmax(Source::F32(&x), n, &mut out, options(variant, Store::Plain));
                            let worst = worst_ulp(&out, &exact);
                            let what = format!("{} {variant:?} {offset} {spread} {n} {ends}", k.table);
                            assert!(worst <= bound(variant), "{what}: {worst} ULP");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn one_element_gives_one_within_a_unit() {
    for k in SoftmaxKernels::supported() {
        for i in 0..5000 {
            let x = [(i as f32 - 2500.0) * 5.234_567];
            for variant in Variant::ALL {
                let mut out = [0.0];
                k.softmax(Source::F32(&x), 1, &mut out, options(variant, Store::Plain));
                let units = if variant == Variant::Online { 3 } else { 1 };
                let near = out[0].to_bits().abs_diff(1.0_f32.to_bits()) <= units && (units > 1 || out[0] <= 1.0);
                assert!(near, "{} {variant:?} {}: {}", k.table, x[0], out[0]);
            }
        }
    }
}

/// Against f64, a piece at a time so that nothing else of this length is in memory. Only the fastest tables: the scalar one shares
/// the sums with them, and shorter rows test its exponential.
fn long_row(n: usize) {
    let mut x = values(n.min(1 << 20), 13);
    // Repeated with a shift, so that no two pieces are alike.
    while x.len() < n {
        let shift = (x.len() >> 20) as f32 / 64.0;
        x.extend_from_within(..(1 << 20).min(n - x.len()));
        let start = x.len().saturating_sub(1 << 20);
        x[start..].iter_mut().for_each(|x| *x -= shift);
    }
    let max = f64::from(x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    // Sums of pieces, then of these: no more than 2^-40 of the whole is lost.
    let sum: f64 = x.chunks(4096).map(|x| x.iter().map(|x| (f64::from(*x) - max).exp()).sum::<f64>()).sum();
    let mut out = vec![0.0; n];
    for k in SoftmaxKernels::supported().into_iter().filter(|k| k.table != "scalar") {
        for variant in Variant::ALL {
            k.softmax(Source::F32(&x), n, &mut out, options(variant, Store::Plain));
            // One piece in 64, but at 2^24 every one.
            let pieces = x.chunks(4096).zip(out.chunks(4096)).step_by((n >> 24).clamp(1, 64));
            let worst = pieces.fold(0.0_f64, |worst, (x, out)| {
                let exact: Vec<f64> = x.iter().map(|x| (f64::from(*x) - max).exp() / sum).collect();
                worst.max(worst_ulp(out, &exact))
            });
            println!("{} {variant:?}, {n}: {worst:.2} ULP", k.table);
            assert!(worst <= bound(variant), "{} {variant:?}, {n}: {worst} ULP", k.table);
        }
    }
}

#[test]
fn the_length_of_a_row_does_not_show() {
    long_row((1 << 24) + 5);
}

#[test]
#[ignore = "a gigabyte and a minute; `cargo test --release -p reweight-kernels -- --ignored` runs it"]
fn nor_does_that_of_the_longest() {
    long_row(1 << 27);
}

#[test]
fn rows_do_not_touch_each_other() {
    let (rows, n) = (300, 257);
    let x = values(rows * n, 3);
    for k in SoftmaxKernels::supported() {
        let (mut out, mut one, mut row) = (vec![0.0; rows * n], vec![0.0; rows * n], vec![0.0; n]);
        // Which is chosen may depend on the number of rows, but not of threads.
        for variant in Variant::ALL.map(Some).into_iter().chain([None]) {
            let options = Options { variant, ..Options::default() };
            k.softmax(Source::F32(&x), n, &mut out, Options { parallel: true, ..options });
            k.softmax(Source::F32(&x), n, &mut one, options);
            assert!(out == one, "{} {variant:?}", k.table);
            for (x, out) in x.chunks(n).zip(out.chunks(n)).filter(|_| variant.is_some()) {
                k.softmax(Source::F32(x), n, &mut row, options);
                assert_eq!(out, row, "{} {variant:?}", k.table);
            }
        }
    }
}

/// Twelve rows: usual ones, one far below 0 and one far above, and four that two passes cannot take.
fn short_rows(row_len: usize) -> Vec<f32> {
    let mut x = values(12 * row_len, row_len as u64);
    x[row_len..2 * row_len].iter_mut().for_each(|x| *x -= 30.0);
    x[2 * row_len + 1] = 50.0;
    x[3 * row_len..4 * row_len].fill(-INF);
    x[4 * row_len + 2] = 1e30;
    x[6 * row_len - 1] = f32::NAN;
    x[8 * row_len] = -INF;
    x[11 * row_len] = INF;
    x
}

#[test]
fn short_rows_that_two_passes_cannot_take_stand_among_others() {
    for row_len in [3, 10, 16, 17, 40, 64, 65, 130, 512, 513] {
        let x = short_rows(row_len);
        let mut half = vec![0; 2 * x.len()];
        reweight_kernels::best().f32_to_bf16(&x, &mut half);
        for k in SoftmaxKernels::supported() {
            let (mut out, mut row) = (vec![0.0; x.len()], vec![0.0; row_len]);
            let (mut place, mut of_half) = (x.clone(), out.clone());
            k.softmax(Source::F32(&x), row_len, &mut out, options(Variant::TwoPass, Store::Plain));
            k.softmax_in_place(&mut place, row_len, options(Variant::TwoPass, Store::Plain));
            k.softmax(Source::Bf16(&half), row_len, &mut of_half, options(Variant::TwoPass, Store::Plain));
            // Streamed rows go through the passes one call after the other.
            let mut alone = |x: Source<'_>| {
                k.softmax(x, row_len, &mut row, options(Variant::TwoPass, Store::NonTemporal));
                bits(&row)
            };
            for (index, x) in x.chunks(row_len).enumerate() {
                let at = index * row_len..(index + 1) * row_len;
                let expected = alone(Source::F32(x));
                let same = bits(&out[at.clone()]) == expected && bits(&place[at.clone()]) == expected;
                assert!(same, "{} row {index} of {row_len}: {:?} {x:?}", k.table, &out[at]);
                let expected = alone(Source::Bf16(&half[2 * at.start..2 * at.end]));
                assert!(bits(&of_half[at]) == expected, "{} row {index} of {row_len} in bf16", k.table);
            }
            let masked = &out[3 * row_len..4 * row_len];
            assert!(masked.iter().all(|x| x.is_nan()) && out[4 * row_len + 2] == 1.0, "{}", k.table);
            let worst =
                worst_ulp(&out[..3 * row_len], &x[..3 * row_len].chunks(row_len).flat_map(exact).collect::<Vec<_>>());
            assert!(worst <= ULP, "{} {row_len}: {worst} ULP", k.table);
        }
    }
}

/// Any NaN is as good as another.
fn bits(row: &[f32]) -> Vec<u32> {
    row.iter().map(|x| if x.is_nan() { 0 } else { x.to_bits() }).collect()
}

#[test]
fn special_values_follow_the_stated_rules() {
    let nan = f32::NAN;
    let cases: [(&str, &[f32], &[f32]); 12] = [
        ("one", &[-3.5], &[1.0]),
        ("one huge", &[3e38], &[1.0]),
        ("masked", &[0.0, -INF, 0.0, -INF], &[0.5, 0.0, 0.5, 0.0]),
        ("all masked", &[-INF, -INF, -INF], &[nan; 3]),
        ("infinite", &[1.0, INF, -INF], &[nan; 3]),
        ("not a number", &[1.0, nan, 2.0], &[nan; 3]),
        ("not a number, masked", &[-INF, nan], &[nan; 2]),
        ("not a number, infinite", &[INF, nan], &[nan; 2]),
        ("large", &[1e30, 1e30, -1e30], &[0.5, 0.5, 0.0]),
        ("largest", &[f32::MAX, f32::MIN], &[1.0, 0.0]),
        ("far below", &[-1e5, -1e5, -2e5, -INF], &[0.5, 0.5, 0.0, 0.0]),
        ("edge of pairs", &[-20000.0, -20000.0], &[0.5, 0.5]),
    ];
    for k in SoftmaxKernels::supported() {
        for (what, x, expected) in cases {
            // The same values where a vector begins, and in its midst, with masked ones around them.
            for (before, after) in [(0, 0), (16, 0), (5, 300), (4200, 40)] {
                let padded: Vec<f32> = [vec![-INF; before], x.to_vec(), vec![-INF; after]].concat();
                let around = if expected[0].is_nan() { nan } else { 0.0 };
                let wanted: Vec<f32> = [vec![around; before], expected.to_vec(), vec![around; after]].concat();
                for variant in Variant::ALL {
                    let mut out = vec![9.0; padded.len()];
                    k.softmax(Source::F32(&padded), padded.len(), &mut out, options(variant, Store::Plain));
                    let same = out.iter().zip(&wanted).all(|(a, b)| a == b || (a.is_nan() && b.is_nan()));
                    assert!(same, "{} {variant:?} {what} +{before} +{after}: {out:?}", k.table);
                }
            }
        }
    }
}

#[test]
fn logarithms_are_those_of_f64_and_keep_the_rules() {
    for k in SoftmaxKernels::supported() {
        for n in [1, 15, 16, 33, 5000, 70_001] {
            let x = values(n, 11);
            let exact: Vec<f64> = exact(&x).iter().map(|p| p.ln()).collect();
            let max = f64::from(x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            for variant in Variant::ALL {
                let mut out = vec![0.0; n];
                k.log_softmax(Source::F32(&x), n, &mut out, options(variant, Store::Plain));
                for (found, exact) in out.iter().zip(&exact) {
                    // Two subtractions round, and the logarithm of the sum: each to half a unit of at most 64.
                    assert!((f64::from(*found) - exact).abs() < 1.2e-5, "{} {variant:?} {found} {exact}", k.table);
                }
                let mut lse = [0.0];
                k.log_sum_exp(Source::F32(&x), n, &mut lse, options(variant, Store::Plain));
                let exact = max + x.iter().map(|x| (f64::from(*x) - max).exp()).sum::<f64>().ln();
                assert!((f64::from(lse[0]) - exact).abs() < 4e-6, "{} {variant:?} {lse:?} {exact}", k.table);
            }
        }
        for variant in Variant::ALL {
            let mut out = [0.0; 5];
            let x = [-INF, -INF, 1.0, INF, INF, -INF, f32::NAN, INF, -INF, f32::NAN];
            k.log_sum_exp(Source::F32(&x), 2, &mut out, options(variant, Store::Plain));
            assert_eq!(out[..3], [-INF, INF, INF], "{} {variant:?}", k.table);
            assert!(out[3].is_nan() && out[4].is_nan(), "{} {variant:?}: {out:?}", k.table);
            let mut out = [0.0; 2];
            k.log_softmax(Source::F32(&[2.0, -INF]), 2, &mut out, options(variant, Store::Plain));
            assert_eq!(out, [0.0, -INF], "{} {variant:?}", k.table);
        }
    }
}

#[test]
fn stablemax_is_the_formula() {
    let s = |x: f32| if x < 0.0 { 1.0 / (1.0 - f64::from(x)) } else { f64::from(x) + 1.0 };
    for k in SoftmaxKernels::supported() {
        for n in [1, 15, 16, 17, 49, 5000] {
            let x = values(n, 5);
            let sum: f64 = x.iter().map(|x| s(*x)).sum();
            let mut out = vec![0.0; n];
            k.stablemax(Source::F32(&x), n, &mut out, Options::default());
            let exact: Vec<f64> = x.iter().map(|x| s(*x) / sum).collect();
            let worst = worst_ulp(&out, &exact);
            assert!(worst <= 6.0, "{} {n}: {worst} ULP", k.table);
            k.log_stablemax(Source::F32(&x), n, &mut out, Options::default());
            for (found, exact) in out.iter().zip(&exact) {
                assert!((f64::from(*found) - exact.ln()).abs() < 2e-6, "{} {n}: {found} {}", k.table, exact.ln());
            }
        }
    }
}

#[test]
fn half_width_input_gives_what_its_values_give() {
    for k in SoftmaxKernels::supported() {
        for n in [0, 1, 15, 16, 17, 49, 5000] {
            let x = values(n, 9);
            let mut bytes = vec![0; 2 * n];
            let mut wide = vec![0.0; n];
            let best = reweight_kernels::best();
            for variant in Variant::ALL {
                for (half, store) in [(false, Store::Plain), (true, Store::Plain), (false, Store::NonTemporal)] {
                    if half {
                        best.f32_to_f16(&x, &mut bytes);
                    } else {
                        best.f32_to_bf16(&x, &mut bytes);
                    }
                    if half {
                        best.f16_to_f32(&bytes, &mut wide);
                    } else {
                        best.bf16_to_f32(&bytes, &mut wide);
                    }
                    let source = if half { Source::F16(&bytes) } else { Source::Bf16(&bytes) };
                    let (mut found, mut expected) = (vec![0.0; n], vec![0.0; n]);
                    k.softmax(source, n, &mut found, options(variant, store));
                    k.softmax(Source::F32(&wide), n, &mut expected, options(variant, store));
                    assert_eq!(found, expected, "{} {variant:?} {half} {n}", k.table);
                }
            }
        }
    }
}

#[test]
fn what_needs_no_choice_is_one_call() {
    let x = values(3 * 50, 2);
    let (mut out, mut place) = (vec![0.0; 150], x.clone());
    softmax(&x, 50, &mut out);
    softmax_in_place(&mut place, 50);
    assert_eq!(out, place);
    for (x, out) in x.chunks(50).zip(out.chunks(50)) {
        assert!(worst_ulp(out, &exact(x)) <= ULP);
    }
}
