//! Ternary weights by the mean magnitude, the rule of `BitNet` b1.58 (Ma et al. 2024, arXiv 2402.17764, equations 1 to 3), for each group of
//! values that share a scale:
//!
//! ```text
//! s = mean |w|,  code = clamp(round(w / s), -1, 1)
//! ```
//!
//! `round` takes ties to even, so that -1/2 and 1/2 become 0. The paper has one scale a matrix and adds 10^-5 to it; here a group of zeros gets
//! scale 0. Searching finds the scale with the least squared error, whose rule in closed form (threshold 0.7 mean |w|, scale the mean of what
//! is above: Li et al. 2016, arXiv 1605.04711) holds for normal weights only.

/// The levels before the scale.
pub(super) const LEVELS: [f32; 3] = [-1.0, 0.0, 1.0];

/// What is above a bound takes the level above it. The first lies one step below -1/2, which becomes 0.
pub(super) const BOUNDS: [f32; 2] = [(-0.5_f32).next_down(), 0.5];

/// Codes in a byte of a file, as digits in base 3, the first lowest.
pub const CODES_A_BYTE: usize = 5;

/// Writes codes five a byte; missing ones at the end are zero.
pub(crate) fn pack(codes: &[u8], bytes: &mut [u8]) {
    let mut chunks = codes.chunks(CODES_A_BYTE);
    for byte in bytes {
        *byte = chunks.next().map_or(0, |codes| codes.iter().rev().fold(0, |byte, code| byte * 3 + code.min(&2)));
    }
}

/// The reverse of [`pack`]; any byte gives codes of 0 to 2.
pub(crate) fn unpack(bytes: &[u8], codes: &mut [u8]) {
    for (codes, byte) in codes.chunks_mut(CODES_A_BYTE).zip(bytes) {
        let mut rest = *byte;
        for code in codes {
            *code = rest % 3;
            rest /= 3;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_come_back_from_base_3() {
        for n in 0..12 {
            let codes: Vec<u8> = (0..n).map(|i| (i * i + 2) as u8 % 3).collect();
            let (mut bytes, mut back) = (vec![0xFF; codes.len().div_ceil(CODES_A_BYTE) + 2], vec![9; codes.len()]);
            pack(&codes, &mut bytes);
            unpack(&bytes, &mut back);
            assert_eq!((codes, &bytes[bytes.len() - 2..]), (back, &[0, 0][..]));
        }
        let mut codes = [9; 5];
        unpack(&[u8::MAX], &mut codes);
        assert!(codes.iter().all(|code| *code < 3));
    }
}
