//! Activation functions of transformers, in place over slices.
//!
//! One text, compiled for each instruction set: loops without branches, which the compiler turns into its vectors. The
//! exponential is a polynomial of degree 5 after reduction by powers of two (coefficients as the softmax kernels of
//! XNNPACK have them; 2 ULP), products and sums rounded one by one. Results may differ between tables only where
//! a table fuses, and none of these does: they are the same bits everywhere.

use crate::lanes::LANES;
use crate::table::Kernels;

/// A function that is applied to each value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activation {
    /// `x / (1 + exp(-x))`, also called swish.
    Silu,
    /// `x * Phi(x)` with the error function after Abramowitz and Stegun 7.1.26: within 1.5e-7 * |x| of the exact value.
    Gelu,
    /// `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
    GeluTanh,
    /// `x / (1 + exp(-1.702 x))`.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `tanh(x)`.
    Tanh,
}

impl Kernels {
    /// Applies an activation to every value. NaN stays NaN; infinities give the limit.
    pub fn activate(&self, activation: Activation, values: &mut [f32]) {
        level(self).0(activation, values);
    }

    /// The gate of a gated layer: `gate = activation(gate) * up`.
    ///
    /// # Panics
    /// Unless both have the same length.
    pub fn activate_gate(&self, activation: Activation, gate: &mut [f32], up: &[f32]) {
        assert_eq!(gate.len(), up.len(), "a factor for each gate");
        level(self).1(activation, gate, up);
    }

    /// `exp(x - shift)` of every value, in place; gives their sum. Where `shift` is the greatest value, no sum overflows.
    ///
    /// The sum is taken in sixteen lanes of f32 and handed to f64 every 4096 values.
    pub fn exponentials(&self, shift: f32, values: &mut [f32]) -> f64 {
        level(self).3(shift, values)
    }

    /// The greatest value; negative infinity for none. NaN is passed over.
    #[must_use]
    pub fn greatest(&self, values: &[f32]) -> f32 {
        level(self).4(values)
    }

    /// Soft capping: `cap * tanh(x / cap)` for every value.
    pub fn soft_cap(&self, cap: f32, values: &mut [f32]) {
        level(self).2(cap, values);
    }
}

type Level = (
    fn(Activation, &mut [f32]),
    fn(Activation, &mut [f32], &[f32]),
    fn(f32, &mut [f32]),
    fn(f32, &mut [f32]) -> f64,
    fn(&[f32]) -> f32,
);

fn level(kernels: &Kernels) -> Level {
    #[cfg(target_arch = "x86_64")]
    match kernels.name {
        "avx512" => return x86::AVX512,
        "avx2" => return x86::AVX2,
        _ => {}
    }
    let _ = kernels;
    (activate, activate_gate, soft_cap, exponentials, greatest)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    #![expect(unsafe_code, reason = "entries that turn features on")]

    use super::{Activation, Level};

    macro_rules! level {
        ($name:ident, $features:literal) => {
            pub(super) const $name: Level = {
                #[target_feature(enable = $features)]
                fn activate(activation: Activation, values: &mut [f32]) {
                    super::activate(activation, values);
                }
                #[target_feature(enable = $features)]
                fn activate_gate(activation: Activation, gate: &mut [f32], up: &[f32]) {
                    super::activate_gate(activation, gate, up);
                }
                #[target_feature(enable = $features)]
                fn soft_cap(cap: f32, values: &mut [f32]) {
                    super::soft_cap(cap, values);
                }
                #[target_feature(enable = $features)]
                fn exponentials(shift: f32, values: &mut [f32]) -> f64 {
                    super::exponentials(shift, values)
                }
                #[target_feature(enable = $features)]
                fn greatest(values: &[f32]) -> f32 {
                    super::greatest(values)
                }
                (
                    // SAFETY: reached through a table that is handed out only where these features were detected.
                    |activation, values| unsafe { activate(activation, values) },
                    // SAFETY: as above.
                    |activation, gate, up| unsafe { activate_gate(activation, gate, up) },
                    // SAFETY: as above.
                    |cap, values| unsafe { soft_cap(cap, values) },
                    // SAFETY: as above.
                    |shift, values| unsafe { exponentials(shift, values) },
                    // SAFETY: as above.
                    |values| unsafe { greatest(values) },
                )
            };
        };
    }

    level!(AVX2, "avx2");
    level!(AVX512, "avx512f,avx512vl,avx512dq,avx512bw");
}

#[inline(always)]
fn each(values: &mut [f32], f: impl Fn(f32) -> f32) {
    for value in values {
        *value = f(*value);
    }
}

#[inline(always)]
fn each_gate(gate: &mut [f32], up: &[f32], f: impl Fn(f32) -> f32) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = f(*gate) * up;
    }
}

