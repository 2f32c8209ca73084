//! The reader on files built by hand, on every way to break them, and on random damage.

use std::path::Path;

use super::{Array, GgmlType, GgufFile, MAX_KEYS, MAX_NAME_BYTES, MAX_TENSORS, Value, dequantize};
use crate::store::Bytes;

/// A GGUF file under construction. Nothing is checked, so that broken files can be made.
pub(super) struct Draft {
    version: u32,
    n_tensors: Option<u64>,
    n_keys: Option<u64>,
    pub(super) keys: Vec<Vec<u8>>,
    pub(super) tensors: Vec<Vec<u8>>,
    data: Vec<u8>,
}

pub(super) fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text].concat()
}

pub(super) fn key(name: &str, ty: u32, value: &[u8]) -> Vec<u8> {
    [&string(name.as_bytes())[..], &ty.to_le_bytes(), value].concat()
}

pub(super) fn tensor(name: &str, dims: &[u64], ty: u32, offset: u64) -> Vec<u8> {
    let mut bytes = string(name.as_bytes());
    bytes.extend((dims.len() as u32).to_le_bytes());
    bytes.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
    bytes.extend(ty.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

impl Draft {
    pub(super) fn new() -> Self {
        Self { version: 3, n_tensors: None, n_keys: None, keys: vec![], tensors: vec![], data: vec![] }
    }

    pub(super) fn key(mut self, name: &str, ty: u32, value: &[u8]) -> Self {
        self.keys.push(key(name, ty, value));
        self
    }

    pub(super) fn tensor(mut self, name: &str, dims: &[u64], ty: u32, offset: u64) -> Self {
        self.tensors.push(tensor(name, dims, ty, offset));
        self
    }

    pub(super) fn data(mut self, n_bytes: usize) -> Self {
        self.data = (0..n_bytes).map(|i| i as u8).collect();
        self
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.n_keys.unwrap_or(self.keys.len() as u64).to_le_bytes());
        bytes.extend(self.keys.concat());
        bytes.extend(self.tensors.concat());
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(&self.data);
        bytes
    }

    pub(super) fn parse(&self) -> Result<GgufFile, String> {
        parse(self.bytes())
    }
}

pub(super) fn parse(bytes: Vec<u8>) -> Result<GgufFile, String> {
    GgufFile::parse(Path::new("m.gguf"), Bytes::from_vec(bytes)).map_err(|error| error.to_string())
}

fn sample() -> Draft {
    Draft::new()
        .key("general.architecture", 8, &string(b"llama"))
        .key("n", 4, &7u32.to_le_bytes())
        .key("list", 9, &[&8u32.to_le_bytes()[..], &2u64.to_le_bytes(), &string(b"a"), &string(b"bc")].concat())
        .key("scores", 9, &[&6u32.to_le_bytes()[..], &1u64.to_le_bytes(), &0.5f32.to_le_bytes()].concat())
        .tensor("q", &[64, 3], 8, 0)
        .tensor("f", &[5], 0, 224)
        .tensor("none", &[0, 4], 0, 1 << 40)
        .data(244)
}

#[test]
fn a_hand_made_file_is_read() -> Result<(), String> {
    for version in [2, 3] {
        let file = Draft { version, ..sample() }.parse()?;
        assert_eq!(file.version(), version);
        assert_eq!(file.value("n"), Some(&Value::U32(7)));
        assert_eq!(file.value("list").and_then(Value::as_strings), Some(&["a".to_owned(), "bc".to_owned()][..]));
        assert_eq!(file.value("scores"), Some(&Value::Array(Array::F32(vec![0.5]))));
        assert_eq!(file.value("absent"), None);
        let q = file.tensor(0).ok_or("no tensor")?;
        assert_eq!((q.info().ty, q.info().shape.as_slice()), (GgmlType::Q8_0, &[3, 64][..]));
        assert_eq!((q.info().n_rows(), q.info().row_bytes(), q.bytes().len()), (3, 68, 204));
        assert_eq!(q.row(2), Some(&q.bytes()[136..]));
        assert_eq!(q.row(3), None);
        assert_eq!(file.tensor_index("f"), Some(1));
        assert!(file.tensor(2).is_some_and(|none| none.bytes().is_empty()));
        assert!(file.tensor(3).is_none());
    }
    Ok(())
}

#[test]
fn what_breaks_the_format_is_refused_with_expected_and_found() {
    let with_alignment = |n: u32| Draft::new().key("general.alignment", 4, &n.to_le_bytes());
    let f32_tensor = |name: &str, dims: &[u64], offset| Draft::new().tensor(name, dims, 0, offset).data(256);
    let array = |ty: u32, n: u64| [&ty.to_le_bytes()[..], &n.to_le_bytes()].concat();
    let cases: Vec<(Draft, &str)> = vec![
        (Draft { version: 1, ..sample() }, "GGUF version 1 is not supported"),
        (Draft { version: 4, ..sample() }, "GGUF version 4 is not supported"),
        (Draft { version: 3 << 24, ..sample() }, "big-endian GGUF is not supported"),
        (Draft { n_tensors: Some(MAX_TENSORS as u64 + 1), ..sample() }, "tensors: count 1048577, expected at most"),
        (Draft { n_tensors: Some(1000), ..sample() }, "tensors: count 1000 needs more than"),
        (Draft { n_keys: Some(MAX_KEYS as u64 + 1), ..sample() }, "metadata keys: count 65537, expected at most 65536"),
        (Draft { n_keys: Some(u64::MAX), ..sample() }, "metadata keys: count 18446744073709551615, expected"),
        (Draft::new().key("a", 4, &[0; 4]).key("a", 4, &[0; 4]), "metadata key \"a\" occurs twice"),
        (Draft::new().key("a", 13, &[0; 4]), "the value of key \"a\" has type 13, expected 0 to 12"),
        (Draft::new().key("a", 7, &[2]), "is a bool of 2, expected 0 or 1"),
        (Draft::new().key("a", 8, &string(&[0xff])), "the value of key \"a\" at 37 is not UTF-8"),
        (Draft::new().key("a", 9, &array(9, 0)), "an array of arrays in key \"a\" is not supported"),
        (Draft::new().key("a", 9, &array(77, 0)), "has elements of type 77"),
        (Draft::new().key("a", 9, &array(8, 1 << 60)), "count 1152921504606846976 needs more than"),
        (Draft::new().key("a", 9, &array(12, u64::MAX)), "count 18446744073709551615 needs more than"),
        (with_alignment(0), "`general.alignment` is 0, expected a power of two"),
        (with_alignment(48), "`general.alignment` is 48, expected a power of two"),
        (Draft::new().key("general.alignment", 0, &[8]), "is of type u8, expected u32"),
        (f32_tensor(&"n".repeat(MAX_NAME_BYTES + 1), &[1], 0), "count 1025, expected at most 1024"),
        (f32_tensor("a", &[1; 5], 0), "tensor \"a\" has 5 dimensions, expected at most 4"),
        (f32_tensor("a", &[1 << 33, 1 << 33], 0), "tensor \"a\" has dimensions [8589934592, 8589934592], too large"),
        (f32_tensor("a", &[1 << 62], 0), "too large"),
        (f32_tensor("a", &[1 << 62, 0], 0), "too large"),
        (f32_tensor("a", &[65], 0), "tensor \"a\" of shape [65] needs 260 bytes at 64 + 0, but the file has 320 bytes"),
        (f32_tensor("a", &[1], u64::MAX - 31), "but the file has 320 bytes"),
        (f32_tensor("a", &[1], 4), "tensor \"a\" starts at offset 4, expected a multiple of 32"),
        (f32_tensor("a", &[9], 0).tensor("b", &[1], 0, 32), "tensors \"a\" and \"b\" overlap"),
        (f32_tensor("a", &[1], 0).tensor("b", &[1], 0, 0), "tensors \"a\" and \"b\" overlap"),
        (f32_tensor("a", &[1], 0).tensor("a", &[1], 0, 32), "tensor \"a\" occurs twice"),
        (f32_tensor("a\u{1b}[2J\n", &[1], 4), "tensor \"a\\u{1b}[2J\\n\" starts"),
        (
            Draft::new().tensor("a", &[33], 8, 0).data(99),
            "type Q8_0 has rows of 33 elements, expected a multiple of 32",
        ),
        (Draft::new().tensor("a", &[32], 16, 0).data(99), "tensor \"a\" of type IQ2_XXS is not supported"),
        (Draft::new().tensor("a", &[32], 4, 0).data(99), "tensor \"a\" of unknown type 4 is not supported"),
    ];
    let mut failures = Vec::new();
    for (draft, expected) in &cases {
        match draft.parse() {
            Ok(_) => failures.push(format!("accepted, expected: {expected}")),
            Err(found) if found.contains(expected) && found.starts_with("`m.gguf`") && !found.contains('\u{1b}') => {}
            Err(found) => failures.push(format!("found: {found}\n expected: {expected}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn every_truncation_is_refused() {
    let bytes = sample().bytes();
    for end in 0..bytes.len() {
        let error = parse(bytes[..end].to_vec()).expect_err("a truncated file");
        assert!(error.contains("truncated") || error.contains("but the file has"), "{end}: {error}");
    }
}

/// `SplitMix64`: a fixed sequence, so that a failure comes again.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// Changes a few bytes, biased to values that lengths and counts break on.
pub(super) fn damaged(original: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = original.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        let width = [1, 4, 8][random.below(3)].min(bytes.len() - at);
        match random.below(5) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => bytes[at..at + width].fill(0xff),
            3 => bytes[at..at + width].fill(0),
            _ => {
                let small = random.below(70) as u64;
                bytes[at..at + width].copy_from_slice(&small.to_le_bytes()[..width]);
            }
        }
    }
    if random.below(8) == 0 {
        bytes.truncate(random.below(bytes.len()));
    }
    bytes
}

/// Reads all that a caller can: structure, every value, every element.
pub(super) fn read_all(file: &GgufFile) {
    for (index, info) in file.tensors().iter().enumerate() {
        let tensor = file.tensor(index).expect("an index below the count");
        assert_eq!(tensor.bytes().len(), info.n_rows() * info.row_bytes(), "{info:?}");
        let mut row = vec![0.0; if tensor.bytes().is_empty() { 0 } else { info.row_elements() }];
        for r in 0..if row.is_empty() { 0 } else { info.n_rows() } {
            dequantize(info.ty, tensor.row(r).expect("a row below the count"), &mut row);
        }
    }
}

#[test]
fn random_damage_gives_a_file_or_an_error() {
    let original = sample().bytes();
    let mut random = Random(1);
    let mut n_accepted = 0;
    for _ in 0..40_000 {
        if let Ok(file) = parse(damaged(&original, &mut random)) {
            read_all(&file);
            n_accepted += 1;
        }
    }
    // Both ways must be walked: damage to names and data leaves a valid file, most other damage does not.
    assert!((4_000..36_000).contains(&n_accepted), "{n_accepted} accepted");
}
