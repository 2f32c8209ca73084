//! Half-width floats of a file to f32 and back. Bytes are little-endian and may lie at any address.

use crate::lanes::{LANES, Lanes};

/// How far ahead the readers ask for memory: the best of 1, 1.5, 2, 4 and 8 KiB for `rtn` in `benches/quantize.rs` on a virtual
/// machine whose hardware prefetcher is weak (3.36 Gelem/s; 4 KiB gave 3.26).
const PREFETCH_BYTES: usize = 2048;

const WIDTH: usize = 2 * LANES;

macro_rules! widen {
    ($name:ident, $load:ident) => {
        #[inline(always)]
        pub(crate) fn $name<S: Lanes>(s: S, bytes: &[u8], out: &mut [f32]) {
            let (from, from_rest) = bytes.as_chunks::<WIDTH>();
            let (to, to_rest) = out.as_chunks_mut::<LANES>();
            for (from, to) in from.iter().zip(to) {
                s.prefetch(from.as_ptr().wrapping_add(PREFETCH_BYTES));
                s.store(s.$load(from), to);
            }
            if !to_rest.is_empty() {
                let (mut short, mut wide) = ([0; WIDTH], [0.0; LANES]);
                short[..from_rest.len()].copy_from_slice(from_rest);
                s.store(s.$load(&short), &mut wide);
                to_rest.copy_from_slice(&wide[..to_rest.len()]);
            }
        }
    };
}

macro_rules! narrow {
    ($name:ident, $store:ident) => {
        #[inline(always)]
        pub(crate) fn $name<S: Lanes>(s: S, values: &[f32], out: &mut [u8]) {
            let (from, from_rest) = values.as_chunks::<LANES>();
            let (to, to_rest) = out.as_chunks_mut::<WIDTH>();
            for (from, to) in from.iter().zip(to) {
                s.$store(s.load(from), to);
            }
            if !from_rest.is_empty() {
                let (mut wide, mut short) = ([0.0; LANES], [0; WIDTH]);
                wide[..from_rest.len()].copy_from_slice(from_rest);
                s.$store(s.load(&wide), &mut short);
                to_rest.copy_from_slice(&short[..to_rest.len()]);
            }
        }
    };
}

widen!(bf16_to_f32, load_bf16);
widen!(f16_to_f32, load_f16);
narrow!(f32_to_bf16, store_bf16);
narrow!(f32_to_f16, store_f16);
