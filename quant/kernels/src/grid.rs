//! What a group is quantized to: the grid's shape, the result's slices. Checked here once, relied on by every kernel.

/// How a group's scale is stored. Kernels compute with the value as stored, never with a finer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScaleFormat {
    /// IEEE 754 half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// Single precision.
    F32,
}

impl ScaleFormat {
    /// The smallest scale a group that is not all zero can get: 2^-24 in f16, 2^-126 in bf16 and f32.
    ///
    /// With it the inverse of a scale is always finite.
    #[must_use]
    pub const fn floor(self) -> f32 {
        match self {
            Self::F16 => f32::from_bits((127 - 24) << 23),
            Self::Bf16 | Self::F32 => f32::MIN_POSITIVE,
        }
    }

    /// The largest finite value of the format.
    #[must_use]
    pub const fn cap(self) -> f32 {
        match self {
            Self::F16 => 65504.0,
            Self::Bf16 => f32::from_bits(0x7F7F_0000),
            Self::F32 => f32::MAX,
        }
    }
}

/// A uniform grid of `2^bits` levels: value = (code - zero) * scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Grid {
    bits: u8,
    symmetric: bool,
    scale: ScaleFormat,
}

/// Why a grid was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GridError {
    /// Codes are 2 to 8 bits wide.
    #[error("a grid of {bits} bits is not supported: expected 2 to 8")]
    Bits {
        /// What was asked for.
        bits: u8,
    },
}

impl Grid {
    /// A grid of `2^bits` levels. A symmetric one has its zero at code `2^(bits-1)`; else each group has its own zero.
    ///
    /// # Errors
    /// `GridError::Bits` unless `bits` is 2 to 8.
    pub const fn new(bits: u8, symmetric: bool, scale: ScaleFormat) -> Result<Self, GridError> {
        if bits < 2 || bits > 8 {
            return Err(GridError::Bits { bits });
        }
        Ok(Self { bits, symmetric, scale })
    }

    /// Width of a code, 2 to 8.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.bits
    }

    /// Whether every group's zero is the middle code.
    #[must_use]
    pub const fn symmetric(self) -> bool {
        self.symmetric
    }

    /// How scales are stored.
    #[must_use]
    pub const fn scale(self) -> ScaleFormat {
        self.scale
    }

    /// The largest code, `2^bits - 1`.
    #[must_use]
    pub const fn code_max(self) -> u8 {
        (u8::MAX) >> (8 - self.bits)
    }

    /// The zero of a symmetric grid, `2^(bits-1)`.
    #[must_use]
    pub const fn code_middle(self) -> u8 {
        1 << (self.bits - 1)
    }
}

/// Where a quantized row goes. A row of `n` values in groups of `group` has `n.div_ceil(group)` groups.
#[derive(Debug)]
pub struct RowCodes<'a> {
    /// One code a value, `0..2^bits`; as long as the row.
    pub codes: &'a mut [u8],
    /// One scale a group, already rounded to the grid's format.
    pub scales: &'a mut [f32],
    /// One zero a group, as a code; `2^(bits-1)` in a symmetric grid.
    pub zeros: &'a mut [u8],
}

/// Squared error of a row, weighted when weights were given: the sum of `(dequantized - value)^2 * weight`, in the
/// order the crate's page states. Infinite where an f32 cannot hold a square (values beyond 2^63).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RowErrors {
    /// Of the codes that were written.
    pub squared: f64,
    /// Of rounding to nearest on the min/max grid, for comparison.
    pub squared_rtn: f64,
}
