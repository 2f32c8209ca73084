//! Floating-point elements as they are stored: read as f64 exactly, written with one rounding, and seen as integers in
//! the order of their values.

use half::slice::HalfFloatSliceExt;
use reweight_quant::kernels::vectorized;
use reweight_quant::tensor::Dtype;

/// The element types that patches change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float {
    /// IEEE 754 binary64.
    F64,
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of binary32.
    Bf16,
}

impl Float {
    /// The type of that name in files, where patches change it.
    #[must_use]
    pub const fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F64 => Some(Self::F64),
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::Bf16 => Some(Self::Bf16),
            _ => None,
        }
    }

    /// Its name in files.
    #[must_use]
    pub const fn dtype(self) -> Dtype {
        match self {
            Self::F64 => Dtype::F64,
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::Bf16,
        }
    }

    /// Bytes of one element.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.dtype().bytes()
    }

    /// Reads little-endian elements; exact.
    ///
    /// # Panics
    /// Where `bytes` is not `out.len()` elements long.
    pub fn read(self, bytes: &[u8], out: &mut [f64]) {
        assert_eq!(bytes.len(), out.len() * self.bytes(), "the buffer holds exactly the elements given");
        match self {
            Self::F64 => each(bytes, out, f64::from_le_bytes),
            Self::F32 => vectorized(|| each(bytes, out, |element| f32::from_le_bytes(element).into())),
            Self::Bf16 => vectorized(|| {
                each(bytes, out, |element| f32::from_bits(u32::from(u16::from_le_bytes(element)) << 16).into());
            }),
            Self::F16 => read_f16(bytes, out),
        }
    }

    /// Rounds to nearest, ties to even, once, and writes little-endian. What is too large becomes infinite.
    ///
    /// # Panics
    /// Where `out` is not `values.len()` elements long.
    pub fn write(self, values: &[f64], out: &mut [u8]) {
        assert_eq!(out.len(), values.len() * self.bytes(), "the buffer holds exactly the elements given");
        match self {
            Self::F64 => put(values, out, f64::to_le_bytes),
            Self::F32 => vectorized(|| put(values, out, |value| (value as f32).to_le_bytes())),
            Self::Bf16 => vectorized(|| put(values, out, |value| bf16_bits(round_to_odd(value)).to_le_bytes())),
            Self::F16 => write_f16(values, out),
        }
    }

    /// Reads all elements.
    #[must_use]
    pub fn values(self, bytes: &[u8]) -> Vec<f64> {
        let mut values = vec![0.0; bytes.len() / self.bytes()];
        self.read(bytes, &mut values);
        values
    }
}

/// Elements converted at a time, so that what lies between stays in the first cache.
const BLOCK: usize = 1024;

fn read_f16(bytes: &[u8], out: &mut [f64]) {
    let mut halves = [half::f16::ZERO; BLOCK];
    let mut singles = [0.0_f32; BLOCK];
    for (bytes, out) in bytes.chunks(2 * BLOCK).zip(out.chunks_mut(BLOCK)) {
        for (half, element) in halves.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *half = half::f16::from_le_bytes(*element);
        }
        halves[..out.len()].convert_to_f32_slice(&mut singles[..out.len()]);
        for (value, &single) in out.iter_mut().zip(&singles) {
            *value = single.into();
        }
    }
}

fn write_f16(values: &[f64], out: &mut [u8]) {
    let mut halves = [half::f16::ZERO; BLOCK];
    let mut singles = [0.0_f32; BLOCK];
    for (values, out) in values.chunks(BLOCK).zip(out.chunks_mut(2 * BLOCK)) {
        for (single, &value) in singles.iter_mut().zip(values) {
            *single = round_to_odd(value);
        }
        halves[..values.len()].convert_from_f32_slice(&singles[..values.len()]);
        for (element, half) in out.as_chunks_mut::<2>().0.iter_mut().zip(&halves) {
            *element = half.to_le_bytes();
        }
    }
}

#[inline(always)]
fn each<const N: usize>(bytes: &[u8], out: &mut [f64], convert: impl Fn([u8; N]) -> f64) {
    for (value, element) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *value = convert(*element);
    }
}

#[inline(always)]
fn put<const N: usize>(values: &[f64], out: &mut [u8], convert: impl Fn(f64) -> [u8; N]) {
    for (element, &value) in out.as_chunks_mut::<N>().0.iter_mut().zip(values) {
        *element = convert(value);
    }
}

/// The f32 next to a value on the side of zero, with its last bit set where that is not the value itself. Rounding it to a type
/// of at most 22 bits of precision gives what rounding the value would: the set bit keeps it off every tie.
/// (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008.)
#[inline(always)]
pub(crate) fn round_to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    let back = f64::from(nearest);
    let towards_zero = nearest.to_bits().wrapping_sub(u32::from(back.abs() > value.abs()));
    f32::from_bits(towards_zero | u32::from(back.to_bits() != value.to_bits()))
}

/// Rounds to nearest, ties to even; a NaN stays one.
#[inline(always)]
fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
    (if value.is_nan() { (bits >> 16) | 0x40 } else { rounded }) as u16
}

/// A stored element as an unsigned integer, whose keys have the order of the values.
pub trait Word: Copy + Default + Eq {
    /// Bytes of an element.
    const BYTES: usize;
    /// The integer of an element: negative values below all others, and descending bits with them.
    #[must_use]
    fn key(self) -> Self;
    /// The element of such an integer.
    #[must_use]
    fn unkey(self) -> Self;
    /// Difference from another such integer, modulo the width, as 0, -1, 1, -2, ...
    #[must_use]
    fn zigzag(self, predicted: Self) -> Self;
    /// The integer at such a difference from another.
    #[must_use]
    fn unzigzag(self, predicted: Self) -> Self;
    /// The same number in 64 bits.
    fn wide(self) -> u64;
    /// The lowest bits of a number.
    fn of(number: u64) -> Self;
    /// Differences of stored elements from predicted ones.
    fn differences(base: &[u8], predicted: &[u8], out: &mut [Self]);
    /// Stored elements in place of predicted ones.
    fn restore(differences: &[Self], predicted: &mut [u8]);
}

