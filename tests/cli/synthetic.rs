//! Models made of random numbers, written by the tests themselves, and the parts of a file that tests reach into.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;

use serde_json::{Value, json};

/// A generator that gives the same numbers everywhere (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// From 0 up to 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Near a normal distribution around 0, as weights are.
    pub(crate) fn weight(&mut self) -> f32 {
        (0..4).map(|_| self.fraction() as f32 - 0.5).sum::<f32>() * 0.05
    }
}

/// A tensor to be written.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl Tensor {
    /// Values as bfloat16, cut off rather than rounded: the test needs numbers, not these numbers.
    pub(crate) fn bf16(name: &str, shape: &[usize], values: impl IntoIterator<Item = f32>) -> Self {
        let bytes: Vec<u8> =
            values.into_iter().flat_map(|value| ((value.to_bits() >> 16) as u16).to_le_bytes()).collect();
        assert_eq!(bytes.len(), 2 * shape.iter().product::<usize>(), "{name}: the shape holds the values");
        Self { name: name.to_owned(), dtype: "BF16", shape: shape.to_vec(), bytes }
    }

    pub(crate) fn f32(name: &str, shape: &[usize], values: impl IntoIterator<Item = f32>) -> Self {
        let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        assert_eq!(bytes.len(), 4 * shape.iter().product::<usize>(), "{name}: the shape holds the values");
        Self { name: name.to_owned(), dtype: "F32", shape: shape.to_vec(), bytes }
    }

    /// Random weights.
    pub(crate) fn random(name: &str, shape: &[usize], random: &mut Random) -> Self {
        let n = shape.iter().product();
        Self::bf16(name, shape, (0..n).map(|_| random.weight()))
    }
}

/// Writes one `.safetensors` file, tensors in the order given.
pub(crate) fn write_file(path: &Path, tensors: &[Tensor]) {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for tensor in tensors {
        let begin = data.len();
        data.extend_from_slice(&tensor.bytes);
        let info = json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [begin, data.len()] });
        header.insert(tensor.name.clone(), info);
    }
    let mut header = serde_json::to_vec(&header).expect("strings and numbers make JSON");
    header.resize(header.len().next_multiple_of(8), b' ');
    let length = header.len() as u64;
    let file = [&length.to_le_bytes()[..], &header, &data].concat();
    fs::write(path, file).expect("the folder can be written");
}

/// Writes a folder: weights and a configuration.
pub(crate) fn write_folder(path: &Path, tensors: &[Tensor], config: &Value) {
    fs::create_dir_all(path).expect("the folder can be made");
    write_file(&path.join("model.safetensors"), tensors);
    fs::write(path.join("config.json"), config.to_string()).expect("the folder can be written");
}

/// Where the bytes of each tensor are in a `.safetensors` file.
pub(crate) fn ranges(file: &[u8]) -> BTreeMap<String, Range<usize>> {
    let (length, rest) = file.split_first_chunk::<8>().expect("the file has a header");
    let length = u64::from_le_bytes(*length) as usize;
    let header: BTreeMap<String, Value> = serde_json::from_slice(&rest[..length]).expect("the header is JSON");
    let place = |value: &Value| 8 + length + value.as_u64().expect("an offset is a number") as usize;
    let tensors = header.into_iter().filter(|(name, _)| name != "__metadata__");
    tensors
        .map(|(name, info)| {
            let offsets = &info["data_offsets"];
            (name, place(&offsets[0])..place(&offsets[1]))
        })
        .collect()
}

/// The bytes of each tensor of a `.safetensors` file.
pub(crate) fn tensors(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let file = fs::read(path).expect("the file can be read");
    ranges(&file).into_iter().map(|(name, range)| (name, file[range].to_vec())).collect()
}

/// Every file under a folder, by its path relative to it.
pub(crate) fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let entry = entry.expect("the folder can be read");
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().expect("an entry has a type").is_dir() {
            found.extend(files(&entry.path()).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            found.insert(name, fs::read(entry.path()).expect("the file can be read"));
        }
    }
    found
}

/// That two folders hold the same bytes, naming the files where they do not.
#[track_caller]
pub(crate) fn assert_same_files(expected: &Path, found: &Path, what: &str) {
    let (expected, found) = (files(expected), files(found));
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&expected), names(&found), "{what}");
    let differing: Vec<&String> =
        expected.iter().filter(|(name, bytes)| found[*name] != **bytes).map(|f| f.0).collect();
    assert!(differing.is_empty(), "{what}: these files differ: {differing:?}");
}
