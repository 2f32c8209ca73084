//! Undo records: the base, coded against what can be foretold from patched weights and patches.
//!
//! Elements are seen as integers in the order of their values, so that a guess that is off by one unit in the last place is off
//! by one. Of bf16 weights after a small change, five in six are foretold exactly and nearly all others are off by one.
//! A record is the shorter of two codings, compressed by zstd: two bits an element (0, -1, +1, other) with the others after them, or
//! the differences byte plane by byte plane.

use reweight_quant::kernels::vectorized;
use zstd::bulk::{Compressor, Decompressor};

use crate::values::{Float, Word};

/// Compression level: level 1 is half a percent of the touched bytes larger than level 9 and many times as fast.
const LEVEL: i32 = 1;

const SYMBOLS: u8 = 0;
const PLANES: u8 = 1;

/// Codes stored elements against predicted ones.
///
/// # Panics
/// Where the lengths differ.
#[must_use]
pub fn encode(float: Float, base: &[u8], predicted: &[u8]) -> Vec<u8> {
    Coder::default().encode(float, base, predicted)
}

/// Turns predicted elements into the stored ones; `None` where the record is none of such elements.
#[must_use]
pub fn decode(float: Float, record: &[u8], predicted: &mut [u8]) -> Option<()> {
    Coder::default().decode(float, record, predicted)
}

/// Memory of one thread: what zstd needs for a record takes longer to get and to clear than the record takes to code.
#[derive(Default)]
pub(crate) struct Coder {
    compressor: Option<Compressor<'static>>,
    decompressor: Option<Decompressor<'static>>,
    codes: Codes,
    /// Before compression.
    plain: Vec<u8>,
    /// After it.
    packed: Vec<u8>,
}

/// Codes of each width.
#[derive(Default)]
struct Codes {
    two: Vec<u16>,
    four: Vec<u32>,
    eight: Vec<u64>,
}

impl Coder {
    /// [`encode`].
    pub(crate) fn encode(&mut self, float: Float, base: &[u8], predicted: &[u8]) -> Vec<u8> {
        assert_eq!(base.len(), predicted.len(), "one guess for each element");
        let mut codes = std::mem::take(&mut self.codes);
        let record = match float.bytes() {
            2 => self.encode_words(base, predicted, &mut codes.two),
            4 => self.encode_words(base, predicted, &mut codes.four),
            _ => self.encode_words(base, predicted, &mut codes.eight),
        };
        self.codes = codes;
        record
    }

    /// [`decode`].
    pub(crate) fn decode(&mut self, float: Float, record: &[u8], predicted: &mut [u8]) -> Option<()> {
        let mut codes = std::mem::take(&mut self.codes);
        let done = match float.bytes() {
            2 => self.decode_words(record, predicted, &mut codes.two),
            4 => self.decode_words(record, predicted, &mut codes.four),
            _ => self.decode_words(record, predicted, &mut codes.eight),
        };
        self.codes = codes;
        done
    }

    fn encode_words<W: Word>(&mut self, base: &[u8], predicted: &[u8], codes: &mut Vec<W>) -> Vec<u8> {
        codes.resize(base.len() / W::BYTES, W::default());
        W::differences(base, predicted, codes);
        let n_others = vectorized(|| codes.iter().map(|code| u32::from(code.wide() > 2)).sum::<u32>()) as usize;
        symbols(codes, n_others > 0, &mut self.plain);
        let mut best = self.compress(SYMBOLS);
        if n_others > codes.len() / 16 {
            self.plain = planes(codes);
            let planes = self.compress(PLANES);
            if planes.len() < best.len() {
                best = planes;
            }
        }
        best
    }
    /// A record of what is in `plain`.
    fn compress(&mut self, coding: u8) -> Vec<u8> {
        self.packed.clear();
        self.packed.reserve(zstd::zstd_safe::compress_bound(self.plain.len()));
        let compressor =
            self.compressor.get_or_insert_with(|| Compressor::new(LEVEL).expect("level 1 is known to zstd"));
        let packed = compressor.compress_to_buffer(&self.plain, &mut self.packed);
        packed.expect("memory to compress into is there");
        let mut record = Vec::with_capacity(1 + self.packed.len());
        record.push(coding);
        record.extend_from_slice(&self.packed);
        record
    }

    /// Fills `plain` with at most so many bytes.
    fn decompress(&mut self, compressed: &[u8], limit: usize) -> Option<()> {
        self.plain.clear();
        self.plain.reserve(limit);
        let made = || Decompressor::new().expect("zstd needs no dictionary");
        self.decompressor.get_or_insert_with(made).decompress_to_buffer(compressed, &mut self.plain).ok()?;
        Some(())
    }

    fn decode_words<W: Word>(&mut self, record: &[u8], predicted: &mut [u8], codes: &mut Vec<W>) -> Option<()> {
        let n = predicted.len() / W::BYTES;
        let (&coding, compressed) = record.split_first()?;
        // A code takes two bits and at most ten bytes, or its planes.
        self.decompress(compressed, n.div_ceil(4) + 10 * n)?;
        codes.clear();
        codes.resize(n, W::default());
        match coding {
            SYMBOLS => read_symbols(&self.plain, codes)?,
            PLANES if self.plain.len() == n * W::BYTES => {
                for (index, code) in codes.iter_mut().enumerate() {
                    let byte = |plane: usize| u64::from(self.plain[plane * n + index]) << (8 * plane);
                    *code = W::of((0..W::BYTES).map(byte).sum());
                }
            }
            _ => return None,
        }
        W::restore(codes, predicted);
        Some(())
    }
}

/// Bytes of a record of [`encode_bytes`].
pub const BYTES_PIECE: usize = 1 << 18;

