//! How one tensor is stored: `int4-g128`, `int8-channel-sym`, `statsq2`, `statsq3-g64-fit`, `ternary-g128`, `nf4-g64`, `lloyd2-g32`.
//! Parses and prints round-trip.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use crate::error::SchemeError;
use crate::grid::ternary;
use crate::pack::packed_bytes;

/// What codes stand for, and which input channels of an output row share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scheme {
    levels: Levels,
    group: Group,
}

/// The numbers that codes stand for, before the scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Levels {
    /// Group affine integers: `w = (code - zero) * scale`.
    Affine {
        /// Bits of a code, 2 to 8.
        bits: u8,
        /// Whether the zero is the middle code, and so not stored.
        symmetric: bool,
    },
    /// Halves between the integers, no zero among them: `w = (code + 1/2 - 2^(bits-1)) * scale` (`StatsQ`).
    MidRise {
        /// Bits of a code, 1 to 8.
        bits: u8,
        /// Whether scales are fitted to the weights, and not the paper's multiple of their mean magnitude.
        fit: bool,
    },
    /// -1, 0 and 1.
    Ternary,
    /// The sixteen levels of `QLoRA`'s `NormalFloat`.
    Nf4,
    /// Levels fitted to each tensor and stored with it.
    Lloyd {
        /// Bits of a code, 2 to 4.
        bits: u8,
    },
}

/// How many consecutive input channels of one output row share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// This many channels; the input width is a multiple of it in any tensor stored so.
    Size(NonZeroUsize),
    /// The whole row.
    Channel,
}

impl Scheme {
    /// The bit widths of group affine integers.
    pub const BITS: std::ops::RangeInclusive<u8> = 2..=8;
    /// The group sizes that a scheme may ask for, besides the whole row. A plan may fall back to smaller ones.
    pub const GROUP_SIZES: [usize; 3] = [32, 64, 128];

    /// Group affine integers, of any group size.
    ///
    /// # Errors
    /// `SchemeError::Bits` outside 2..=8.
    pub fn new(bits: u8, group: Group, symmetric: bool) -> Result<Self, SchemeError> {
        if Self::BITS.contains(&bits) {
            Ok(Self { levels: Levels::Affine { bits, symmetric }, group })
        } else {
            Err(SchemeError::Bits { text: bits.to_string() })
        }
    }

    /// What codes stand for.
    #[must_use]
    pub const fn levels(self) -> Levels {
        self.levels
    }

