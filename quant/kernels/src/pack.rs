//! Codes to a dense stream of bits and back: value `i` starts at bit `i * bits`, least significant bit first, in
//! little-endian 32-bit words, the last one filled up with zeros.
//!
//! This is the layout of `pack-quantized` in compressed-tensors 0.18 and later, for every width from 2 to 8; 1 goes on in the same way.

use crate::lanes::Lanes;

/// Length in bytes of `n` packed codes: whole 32-bit words.
///
/// # Panics
/// When the number of bits overflows `usize`.
#[must_use]
pub const fn packed_len(bits: u8, n: usize) -> usize {
    n.checked_mul(bits as usize).expect("the packed length fits in memory").div_ceil(32) * 4
}

/// How far ahead the writer of nibbles asks for the lines it will fill: a row of 4096. Quantizing from memory to memory gains,
/// see `benches/quantize.rs`.
const PREFETCH_BYTES: usize = 2048;

#[inline(always)]
pub(crate) fn pack<S: Lanes>(s: S, bits: u8, codes: &[u8], out: &mut [u8]) {
    match bits {
        1 => pack_by_eight::<S, 1>(s, codes, out),
        2 => pack_by_eight::<S, 2>(s, codes, out),
        3 => pack_by_eight::<S, 3>(s, codes, out),
        4 => {
            let (blocks, rest) = codes.as_chunks::<64>();
            let (to, to_rest) = out.split_at_mut(blocks.len() * 32);
            for (codes, to) in blocks.iter().zip(to.as_chunks_mut::<32>().0) {
                s.prefetch(to.as_ptr().wrapping_add(PREFETCH_BYTES));
                s.pack_nibbles(codes, to);
            }
            pack_by_eight::<S, 4>(s, rest, to_rest);
        }
        5 => pack_by_eight::<S, 5>(s, codes, out),
        6 => pack_by_eight::<S, 6>(s, codes, out),
        7 => pack_by_eight::<S, 7>(s, codes, out),
        _ => {
            out[..codes.len()].copy_from_slice(codes);
            out[codes.len()..].fill(0);
        }
    }
}

/// Eight codes make `BITS` whole bytes.
#[inline(always)]
fn pack_by_eight<S: Lanes, const BITS: usize>(s: S, codes: &[u8], out: &mut [u8]) {
    let (eights, rest) = codes.as_chunks::<8>();
    let (to, to_rest) = out.split_at_mut(eights.len() * BITS);
    for (codes, to) in eights.iter().zip(to.as_chunks_mut::<BITS>().0) {
        let packed = s.gather_bits(BITS as u8, u64::from_le_bytes(*codes)).to_le_bytes();
        to.copy_from_slice(&packed[..BITS]);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let packed = s.gather_bits(BITS as u8, u64::from_le_bytes(last)).to_le_bytes();
    let n = to_rest.len().min(8);
    to_rest[..n].copy_from_slice(&packed[..n]);
    to_rest[n..].fill(0);
}

#[inline(always)]
pub(crate) fn unpack<S: Lanes>(s: S, bits: u8, packed: &[u8], codes: &mut [u8]) {
    match bits {
        1 => unpack_by_eight::<S, 1>(s, packed, codes),
        2 => unpack_by_eight::<S, 2>(s, packed, codes),
        3 => unpack_by_eight::<S, 3>(s, packed, codes),
        4 => {
            let (blocks, rest) = codes.as_chunks_mut::<64>();
            let (from, from_rest) = packed.split_at(blocks.len() * 32);
            for (from, codes) in from.as_chunks::<32>().0.iter().zip(blocks) {
                s.unpack_nibbles(from, codes);
            }
            unpack_by_eight::<S, 4>(s, from_rest, rest);
        }
        5 => unpack_by_eight::<S, 5>(s, packed, codes),
        6 => unpack_by_eight::<S, 6>(s, packed, codes),
        7 => unpack_by_eight::<S, 7>(s, packed, codes),
        _ => codes.copy_from_slice(&packed[..codes.len()]),
    }
}

#[inline(always)]
fn unpack_by_eight<S: Lanes, const BITS: usize>(s: S, packed: &[u8], codes: &mut [u8]) {
    let (eights, rest) = codes.as_chunks_mut::<8>();
    let (from, from_rest) = packed.split_at(eights.len() * BITS);
    for (from, codes) in from.as_chunks::<BITS>().0.iter().zip(eights) {
        let mut wide = [0; 8];
        wide[..BITS].copy_from_slice(from);
        *codes = s.scatter_bits(BITS as u8, u64::from_le_bytes(wide)).to_le_bytes();
    }
    if !rest.is_empty() {
        let mut wide = [0; 8];
        let n = from_rest.len().min(8);
        wide[..n].copy_from_slice(&from_rest[..n]);
        let last = s.scatter_bits(BITS as u8, u64::from_le_bytes(wide)).to_le_bytes();
        rest.copy_from_slice(&last[..rest.len()]);
    }
}