const TURNED: u8 = 2;
const WHOLE: u8 = 3;

/// Codes bytes against others in their place: for quantized tensors, of which nothing can be foretold but that what did not change is
/// the same. The shorter of the bits that are turned and the bytes themselves, compressed.
///
/// # Panics
/// Where the lengths differ.
#[must_use]
pub fn encode_bytes(base: &[u8], now: &[u8]) -> Vec<u8> {
    assert_eq!(base.len(), now.len(), "a byte for each byte");
    let turned: Vec<u8> = base.iter().zip(now).map(|(base, now)| base ^ now).collect();
    let (turned, whole) = (compress(TURNED, &turned), compress(WHOLE, base));
    if turned.len() <= whole.len() { turned } else { whole }
}

/// Turns bytes into those of the base; `None` where the record is none of so many.
#[must_use]
pub fn decode_bytes(record: &[u8], now: &mut [u8]) -> Option<()> {
    let (&coding, compressed) = record.split_first()?;
    let bytes = zstd::bulk::decompress(compressed, now.len()).ok().filter(|bytes| bytes.len() == now.len())?;
    match coding {
        TURNED => now.iter_mut().zip(&bytes).for_each(|(now, turned)| *now ^= turned),
        WHOLE => now.copy_from_slice(&bytes),
        _ => return None,
    }
    Some(())
}

fn compress(coding: u8, bytes: &[u8]) -> Vec<u8> {
    let mut record = vec![coding];
    record.extend(zstd::bulk::compress(bytes, LEVEL).expect("memory to compress into is there"));
    record
}

fn symbols<W: Word>(codes: &[W], has_others: bool, bytes: &mut Vec<u8>) {
    bytes.resize(codes.len().div_ceil(4), 0);
    let (fours, rest) = codes.as_chunks::<4>();
    vectorized(|| {
        for (byte, four) in bytes.iter_mut().zip(fours) {
            let [a, b, c, d] = four.map(|code| code.wide().min(3) as u8);
            *byte = a | (b << 2) | (c << 4) | (d << 6);
        }
    });
    if let (Some(byte), false) = (bytes.last_mut(), rest.is_empty()) {
        *byte = rest.iter().rev().fold(0, |byte, code| (byte << 2) | code.wide().min(3) as u8);
    }
    if has_others {
        for code in codes.iter().map(|code| code.wide()).filter(|&code| code > 2) {
            let mut rest = code - 3;
            while rest >= 0x80 {
                bytes.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            bytes.push(rest as u8);
        }
    }
}

fn planes<W: Word>(codes: &[W]) -> Vec<u8> {
    (0..W::BYTES).flat_map(|plane| codes.iter().map(move |code| (code.wide() >> (8 * plane)) as u8)).collect()
}

/// Codes of two bits, and after them the others.
fn read_symbols<W: Word>(bytes: &[u8], codes: &mut [W]) -> Option<()> {
    let (symbols, mut others) = bytes.split_at_checked(codes.len().div_ceil(4))?;
    for (four, &symbols) in codes.chunks_mut(4).zip(symbols) {
        if symbols == 0 {
            continue;
        }
        for (index, code) in four.iter_mut().enumerate() {
            *code = match (symbols >> (2 * index)) & 3 {
                3 => W::of(take_number(&mut others)?.checked_add(3)?),
                code => W::of(u64::from(code)),
            };
        }
    }
    others.is_empty().then_some(())
}

fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7F);
        if part << shift >> shift != part {
            return None;
        }
        number |= part << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_base_comes_back_from_any_guess() {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        for float in [Float::F16, Float::Bf16, Float::F32, Float::F64] {
            for n in [0, 1, 3, 4, 5, 1000] {
                let base: Vec<u8> = (0..n * float.bytes()).map(|_| next()).collect();
                for near in [true, false] {
                    let guess = |index: usize, byte: u8| {
                        if near { byte ^ u8::from(index.is_multiple_of(16)) } else { byte.wrapping_mul(77) }
                    };
                    let mut guess: Vec<u8> = base.iter().enumerate().map(|(index, &byte)| guess(index, byte)).collect();
                    let record = encode(float, &base, &guess);
                    assert_eq!(decode(float, &record, &mut guess), Some(()));
                    assert_eq!(guess, base, "{float:?} {n} {near}");
                }
            }
        }
    }

    #[test]
    fn bytes_come_back_from_any_others() {
        let base: Vec<u8> = (0..5000_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for every in [1, 100, 10_000] {
            let mut now: Vec<u8> = base.iter().enumerate().map(|(i, b)| b ^ u8::from(i % every == 0)).collect();
            let record = encode_bytes(&base, &now);
            assert!(record.len() < 5100 && (every == 1 || record.len() < 500), "{every}: {}", record.len());
            for cut in 0..record.len() {
                assert_eq!(decode_bytes(&record[..cut], &mut now.clone()), None, "{cut}");
            }
            assert_eq!(decode_bytes(&record, &mut vec![0; 4999]), None);
            assert_eq!(decode_bytes(&record, &mut now), Some(()));
            assert_eq!(now, base);
        }
        assert_eq!(decode_bytes(&encode_bytes(&[], &[]), &mut []), Some(()));
    }

    #[test]
    fn a_record_of_anything_else_is_none() {
        let record = encode(Float::Bf16, &[1, 2, 3, 4], &[9, 9, 9, 9]);
        for cut in 0..record.len() {
            assert_eq!(decode(Float::Bf16, &record[..cut], &mut [9; 4]), None, "{cut}");
        }
        assert_eq!(decode(Float::Bf16, &record, &mut [9; 400]), None);
        assert_eq!(decode(Float::Bf16, &[7, 1, 2], &mut [9; 4]), None);
    }
}
