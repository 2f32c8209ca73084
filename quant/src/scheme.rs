//! How one tensor is stored: `int4-g128`, `int3-g64-sym`, `int8-channel-sym`. Parses and prints round-trip.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use crate::error::SchemeError;

/// Group affine integers: `w = (code - zero) * scale`, scale and zero shared by a [`Group`] of one output row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scheme {
    bits: u8,
    group: Group,
    symmetric: bool,
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
    /// The bit widths that a scheme may ask for.
    pub const BITS: std::ops::RangeInclusive<u8> = 2..=8;
    /// The group sizes that a scheme may ask for, besides `channel`. A plan may fall back to smaller ones.
    pub const GROUP_SIZES: [usize; 3] = [32, 64, 128];

    /// A scheme of any group size.
    ///
    /// # Errors
    /// `SchemeError::Bits` outside 2..=8.
    pub fn new(bits: u8, group: Group, symmetric: bool) -> Result<Self, SchemeError> {
        if Self::BITS.contains(&bits) {
            Ok(Self { bits, group, symmetric })
        } else {
            Err(SchemeError::Bits { text: bits.to_string() })
        }
    }

    /// Bits per code, 2 to 8.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.bits
    }

    /// Which channels share a scale.
    #[must_use]
    pub const fn group(self) -> Group {
        self.group
    }

    /// Whether the zero point is fixed in the middle of the codes, and so not stored.
    #[must_use]
    pub const fn symmetric(self) -> bool {
        self.symmetric
    }

    /// The same bits and symmetry with another group.
    #[must_use]
    pub const fn with_group(self, group: Group) -> Self {
        Self { group, ..self }
    }

    /// The same bits and group, with a zero point that is stored.
    #[must_use]
    pub const fn asymmetric(self) -> Self {
        Self { symmetric: false, ..self }
    }

    /// Channels that share a scale in a row of `columns`.
    #[must_use]
    pub fn group_len(self, columns: usize) -> usize {
        match self.group {
            Group::Size(size) => size.get(),
            Group::Channel => columns,
        }
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
        let symmetric = if self.symmetric { "-sym" } else { "" };
        f.pad(&format!("int{}-{}{symmetric}", self.bits, self.group))
    }
}

impl FromStr for Scheme {
    type Err = SchemeError;

    fn from_str(text: &str) -> Result<Self, SchemeError> {
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
            let size = group.strip_prefix('g').ok_or_else(unknown)?;
            let known = Self::GROUP_SIZES.into_iter().find(|known| known.to_string() == size);
            let size = known.and_then(NonZeroUsize::new);
            Group::Size(size.ok_or_else(|| SchemeError::Group { text: text.to_owned() })?)
        };
        Ok(Self { bits, group, symmetric })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scheme_prints_what_it_parses() {
        for bits in 2..=8 {
            for group in ["g32", "g64", "g128", "channel"] {
                for symmetric in ["", "-sym"] {
                    let text = format!("int{bits}-{group}{symmetric}");
                    assert_eq!(text.parse::<Scheme>().map(|scheme| scheme.to_string()), Ok(text));
                }
            }
        }
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
        ] {
            assert!(text.parse::<Scheme>().is_err(), "{text:?} was taken for a scheme");
        }
    }
}
