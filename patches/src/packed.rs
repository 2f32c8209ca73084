//! Changes in few bits: symmetric groups of 64 consecutive elements, integer codes times one scale each.
//!
//! A code of `b` bits is a whole number from -2^(b-1) to 2^(b-1) - 1. The scale may be negative, so that the longer side of the codes
//! lies where the group reaches further. Scales are bf16: changes of weights go down to 1e-7, where f16 has few bits left.

use half::bf16;
use reweight_quant::kernels::vectorized;

/// Elements that share a scale.
pub const GROUP: usize = 64;

/// Bits of a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits(u8);

impl Bits {
    /// 2, 3, 4 or 8 bits.
    #[must_use]
    pub const fn new(bits: u8) -> Option<Self> {
        if matches!(bits, 2 | 3 | 4 | 8) { Some(Self(bits)) } else { None }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The lowest code.
    const fn lowest(self) -> f64 {
        -((1_u32 << (self.0 - 1)) as f64)
    }

    /// The highest code.
    const fn highest(self) -> f64 {
        ((1_u32 << (self.0 - 1)) - 1) as f64
    }

    /// Bytes of the codes of a group.
    const fn group_bytes(self) -> usize {
        self.0 as usize * GROUP / 8
    }

    /// Bytes of the codes of `n` elements; the last group is filled up.
    #[must_use]
    pub const fn code_bytes(self, n: usize) -> usize {
        n.div_ceil(GROUP).saturating_mul(self.group_bytes())
    }
}

/// A stored change.
#[derive(Clone, Copy, Debug)]
pub struct Packed<'a> {
    /// Bits of a code.
    pub bits: Bits,
    /// Codes, a bit stream, low bits first.
    pub codes: &'a [u8],
    /// One bf16 for every group.
    pub scales: &'a [u8],
}

impl Packed<'_> {
    /// Values from element `start` on.
    ///
    /// # Panics
    /// Where the range is outside.
    pub fn read(&self, start: usize, out: &mut [f64]) {
        vectorized(|| self.read_here(start, out));
    }

    #[inline(always)]
    fn read_here(&self, start: usize, out: &mut [f64]) {
        let (head, rest) = out.split_at_mut((start.next_multiple_of(GROUP) - start).min(out.len()));
        self.read_group(start / GROUP, start % GROUP, head);
        for (index, out) in rest.chunks_mut(GROUP).enumerate() {
            self.read_group(start.div_ceil(GROUP) + index, 0, out);
        }
    }

    /// Codes of all elements from the first on, counted from 0.
    pub(crate) fn read_codes(&self, out: &mut [u8]) {
        let bytes = self.bits.group_bytes();
        for (codes, out) in self.codes.chunks_exact(bytes).zip(out.chunks_mut(GROUP)) {
            let mut spread = [0; GROUP];
            spread_codes(codes, self.bits, &mut spread);
            out.copy_from_slice(&spread[..out.len()]);
        }
    }

    /// Values of a group from its element `first` on.
    #[inline(always)]
    fn read_group(&self, group: usize, first: usize, out: &mut [f64]) {
        if out.is_empty() {
            return;
        }
        let scale = f64::from(bf16::from_le_bytes([self.scales[2 * group], self.scales[2 * group + 1]]).to_f32());
        let codes = &self.codes[group * self.bits.group_bytes()..(group + 1) * self.bits.group_bytes()];
        let (mut spread, lowest) = ([0_u8; GROUP], self.bits.lowest());
        spread_codes(codes, self.bits, &mut spread);
        for (value, &code) in out.iter_mut().zip(&spread[first..]) {
            *value = scale * (f64::from(code) + lowest);
        }
    }
}

/// The codes of a group, one a byte.
#[inline(always)]
fn spread_codes(codes: &[u8], bits: Bits, out: &mut [u8; GROUP]) {
    match bits.0 {
        8 => out.copy_from_slice(codes),
        4 => {
            for (pair, &byte) in out.as_chunks_mut::<2>().0.iter_mut().zip(codes) {
                *pair = [byte & 15, byte >> 4];
            }
        }
        2 => {
            for (four, &byte) in out.as_chunks_mut::<4>().0.iter_mut().zip(codes) {
                *four = [byte & 3, (byte >> 2) & 3, (byte >> 4) & 3, byte >> 6];
            }
        }
        _ => out.iter_mut().enumerate().for_each(|(element, code)| *code = code_at(codes, bits, element)),
    }
}