#[inline(always)]
fn activate(activation: Activation, values: &mut [f32]) {
    match activation {
        Activation::Silu => each(values, silu),
        Activation::Gelu => each(values, gelu),
        Activation::GeluTanh => each(values, gelu_tanh),
        Activation::QuickGelu => each(values, quick_gelu),
        Activation::Relu => each(values, relu),
        Activation::Sigmoid => each(values, sigmoid),
        Activation::Tanh => each(values, tanh),
    }
}

#[inline(always)]
fn activate_gate(activation: Activation, gate: &mut [f32], up: &[f32]) {
    match activation {
        Activation::Silu => each_gate(gate, up, silu),
        Activation::Gelu => each_gate(gate, up, gelu),
        Activation::GeluTanh => each_gate(gate, up, gelu_tanh),
        Activation::QuickGelu => each_gate(gate, up, quick_gelu),
        Activation::Relu => each_gate(gate, up, relu),
        Activation::Sigmoid => each_gate(gate, up, sigmoid),
        Activation::Tanh => each_gate(gate, up, tanh),
    }
}

#[inline(always)]
fn soft_cap(cap: f32, values: &mut [f32]) {
    each(values, |x| cap * tanh(x / cap));
}

#[inline(always)]
fn exponentials(shift: f32, values: &mut [f32]) -> f64 {
    let mut total = 0.0;
    for part in values.chunks_mut(4096) {
        let (chunks, rest) = part.as_chunks_mut::<LANES>();
        let mut lanes = [0.0_f32; LANES];
        for chunk in chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *x = exp(*x - shift);
                *lane += *x;
            }
        }
        total += lanes.iter().map(|x| f64::from(*x)).sum::<f64>();
        for x in rest {
            *x = exp(*x - shift);
            total += f64::from(*x);
        }
    }
    total
}

#[inline(always)]
fn greatest(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = if *x > *lane { *x } else { *lane };
        }
    }
    lanes.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, f32::max)
}

/// `exp(x)` for x up to 88; 0 below -87.3 and infinity above 88.7.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // Holds n in its low bits, with the exponent's bias added: 1.5 * 2^23 + 127.
    const MAGIC: f32 = 12_583_039.0;
    // ln 2 in two parts; the upper has trailing zeros, so that its product with n is exact.
    const LN2_HIGH: f32 = 0.693_145_75;
    const LN2_LOW: f32 = 1.428_606_8e-6;
    let bounded = x.clamp(-87.336_54, 88.722_83);
    let shifted = bounded * LOG2_E + MAGIC;
    let scale = f32::from_bits(shifted.to_bits() << 23);
    let n = shifted - MAGIC;
    let t = (bounded - n * LN2_HIGH) - n * LN2_LOW;
    let p = 0.008_289_291_f32;
    let p = p * t + 0.041_897_822;
    let p = p * t + 0.166_676_52;
    let p = p * t + 0.499_991_5;
    let p = p * t + 0.999_999_7;
    let p = p * t;
    let result = scale + scale * p;
    let result = if x < -87.336_54 { 0.0 } else { result };
    if x > 88.722_83 { f32::INFINITY } else { result }
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[inline(always)]
fn silu(x: f32) -> f32 {
    // exp(-x) is infinite far below zero, where the product of x and 0 is what is wanted; -inf itself gives 0 too.
    x.max(f32::MIN) / (1.0 + exp(-x))
}

#[inline(always)]
fn quick_gelu(x: f32) -> f32 {
    x.max(f32::MIN) / (1.0 + exp(-1.702 * x))
}

#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    // 0.5 (1 + tanh u) = 1 / (1 + exp(-2u)), and u = sqrt(2/pi) (x + 0.044715 x^3).
    let u = 0.797_884_6 * (x + 0.044_715 * x * x * x);
    x.max(f32::MIN) / (1.0 + exp(-2.0 * u))
}

#[inline(always)]
fn gelu(x: f32) -> f32 {
    // 1 - erf(z) for z = |x| / sqrt(2), Abramowitz and Stegun 7.1.26.
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let p = 1.061_405_4_f32;
    let p = p * t - 1.453_152;
    let p = p * t + 1.421_413_7;
    let p = p * t - 0.284_496_74;
    let p = p * t + 0.254_829_6;
    let complement = p * t * exp(-z * z);
    let upper = x.max(f32::MIN) * (1.0 - 0.5 * complement);
    let lower = x.max(f32::MIN) * (0.5 * complement);
    if x > 0.0 { upper } else { lower }
}

#[inline(always)]
fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