    /// Bits per code, 1 to 8; 2 for ternary codes, which take 1.6 in a file.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self.levels {
            Levels::Affine { bits, .. } | Levels::MidRise { bits, .. } | Levels::Lloyd { bits } => bits,
            Levels::Ternary => 2,
            Levels::Nf4 => 4,
        }
    }

    /// Which channels share a scale.
    #[must_use]
    pub const fn group(self) -> Group {
        self.group
    }

    /// Whether there is no zero point to store: it is fixed in the middle of the codes, or levels stand for themselves.
    #[must_use]
    pub const fn symmetric(self) -> bool {
        !matches!(self.levels, Levels::Affine { symmetric: false, .. })
    }

    /// Whether codes are group affine integers, which every container holds.
    #[must_use]
    pub const fn is_affine(self) -> bool {
        matches!(self.levels, Levels::Affine { .. })
    }

    /// The same bits and symmetry with another group.
    #[must_use]
    pub const fn with_group(self, group: Group) -> Self {
        Self { group, ..self }
    }

    /// The same bits and group, with a zero point that is stored.
    #[must_use]
    pub const fn asymmetric(self) -> Self {
        match self.levels {
            Levels::Affine { bits, .. } => Self { levels: Levels::Affine { bits, symmetric: false }, ..self },
            _ => self,
        }
    }

    /// Group affine integers that stand for the same values, where there are any: halves are odd integers of one more bit, and -1, 0,
    /// 1 are the middle of two bits.
    #[must_use]
    pub const fn as_affine(self) -> Option<Self> {
        let bits = match self.levels {
            Levels::Affine { .. } => return Some(self),
            Levels::MidRise { bits, .. } if bits < 8 => bits + 1,
            Levels::Ternary => 2,
            Levels::MidRise { .. } | Levels::Nf4 | Levels::Lloyd { .. } => return None,
        };
        Some(Self { levels: Levels::Affine { bits, symmetric: true }, ..self })
    }

    /// Channels that share a scale in a row of `columns`.
    #[must_use]
    pub fn group_len(self, columns: usize) -> usize {
        match self.group {
            Group::Size(size) => size.get(),
            Group::Channel => columns,
        }
    }

    /// Bytes of a row of codes, whole words of 32 bits: a stream of codes, or of bytes of five ternary ones.
    #[must_use]
    pub const fn row_bytes(self, columns: usize) -> usize {
        match self.levels {
            Levels::Ternary => columns.div_ceil(ternary::CODES_A_BYTE).next_multiple_of(4),
            _ => packed_bytes(columns, self.bits()),
        }
    }

    /// Reads a scheme as a file states it: groups may have any size.
    ///
    /// # Errors
    /// `SchemeError`.
    pub fn parse_stored(text: &str) -> Result<Self, SchemeError> {
        let any = |size: &str| size.parse::<NonZeroUsize>().ok().filter(|parsed| parsed.to_string() == size);
        Self::parse(text, &any)
    }

    fn parse(text: &str, size: &dyn Fn(&str) -> Option<NonZeroUsize>) -> Result<Self, SchemeError> {
        if text.starts_with("int") { Self::parse_affine(text, size) } else { Self::parse_levels(text, size) }
    }

    fn parse_affine(text: &str, size: &dyn Fn(&str) -> Option<NonZeroUsize>) -> Result<Self, SchemeError> {
        let unknown = || SchemeError::Unknown { text: text.to_owned() };
        let (body, symmetric) = text.strip_suffix("-sym").map_or((text, false), |body| (body, true));
        let (bits, group) = body.strip_prefix("int").and_then(|rest| rest.split_once('-')).ok_or_else(unknown)?;
        let bits = match bits.as_bytes() {
            [digit @ b'2'..=b'8'] => digit - b'0',
            _ => return Err(SchemeError::Bits { text: text.to_owned() }),
        };
        let group = if group == "channel" {
            Group::Channel
        } else {
            let found = size(group.strip_prefix('g').ok_or_else(unknown)?);
            Group::Size(found.ok_or_else(|| SchemeError::Group { text: text.to_owned() })?)
        };
        Ok(Self { levels: Levels::Affine { bits, symmetric }, group })
    }

    fn parse_levels(text: &str, size: &dyn Fn(&str) -> Option<NonZeroUsize>) -> Result<Self, SchemeError> {
        let unknown = || SchemeError::Unknown { text: text.to_owned() };
        let (body, fit) = text.strip_suffix("-fit").map_or((text, false), |body| (body, true));
        let (name, group) = body.split_once('-').map_or((body, None), |(name, group)| (name, Some(group)));
        let digit = |digits: &str| match digits.as_bytes() {
            [digit @ b'1'..=b'8'] => Ok(digit - b'0'),
            _ => Err(SchemeError::LevelBits { text: text.to_owned() }),
        };
        let levels = match name {
            "ternary" if !fit => Levels::Ternary,
            "nf4" if !fit => Levels::Nf4,
            _ => match (name.strip_prefix("statsq"), name.strip_prefix("lloyd").filter(|_| !fit)) {
                (Some(bits), _) => Levels::MidRise { bits: digit(bits)?, fit },
                (None, Some(bits)) => match digit(bits)? {
                    bits @ 2..=4 => Levels::Lloyd { bits },
                    _ => return Err(SchemeError::LevelBits { text: text.to_owned() }),
                },
                (None, None) => return Err(unknown()),
            },
        };
        let group = match group {
            None => Group::Channel,
            Some(group) => {
                let found = size(group.strip_prefix('g').ok_or_else(unknown)?);
                Group::Size(found.ok_or_else(|| SchemeError::Group { text: text.to_owned() })?)
            }
        };
        Ok(Self { levels, group })
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(size) => write!(f, "g{size}"),
            Self::Channel => f.write_str("channel"),
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = match self.group {
            Group::Size(size) => format!("-g{size}"),
            Group::Channel => String::new(),
        };
        let text = match self.levels {
            Levels::Affine { bits, symmetric } => {
                format!("int{bits}-{}{}", self.group, if symmetric { "-sym" } else { "" })
            }
            Levels::MidRise { bits, fit } => format!("statsq{bits}{group}{}", if fit { "-fit" } else { "" }),
            Levels::Ternary => format!("ternary{group}"),
            Levels::Nf4 => format!("nf4{group}"),
            Levels::Lloyd { bits } => format!("lloyd{bits}{group}"),
        };
        f.pad(&text)
    }
}

impl FromStr for Scheme {
    type Err = SchemeError;

    fn from_str(text: &str) -> Result<Self, SchemeError> {
        Self::parse(text, &|size| {
            let known = Self::GROUP_SIZES.into_iter().find(|known| known.to_string() == size);
            known.and_then(NonZeroUsize::new)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scheme_prints_what_it_parses() {
        let mut texts = Vec::new();
        for group in ["g32", "g64", "g128", "channel"] {
            let bits = 2..=8;
            texts.extend(bits.flat_map(|bits| ["", "-sym"].map(|sym| format!("int{bits}-{group}{sym}"))));
        }
        for group in ["", "-g32", "-g64", "-g128"] {
            let bits = 1..=8;
            texts.extend(bits.flat_map(|bits| ["", "-fit"].map(|fit| format!("statsq{bits}{group}{fit}"))));
            texts.extend(["ternary", "nf4", "lloyd2", "lloyd3", "lloyd4"].map(|name| format!("{name}{group}")));
        }
        for text in texts {
            assert_eq!(text.parse::<Scheme>().map(|scheme| scheme.to_string()), Ok(text));
        }
        let stored = "statsq3-g16-fit";
        assert_eq!(Scheme::parse_stored(stored).map(|scheme| scheme.to_string()), Ok(stored.to_owned()));
    }

    #[test]
    fn what_is_no_scheme_is_refused() {
        for text in [
            "",
            "int4",
            "int4-",
            "int4-128",
            "int9-g64",
            "int1-g64",
            "int04-g64",
            "int4-g63",
            "int4-g064",
            "INT4-g64",
            "int4-g64-sym-sym",
            "int4-g64 ",
            "statsq",
            "statsq0",
            "statsq9",
            "statsq2-",
            "statsq2-64",
            "statsq2-channel",
            "statsq2-fit-g64",
            "statsq2-g16",
            "ternary-fit",
            "nf4-fit",
            "nf4-g0",
            "lloyd1",
            "lloyd5",
            "lloyd4-fit",
        ] {
            assert!(text.parse::<Scheme>().is_err(), "{text:?} was taken for a scheme");
        }
        for text in ["nf4-g0", "statsq2-g016", "int4-g+8"] {
            assert!(Scheme::parse_stored(text).is_err(), "{text:?} was taken for a scheme");
        }
    }
}
