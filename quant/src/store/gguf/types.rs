//! The element types of GGUF tensors: names, ids and block sizes. Layouts live in `dequantize`.

use std::fmt;

/// How a GGUF tensor stores its elements. Only types that [`super::dequantize`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(non_camel_case_types, reason = "the names ggml gives them, known to everyone who uses GGUF")]
pub enum GgmlType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16.
    BF16,
    /// IEEE 754 binary64.
    F64,
    /// Signed 8-bit integer.
    I8,
    /// Signed 16-bit integer.
    I16,
    /// Signed 32-bit integer.
    I32,
    /// Signed 64-bit integer.
    I64,
    /// 4 bits and a scale for 32 elements.
    Q4_0,
    /// 4 bits, a scale and a minimum for 32 elements.
    Q4_1,
    /// 5 bits and a scale for 32 elements.
    Q5_0,
    /// 5 bits, a scale and a minimum for 32 elements.
    Q5_1,
    /// 8 bits and a scale for 32 elements.
    Q8_0,
    /// 2 bits; 4-bit scales and minima for 16 elements; a super-block of 256.
    Q2_K,
    /// 3 bits; 6-bit scales for 16 elements; a super-block of 256.
    Q3_K,
    /// 4 bits; 6-bit scales and minima for 32 elements; a super-block of 256.
    Q4_K,
    /// 5 bits; 6-bit scales and minima for 32 elements; a super-block of 256.
    Q5_K,
    /// 6 bits; 8-bit scales for 16 elements; a super-block of 256.
    Q6_K,
    /// 4 bits that index a fixed table, and a scale for 32 elements.
    IQ4_NL,
    /// 4 bits that index the same table; 6-bit scales for 32 elements; a super-block of 256.
    IQ4_XS,
}

/// One row per type: type, name, id in the file, elements of a block, bytes of a block.
/// Source: `GGML_QUANT_SIZES` of the `gguf` Python package 0.19.0.
const TABLE: [(GgmlType, &str, u32, usize, usize); 20] = [
    (GgmlType::F32, "F32", 0, 1, 4),
    (GgmlType::F16, "F16", 1, 1, 2),
    (GgmlType::BF16, "BF16", 30, 1, 2),
    (GgmlType::F64, "F64", 28, 1, 8),
    (GgmlType::I8, "I8", 24, 1, 1),
    (GgmlType::I16, "I16", 25, 1, 2),
    (GgmlType::I32, "I32", 26, 1, 4),
    (GgmlType::I64, "I64", 27, 1, 8),
    (GgmlType::Q4_0, "Q4_0", 2, 32, 18),
    (GgmlType::Q4_1, "Q4_1", 3, 32, 20),
    (GgmlType::Q5_0, "Q5_0", 6, 32, 22),
    (GgmlType::Q5_1, "Q5_1", 7, 32, 24),
    (GgmlType::Q8_0, "Q8_0", 8, 32, 34),
    (GgmlType::Q2_K, "Q2_K", 10, 256, 84),
    (GgmlType::Q3_K, "Q3_K", 11, 256, 110),
    (GgmlType::Q4_K, "Q4_K", 12, 256, 144),
    (GgmlType::Q5_K, "Q5_K", 13, 256, 176),
    (GgmlType::Q6_K, "Q6_K", 14, 256, 210),
    (GgmlType::IQ4_NL, "IQ4_NL", 20, 32, 18),
    (GgmlType::IQ4_XS, "IQ4_XS", 23, 256, 136),
];

/// Types that ggml defines and this toolkit does not read, by id.
const UNREAD: [(u32, &str); 15] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
    (42, "Q2_0"),
];

impl GgmlType {
    /// Every type, in the order of the enum.
    pub const ALL: [Self; TABLE.len()] = {
        let mut all = [Self::F32; TABLE.len()];
        let mut index = 0;
        while index < TABLE.len() {
            all[index] = TABLE[index].0;
            index += 1;
        }
        all
    };

    /// The name ggml gives the type, such as `Q4_K`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        TABLE[self as usize].1
    }

    /// The number that stands for the type in a file.
    #[must_use]
    pub const fn id(self) -> u32 {
        TABLE[self as usize].2
    }

    /// Elements that share a block; 1 for plain types. A row is a whole number of blocks.
    #[must_use]
    pub const fn block_elements(self) -> usize {
        TABLE[self as usize].3
    }

    /// Bytes of a block.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        TABLE[self as usize].4
    }

    /// The type of that id.
    #[must_use]
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|ty| ty.id() == id)
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How an error names a type id that [`GgmlType`] does not have.
pub(super) fn unread_name(id: u32) -> Option<&'static str> {
    UNREAD.iter().find(|(unread, _)| *unread == id).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_enum_order_and_ids_are_unique() {
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.0 as usize, index, "{}", row.1);
            assert_eq!(GgmlType::from_id(row.2), Some(row.0), "{}", row.1);
            assert_eq!(unread_name(row.2), None, "{}", row.1);
        }
    }
}