macro_rules! word {
    ($unsigned:ty, $signed:ty) => {
        impl Word for $unsigned {
            const BYTES: usize = size_of::<$unsigned>();

            #[inline(always)]
            fn key(self) -> Self {
                // All bits turned where the sign is set, else the sign alone.
                let turned = ((self as $signed) >> (Self::BITS - 1)) as Self;
                self ^ (turned | (1 << (Self::BITS - 1)))
            }

            #[inline(always)]
            fn unkey(self) -> Self {
                let turned = !(((self as $signed) >> (Self::BITS - 1)) as Self);
                self ^ (turned | (1 << (Self::BITS - 1)))
            }

            #[inline(always)]
            fn zigzag(self, predicted: Self) -> Self {
                let difference = self.wrapping_sub(predicted) as $signed;
                ((difference << 1) ^ (difference >> (Self::BITS - 1))) as Self
            }

            #[inline(always)]
            fn unzigzag(self, predicted: Self) -> Self {
                predicted.wrapping_add((self >> 1) ^ (self & 1).wrapping_neg())
            }

            #[inline(always)]
            fn wide(self) -> u64 {
                u64::from(self)
            }

            #[inline(always)]
            fn of(number: u64) -> Self {
                number as Self
            }

            fn differences(base: &[u8], predicted: &[u8], out: &mut [Self]) {
                let pairs = base.as_chunks().0.iter().zip(predicted.as_chunks().0);
                vectorized(|| {
                    for (out, (base, predicted)) in out.iter_mut().zip(pairs) {
                        *out = Self::from_le_bytes(*base).key().zigzag(Self::from_le_bytes(*predicted).key());
                    }
                });
            }

            fn restore(differences: &[Self], predicted: &mut [u8]) {
                vectorized(|| {
                    for (element, code) in predicted.as_chunks_mut().0.iter_mut().zip(differences) {
                        let key = code.unzigzag(Self::from_le_bytes(*element).key());
                        *element = key.unkey().to_le_bytes();
                    }
                });
            }
        }
    };
}

word!(u16, i16);
word!(u32, i32);
word!(u64, i64);

#[cfg(test)]
mod tests {
    use super::*;

    /// The nearest of all values of a 16-bit type, ties to the even one, by search: the definition.
    fn nearest(value: f64, decode: impl Fn(u16) -> f64, infinity: u16) -> u16 {
        let candidates = (0..infinity).min_by(|&a, &b| {
            let distance = |bits: u16| (decode(bits) - value.abs()).abs();
            distance(a).total_cmp(&distance(b)).then((a & 1).cmp(&(b & 1)))
        });
        candidates.expect("there is a value") | if value.is_sign_negative() { 0x8000 } else { 0 }
    }

    #[test]
    fn one_rounding_is_to_the_nearest() {
        let mut seed = 7_u64;
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            seed >> 11
        };
        for case in 0..400 {
            // Near ties of bf16 and f16, with rest bits below what f32 can hold.
            let top = (next() % 0x7800) as u16;
            let base = half::f16::from_bits(top).to_f64();
            let above = half::f16::from_bits(top + 1).to_f64();
            let middle = base + (above - base) / 2.0;
            let value = match case % 4 {
                0 => middle,
                1 => middle * (1.0 + f64::EPSILON),
                2 => -middle * (1.0 - f64::EPSILON / 2.0),
                _ => (next() as f64 / (1_u64 << 53) as f64 - 0.5) * 10.0,
            };
            let mut out = [0; 2];
            Float::F16.write(&[value], &mut out);
            let expected = nearest(value, |bits| half::f16::from_bits(bits).to_f64(), 0x7C00);
            assert_eq!(u16::from_le_bytes(out), expected, "{value:e} as f16");
            Float::Bf16.write(&[value], &mut out);
            let expected = nearest(value, |bits| half::bf16::from_bits(bits).to_f64(), 0x7F80);
            assert_eq!(u16::from_le_bytes(out), expected, "{value:e} as bf16");
        }
    }

    #[test]
    fn every_half_survives() {
        for (float, infinity) in [(Float::F16, 0x7C00_u16), (Float::Bf16, 0x7F80)] {
            for bits in 0..=u16::MAX {
                let bytes = bits.to_le_bytes();
                let value = float.values(&bytes);
                let mut out = [0; 2];
                float.write(&value, &mut out);
                let is_nan = bits & 0x7FFF > infinity;
                assert!(out == bytes || (is_nan && value[0].is_nan()), "{bits:04x}");
                assert_eq!(bits.key().unkey(), bits);
            }
        }
    }

    #[test]
    fn keys_have_the_order_of_values_and_differences_come_back() {
        let values = [f32::NEG_INFINITY, -1.0, -1e-45, -0.0, 0.0, 1e-45, 1.0, f32::INFINITY];
        let keys = values.map(|value| value.to_bits().key());
        assert!(keys.is_sorted());
        assert_eq!(keys[4], keys[3] + 1);
        for a in keys {
            for b in keys {
                assert_eq!(a.zigzag(b).unzigzag(b), a);
            }
        }
        assert_eq!([5_u16.zigzag(5), 4_u16.zigzag(5), 6_u16.zigzag(5)], [0, 1, 2]);
    }
}
