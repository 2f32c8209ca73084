//! Plain loops compiled for the instruction set of the table in use.
//!
//! What a table holds is written by hand over lanes. Loops elsewhere, which the compiler vectorizes well by itself, gain as much from being
//! compiled a second and third time: additions, products and roundings are the same operations in wider registers, never fused
//! or reordered, so the results are those of the plain loop bit for bit.

#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "a function with target features is called where the table in use proves them")
)]

use crate::table::best;

/// Runs work that was compiled for the features of [`best`]'s table. Only what is inlined into `work` gains: mark it `#[inline(always)]`.
///
/// Cost: a few nanoseconds beside the work itself.
#[inline]
pub fn vectorized<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    match best().name {
        // SAFETY: the table of this name exists only where these features were detected.
        "avx512" => return unsafe { avx512(work) },
        // SAFETY: as above.
        "avx2" => return unsafe { avx2(work) },
        _ => {}
    }
    work()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,bmi2")]
fn avx512<R>(work: impl FnOnce() -> R) -> R {
    work()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2<R>(work: impl FnOnce() -> R) -> R {
    work()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bits_as_the_plain_loop() {
        let x: Vec<f64> = (0..1000).map(|i| f64::from(i).sin() * 1e3).collect();
        let step = |x: &f64| (x * 1.1 + 0.3) as f32;
        let plain: Vec<u32> = x.iter().map(|x| step(x).to_bits()).collect();
        let wide: Vec<u32> = vectorized(|| x.iter().map(|x| step(x).to_bits()).collect());
        assert_eq!(plain, wide);
    }
}
