//! Which type each tensor of a file gets: one for all, or llama.cpp's mixes, where some layers get more bits.
//!
//! Rules: `llama_tensor_get_type` of llama.cpp (`src/llama-quant.cpp`), for dense models.

use std::fmt;
use std::str::FromStr;

use crate::error::SchemeError;
use crate::store::gguf::GgmlType;

/// A name of `llama-quantize`, and the number that `general.file_type` gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix(usize);

/// Name, number of `general.file_type`, type of most tensors.
const TABLE: [(&str, u32, GgmlType); 18] = [
    ("f32", 0, GgmlType::F32),
    ("f16", 1, GgmlType::F16),
    ("bf16", 32, GgmlType::BF16),
    ("q8_0", 7, GgmlType::Q8_0),
    ("q4_0", 2, GgmlType::Q4_0),
    ("q4_1", 3, GgmlType::Q4_1),
    ("q5_0", 8, GgmlType::Q5_0),
    ("q5_1", 9, GgmlType::Q5_1),
    ("iq4_nl", 25, GgmlType::IQ4_NL),
    ("q2_k", 10, GgmlType::Q2_K),
    ("q3_k_s", 11, GgmlType::Q3_K),
    ("q3_k_m", 12, GgmlType::Q3_K),
    ("q3_k_l", 13, GgmlType::Q3_K),
    ("q4_k_s", 14, GgmlType::Q4_K),
    ("q4_k_m", 15, GgmlType::Q4_K),
    ("q5_k_s", 16, GgmlType::Q5_K),
    ("q5_k_m", 17, GgmlType::Q5_K),
    ("q6_k", 18, GgmlType::Q6_K),
];

/// Short names that people use.
const SHORT: [(&str, &str); 3] = [("q3_k", "q3_k_m"), ("q4_k", "q4_k_m"), ("q5_k", "q5_k_m")];

/// Where a tensor is in its model.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Name of the module in the file: `attn_v`, `output`, `token_embd`.
    pub stem: &'a str,
    /// Its block, 0 outside blocks.
    pub layer: usize,
    /// Blocks of the model.
    pub n_layers: usize,
    /// Queries for each key, of grouped queries.
    pub queries_per_key: usize,
    /// Whether it makes the logits: the output, or the embedding where they are one.
    pub is_output: bool,
    /// Elements of a row.
    pub columns: usize,
}

impl Mix {
    /// Every name, in the order of a list for people.
    pub fn names() -> impl Iterator<Item = &'static str> {
        TABLE.iter().map(|(name, _, _)| *name)
    }

    /// The name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        TABLE[self.0].0
    }

    /// The number of `general.file_type`.
    #[must_use]
    pub const fn file_type(self) -> u32 {
        TABLE[self.0].1
    }

    /// The type of most tensors.
    #[must_use]
    pub const fn base(self) -> GgmlType {
        TABLE[self.0].2
    }

    /// The type of a matrix.
    #[must_use]
    pub fn type_of(self, place: Place<'_>) -> GgmlType {
        fitting(self.wanted(place), place.columns)
    }

    fn wanted(self, place: Place<'_>) -> GgmlType {
        let base = self.base();
        if base.block_elements() == 1 || base == GgmlType::Q8_0 {
            return base;
        }
        if place.is_output {
            return if place.columns.is_multiple_of(256) { GgmlType::Q6_K } else { GgmlType::Q8_0 };
        }
        let (layer, n) = (place.layer, place.n_layers);
        let more_bits = layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2;
        match (self.name(), place.stem) {
            ("q2_k", "attn_v") if place.queries_per_key >= 4 => GgmlType::Q4_K,
            ("q2_k", "attn_v" | "ffn_down" | "attn_output") => GgmlType::Q3_K,
            ("q3_k_m", "attn_v") => {
                if layer < 2 {
                    GgmlType::Q5_K
                } else {
                    GgmlType::Q4_K
                }
            }
            ("q3_k_m", "ffn_down") => {
                if layer < n / 16 {
                    GgmlType::Q5_K
                } else {
                    GgmlType::Q4_K
                }
            }
            ("q3_k_m", "attn_output" | "attn_qkv") | ("q3_k_l", "attn_qkv") => GgmlType::Q4_K,
            ("q3_k_l", "attn_v" | "ffn_down" | "attn_output") | ("q4_k_m", "attn_qkv") => GgmlType::Q5_K,
            ("q4_k_m" | "q5_k_m", "attn_v" | "ffn_down") if more_bits => GgmlType::Q6_K,
            ("q4_k_s", "attn_v") if layer < 4 => GgmlType::Q5_K,
            ("q4_k_s", "ffn_down") if layer < n / 8 => GgmlType::Q5_K,
            ("q5_k_m", "attn_qkv") => GgmlType::Q6_K,
            _ => base,
        }
    }
}

/// The type, or the one that llama.cpp falls back to where its blocks do not fill a row.
fn fitting(ty: GgmlType, columns: usize) -> GgmlType {
    if columns.is_multiple_of(ty.block_elements()) {
        return ty;
    }
    if !columns.is_multiple_of(32) {
        return GgmlType::F16;
    }
    match ty {
        GgmlType::Q4_K => GgmlType::Q5_0,
        GgmlType::Q5_K => GgmlType::Q5_1,
        GgmlType::Q6_K => GgmlType::Q8_0,
        _ => GgmlType::IQ4_NL,
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Mix {
    type Err = SchemeError;

    fn from_str(text: &str) -> Result<Self, SchemeError> {
        let name = SHORT.iter().find(|(short, _)| *short == text).map_or(text, |(_, name)| name);
        let index = TABLE.iter().position(|(known, _, _)| *known == name);
        index.map(Self).ok_or_else(|| SchemeError::NotGguf { text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_print_what_they_parse_and_numbers_differ() {
        for (index, name) in Mix::names().enumerate() {
            assert_eq!(name.parse::<Mix>().map(|mix| mix.to_string()), Ok(name.to_owned()));
            assert!(TABLE[..index].iter().all(|row| row.1 != TABLE[index].1), "{name}");
        }
        assert_eq!("q4_k".parse(), "q4_k_m".parse::<Mix>());
        assert!("int4-g128".parse::<Mix>().is_err());
    }
}
