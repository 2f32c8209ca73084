//! Metadata values as the file types them.

/// One metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Type 0.
    U8(u8),
    /// Type 1.
    I8(i8),
    /// Type 2.
    U16(u16),
    /// Type 3.
    I16(i16),
    /// Type 4.
    U32(u32),
    /// Type 5.
    I32(i32),
    /// Type 6.
    F32(f32),
    /// Type 7.
    Bool(bool),
    /// Type 8, UTF-8.
    String(String),
    /// Type 9.
    Array(Array),
    /// Type 10.
    U64(u64),
    /// Type 11.
    I64(i64),
    /// Type 12.
    F64(f64),
}

/// A metadata array; arrays of arrays are not read.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// Element type 0.
    U8(Vec<u8>),
    /// Element type 1.
    I8(Vec<i8>),
    /// Element type 2.
    U16(Vec<u16>),
    /// Element type 3.
    I16(Vec<i16>),
    /// Element type 4.
    U32(Vec<u32>),
    /// Element type 5.
    I32(Vec<i32>),
    /// Element type 6.
    F32(Vec<f32>),
    /// Element type 7.
    Bool(Vec<bool>),
    /// Element type 8.
    String(Vec<String>),
    /// Element type 10.
    U64(Vec<u64>),
    /// Element type 11.
    I64(Vec<i64>),
    /// Element type 12.
    F64(Vec<f64>),
}

impl Value {
    /// What the value is, in the format's words: `u32`, `string`, `array of f32`.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::F32(_) => "f32",
            Self::Bool(_) => "bool",
            Self::String(_) => "string",
            Self::Array(array) => array.type_name(),
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F64(_) => "f64",
        }
    }

    /// Any integer, whatever its width.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            Self::U8(x) => Some(x.into()),
            Self::I8(x) => Some(x.into()),
            Self::U16(x) => Some(x.into()),
            Self::I16(x) => Some(x.into()),
            Self::U32(x) => Some(x.into()),
            Self::I32(x) => Some(x.into()),
            Self::U64(x) => x.try_into().ok(),
            Self::I64(x) => Some(x),
            _ => None,
        }
    }

    /// Any integer that can count or index.
    #[must_use]
    pub fn as_usize(&self) -> Option<usize> {
        self.as_i64().and_then(|x| x.try_into().ok())
    }

    /// A floating-point number; the shortest decimal that names the stored `f32` becomes the `f64`, so that 1e-5 stored
    /// as `f32` reads as 0.00001, the number its writer had.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(x) => Some(shortest(x)),
            Self::F64(x) => Some(x),
            _ => None,
        }
    }

    /// A truth value.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(x) = *self { Some(x) } else { None }
    }

    /// A string.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(x) = self { Some(x) } else { None }
    }

    /// An array of strings.
    #[must_use]
    pub fn as_strings(&self) -> Option<&[String]> {
        if let Self::Array(Array::String(x)) = self { Some(x) } else { None }
    }

    /// An array of `f32`.
    #[must_use]
    pub fn as_f32s(&self) -> Option<&[f32]> {
        if let Self::Array(Array::F32(x)) = self { Some(x) } else { None }
    }

    /// An array of integers of any width.
    #[must_use]
    pub fn as_i64s(&self) -> Option<Vec<i64>> {
        let Self::Array(array) = self else { return None };
        match array {
            Array::U8(x) => Some(x.iter().map(|&x| x.into()).collect()),
            Array::I8(x) => Some(x.iter().map(|&x| x.into()).collect()),
            Array::U16(x) => Some(x.iter().map(|&x| x.into()).collect()),
            Array::I16(x) => Some(x.iter().map(|&x| x.into()).collect()),
            Array::U32(x) => Some(x.iter().map(|&x| x.into()).collect()),
            Array::I32(x) => Some(x.iter().map(|&x| x.into()).collect()),
            Array::U64(x) => x.iter().map(|&x| x.try_into().ok()).collect(),
            Array::I64(x) => Some(x.clone()),
            _ => None,
        }
    }
}

impl Array {
    /// The number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::U8(x) => x.len(),
            Self::I8(x) => x.len(),
            Self::U16(x) => x.len(),
            Self::I16(x) => x.len(),
            Self::U32(x) => x.len(),
            Self::I32(x) => x.len(),
            Self::F32(x) => x.len(),
            Self::Bool(x) => x.len(),
            Self::String(x) => x.len(),
            Self::U64(x) => x.len(),
            Self::I64(x) => x.len(),
            Self::F64(x) => x.len(),
        }
    }

    /// Whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn type_name(&self) -> &'static str {
        match self {
            Self::U8(_) => "array of u8",
            Self::I8(_) => "array of i8",
            Self::U16(_) => "array of u16",
            Self::I16(_) => "array of i16",
            Self::U32(_) => "array of u32",
            Self::I32(_) => "array of i32",
            Self::F32(_) => "array of f32",
            Self::Bool(_) => "array of bool",
            Self::String(_) => "array of string",
            Self::U64(_) => "array of u64",
            Self::I64(_) => "array of i64",
            Self::F64(_) => "array of f64",
        }
    }
}

/// The `f64` nearest to the shortest decimal that reads back as this `f32`.
fn shortest(x: f32) -> f64 {
    format!("{x:e}").parse().unwrap_or(x.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_f32_reads_as_the_decimal_its_writer_had() {
        for (stored, expected) in
            [(1e-5f32, 1e-5), (1e-6, 1e-6), (100_000.0, 1e5), (0.1, 0.1), (5e6, 5e6), (-0.0, -0.0)]
        {
            assert_eq!(Value::F32(stored).as_f64(), Some(expected));
        }
        assert_eq!(Value::F32(f32::INFINITY).as_f64(), Some(f64::INFINITY));
        assert!(Value::F32(f32::NAN).as_f64().is_some_and(f64::is_nan));
    }

    #[test]
    fn integers_of_any_width_read_alike_and_never_wrap() {
        assert_eq!(Value::U8(200).as_i64(), Some(200));
        assert_eq!(Value::I8(-1).as_usize(), None);
        assert_eq!(Value::U64(u64::MAX).as_i64(), None);
        assert_eq!(Value::F32(1.0).as_i64(), None);
        assert_eq!(Value::Array(Array::U64(vec![1, u64::MAX])).as_i64s(), None);
    }
}
