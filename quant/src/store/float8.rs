//! The two 8-bit floats, widened exactly. Source: "FP8 Formats for Deep Learning", arXiv 2209.05433, table 1.

/// `F8_E4M3`: bias 7, no infinities, NaN at all ones of exponent and mantissa.
#[must_use]
pub fn e4m3_to_f32(byte: u8) -> f32 {
    let (sign, exponent, mantissa) = (sign(byte), i32::from(byte >> 3 & 15), f32::from(byte & 7));
    match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => sign * mantissa * 2f32.powi(-9),
        _ => sign * (8.0 + mantissa) * 2f32.powi(exponent - 10),
    }
}

/// `F8_E5M2`: bias 15, with infinities and NaN as in binary16, of which it is the upper half.
#[must_use]
pub fn e5m2_to_f32(byte: u8) -> f32 {
    half::f16::from_bits(u16::from(byte) << 8).to_f32()
}

fn sign(byte: u8) -> f32 {
    if byte & 0x80 == 0 { 1.0 } else { -1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that torch 2.15 gives for `torch.tensor([..], dtype=torch.uint8).view(torch.float8_e4m3fn).float()`.
    #[test]
    fn e4m3_as_published() {
        for (byte, expected) in [
            (0x00, 0.0),
            (0x01, 0.001_953_125),
            (0x07, 0.013_671_875),
            (0x08, 0.015_625),
            (0x38, 1.0),
            (0x7e, 448.0),
            (0xb9, -1.125),
        ] {
            assert_eq!(e4m3_to_f32(byte).to_bits(), f32::to_bits(expected), "byte {byte:#x}");
        }
        assert!(e4m3_to_f32(0x7f).is_nan() && e4m3_to_f32(0xff).is_nan());
    }

    #[test]
    fn e5m2_as_published() {
        for (byte, expected) in
            [(0x01, 1.525_878_9e-5), (0x3c, 1.0), (0x7b, 57344.0), (0x7c, f32::INFINITY), (0xc1, -2.5)]
        {
            assert_eq!(e5m2_to_f32(byte).to_bits(), f32::to_bits(expected), "byte {byte:#x}");
        }
        assert!(e5m2_to_f32(0x7e).is_nan());
    }
}