fn code_at(codes: &[u8], bits: Bits, element: usize) -> u8 {
    let place = element * bits.0 as usize;
    let low = u16::from(codes[place / 8]);
    let high = codes.get(place / 8 + 1).map_or(0, |&byte| u16::from(byte));
    (((low | (high << 8)) >> (place % 8)) & ((1 << bits.0) - 1)) as u8
}

/// Scales tried for a group, as parts of the one that reaches its largest value.
const STEPS: usize = 24;

/// Codes and scales of values, with the least squared error of each group among the scales tried.
///
/// # Panics
/// Where the values do not begin a group of their tensor; only the caller knows.
#[must_use]
pub fn pack(values: &[f64], bits: Bits) -> (Vec<u8>, Vec<u8>) {
    let mut codes = vec![0; bits.code_bytes(values.len())];
    let mut scales = Vec::with_capacity(2 * values.len().div_ceil(GROUP));
    for (values, codes) in values.chunks(GROUP).zip(codes.chunks_mut(bits.group_bytes())) {
        let scale = best_scale(values, bits);
        scales.extend_from_slice(&scale.to_le_bytes());
        let scale = f64::from(scale.to_f32());
        for element in 0..GROUP {
            let value = values.get(element).copied().unwrap_or(0.0);
            let code = (nearest(value, scale, bits) - bits.lowest()) as u16;
            let place = element * bits.0 as usize;
            let shifted = code << (place % 8);
            codes[place / 8] |= shifted as u8;
            if let Some(next) = codes.get_mut(place / 8 + 1) {
                *next |= (shifted >> 8) as u8;
            }
        }
    }
    (codes, scales)
}

fn nearest(value: f64, scale: f64, bits: Bits) -> f64 {
    if scale == 0.0 { 0.0 } else { (value / scale).round_ties_even().clamp(bits.lowest(), bits.highest()) }
}

fn best_scale(values: &[f64], bits: Bits) -> bf16 {
    let extreme =
        values.iter().fold(0.0_f64, |extreme, &value| if value.abs() > extreme.abs() { value } else { extreme });
    if extreme == 0.0 {
        return bf16::ZERO;
    }
    let error = |scale: bf16| {
        let scale = f64::from(scale.to_f32());
        values.iter().map(|&value| (value - scale * nearest(value, scale, bits)).powi(2)).sum::<f64>()
    };
    let mut best = (f64::INFINITY, bf16::ZERO);
    for reach in [bits.lowest(), bits.highest()] {
        for step in 0..STEPS {
            // From 1.05 of the full reach down to 0.5 at few bits; with 8 bits nothing is gained by cutting off much.
            let part = 1.05 - step as f64 * if bits.0 == 8 { 0.005 } else { 0.025 };
            let scale = bf16::from_f64(extreme * part / reach);
            let error = error(scale);
            if error < best.0 {
                best = (error, scale);
            }
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize) -> Vec<f64> {
        (0..n).map(|index| ((index * 7919 % 1000) as f64 / 500.0 - 1.0) * 1e-3).collect()
    }

    #[test]
    fn codes_come_back_in_every_width() {
        for (bits, bound) in [(8, 0.0045), (4, 0.075), (3, 0.15), (2, 0.35)] {
            let bits = Bits::new(bits).expect("a width");
            for n in [1, 63, 64, 65, 200] {
                let values = values(n);
                let (codes, scales) = pack(&values, bits);
                assert_eq!((codes.len(), scales.len()), (bits.code_bytes(n), 2 * n.div_ceil(64)));
                let mut back = vec![0.0; n];
                let packed = Packed { bits, codes: &codes, scales: &scales };
                packed.read(0, &mut back);
                let mut part = vec![0.0; n / 2];
                packed.read(n / 3, &mut part);
                assert_eq!(part, back[n / 3..][..n / 2], "{bits:?}, {n}");
                for (value, back) in values.iter().zip(&back) {
                    // Half a step of the grid over a range of 2e-3; cutting off at most doubles it.
                    assert!((value - back).abs() <= 2.0 * bound * 1e-3, "{bits:?}, {n}: {value} {back}");
                }
            }
        }
    }

    #[test]
    fn nothing_stays_nothing() {
        let bits = Bits::new(4).expect("a width");
        let (codes, scales) = pack(&[0.0; 100], bits);
        let mut back = vec![1.0; 100];
        Packed { bits, codes: &codes, scales: &scales }.read(0, &mut back);
        assert!(back.iter().all(|&value| value == 0.0));
        assert_eq!(Bits::new(5), None);
    }
}