#[inline(always)]
fn tanh(x: f32) -> f32 {
    // By the exponential of -2|x|, which cannot overflow; near zero, where that cancels, by its series.
    let e = exp(-2.0 * x.abs());
    let far = (1.0 - e) / (1.0 + e);
    let square = x * x;
    let near = x.abs() * (1.0 + square * (-1.0 / 3.0 + square * (2.0 / 15.0 - square * (17.0 / 315.0))));
    let size = if x.abs() < 0.2 { near } else { far };
    if x < 0.0 { -size } else { size }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::float_cmp, reason = "limits, maxima and the same products are exact")]

    use super::Activation;
    use crate::supported;

    type Exact = fn(f64) -> f64;

    /// erf by its series, in f64; good to 1e-12 for |x| up to 5.
    fn erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..120 {
            term *= -x * x / f64::from(n);
            sum += term / (2.0 * f64::from(n) + 1.0);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn every_table_is_near_the_exact_function_and_like_scalar() {
        let cases: [(Activation, Exact); 7] = [
            (Activation::Silu, |x| x / (1.0 + (-x).exp())),
            (Activation::Gelu, |x| 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))),
            (Activation::GeluTanh, |x| {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
            }),
            (Activation::QuickGelu, |x| x / (1.0 + (-1.702 * x).exp())),
            (Activation::Relu, |x| x.max(0.0)),
            (Activation::Sigmoid, |x| 1.0 / (1.0 + (-x).exp())),
            (Activation::Tanh, f64::tanh),
        ];
        let inputs: Vec<f32> = (-5000..=5000).map(|i| i as f32 * 1e-3).collect();
        for (activation, exact) in cases {
            let mut scalar = inputs.clone();
            supported()[0].activate(activation, &mut scalar);
            for kernels in supported() {
                let mut found = inputs.clone();
                kernels.activate(activation, &mut found);
                assert!(found.iter().zip(&scalar).all(|(a, b)| a.to_bits() == b.to_bits()), "{}", kernels.name);
                let mut gated = inputs.clone();
                kernels.activate_gate(activation, &mut gated, &inputs);
                for ((x, y), gated) in inputs.iter().zip(&found).zip(&gated) {
                    let expected = exact(f64::from(*x));
                    // 1.5e-7 |x| of the error function, and some roundings.
                    let bound = 4e-7 * f64::from(x.abs()).max(1.0);
                    assert!((f64::from(*y) - expected).abs() <= bound, "{activation:?}({x}) = {y}, not {expected}");
                    assert_eq!(*gated, y * x, "{activation:?} gate at {x}");
                }
            }
        }
    }

    #[test]
    fn the_ends_of_the_line_are_limits() {
        for kernels in supported() {
            for (activation, low, high) in [
                (Activation::Silu, 0.0, f32::INFINITY),
                (Activation::Gelu, 0.0, f32::INFINITY),
                (Activation::GeluTanh, 0.0, f32::INFINITY),
                (Activation::QuickGelu, 0.0, f32::INFINITY),
                (Activation::Relu, 0.0, f32::INFINITY),
                (Activation::Sigmoid, 0.0, 1.0),
                (Activation::Tanh, -1.0, 1.0),
            ] {
                let mut ends = [f32::NEG_INFINITY, f32::INFINITY, f32::NAN];
                kernels.activate(activation, &mut ends);
                assert!(ends[0] == low && ends[1] == high && ends[2].is_nan(), "{activation:?}: {ends:?}");
            }
        }
    }

    #[test]
    fn exponentials_and_their_sum_are_within_a_few_roundings() {
        let inputs: Vec<f32> = (0..10_007).map(|i| (i as f32 * 0.7).sin() * 30.0).collect();
        for kernels in supported() {
            let max = kernels.greatest(&inputs);
            assert_eq!(max, inputs.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let mut found = inputs.clone();
            let sum = kernels.exponentials(max, &mut found);
            let mut expected_sum = 0.0;
            for (x, y) in inputs.iter().zip(&found) {
                let expected = f64::from(*x - max).exp();
                expected_sum += expected;
                assert!((f64::from(*y) - expected).abs() <= 3e-7 * expected, "exp({}) = {y}", x - max);
            }
            // 4096 / 16 additions a lane, each rounded once.
            assert!((sum - expected_sum).abs() <= 256.0 * 6e-8 * expected_sum, "{sum}, not {expected_sum}");
        }
        assert_eq!(supported()[0].greatest(&[]), f32::NEG_INFINITY);
    }

    #[test]
    fn a_soft_cap_leaves_small_values_and_holds_large_ones() {
        for kernels in supported() {
            let mut values = [1e-3, 1.0, 30.0, 1e6, -1e6];
            kernels.soft_cap(30.0, &mut values);
            let expected = [1e-3, 30.0 * (1.0_f32 / 30.0).tanh(), 30.0 * 1.0_f32.tanh(), 30.0, -30.0];
            for (found, expected) in values.iter().zip(expected) {
                assert!((found - expected).abs() <= 4e-6 * expected.abs(), "{found}, not {expected}");
            }
        }
    }
}
