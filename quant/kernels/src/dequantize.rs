//! Codes back to values.

use crate::lanes::{LANES, Lanes};

#[inline(always)]
pub(crate) fn dequantize<S: Lanes>(s: S, group: usize, codes: &[u8], scales: &[f32], zeros: &[u8], out: &mut [f32]) {
    for (((codes, out), &scale), &zero) in codes.chunks(group).zip(out.chunks_mut(group)).zip(scales).zip(zeros) {
        let (scale, zero) = (s.splat(scale), s.splat(f32::from(zero)));
        let (from, from_rest) = codes.as_chunks::<LANES>();
        let (to, to_rest) = out.as_chunks_mut::<LANES>();
        for (from, to) in from.iter().zip(to) {
            s.store(s.mul(s.sub(s.load_codes(from), zero), scale), to);
        }
        if !from_rest.is_empty() {
            let (mut short, mut wide) = ([0; LANES], [0.0; LANES]);
            short[..from_rest.len()].copy_from_slice(from_rest);
            s.store(s.mul(s.sub(s.load_codes(&short), zero), scale), &mut wide);
            to_rest.copy_from_slice(&wide[..to_rest.len()]);
        }
    }
}
