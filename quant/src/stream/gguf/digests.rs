//! What a GGUF file says of itself: digests of its metadata and tensors, as its last key. Readers pass over keys that they do not know.

use crate::store::gguf::export::{write_text, write_value};
use crate::store::gguf::{Array, GgmlType, GgufFile, SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS, Value};
use crate::verify::{Problem, Verification};

/// Key of the digests: BLAKE3 in hexadecimal, of the metadata first, then of each tensor's bytes in the order of the files.
const KEY: &str = "reweight.blake3";
/// Bytes of one digest in the file, its length in front.
const STRING_BYTES: usize = 8 + HEX_BYTES;
const HEX_BYTES: usize = 2 * blake3::OUT_LEN;

/// The key with room for as many digests as there are tensors, and one.
pub(super) fn room(n_tensors: usize) -> (String, Value) {
    (KEY.to_owned(), Value::Array(Array::String(vec!["0".repeat(HEX_BYTES); n_tensors + 1])))
}

/// Puts digests where [`room`] left it, as the last key of a header whose keys end at `end`.
pub(super) fn fill(header: &mut [u8], end: usize, digests: &[blake3::Hash]) {
    let room = header[..end].rchunks_exact_mut(STRING_BYTES);
    for (bytes, digest) in room.zip(digests.iter().rev()) {
        bytes[8..].copy_from_slice(digest.to_hex().as_bytes());
    }
}

/// Of all keys but the digests, and those that tell the place among several files; and of each tensor's name, type and shape.
pub(super) fn of_metadata<'a>(
    metadata: &[(String, Value)],
    tensors: impl Iterator<Item = (&'a str, GgmlType, &'a [usize])>,
) -> blake3::Hash {
    let mut bytes = Vec::new();
    for (key, value) in metadata {
        if ![KEY, SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS].contains(&key.as_str()) {
            write_text(key, &mut bytes);
            write_value(value, &mut bytes);
        }
    }
    for (name, ty, shape) in tensors {
        write_text(name, &mut bytes);
        write_text(ty.name(), &mut bytes);
        bytes.extend(shape.iter().flat_map(|size| (*size as u64).to_le_bytes()));
    }
    blake3::hash(&bytes)
}

/// The digest of all tensors, by those of each.
pub(super) fn of_all<'a>(tensors: impl Iterator<Item = (&'a str, blake3::Hash)>) -> blake3::Hash {
    let mut all = blake3::Hasher::new();
    for (name, digest) in tensors {
        all.update(name.as_bytes()).update(digest.as_bytes());
    }
    all.finalize()
}

/// The digests that a file has of itself.
pub(super) fn told(file: &GgufFile) -> Option<&[String]> {
    file.value(KEY)?.as_strings()
}

/// Compares a file with its own digests; `None` where it has none. Reads every byte once.
pub(crate) fn verify(file: &GgufFile) -> Option<Verification> {
    let told = told(file)?;
    let mut problems = Vec::new();
    let mut problem = |name: &str, what, expected: &str, found: String| {
        if expected != found {
            problems.push(Problem { name: name.to_owned(), what, expected: expected.to_owned(), found });
        }
    };
    let n_tensors = file.tensors().len();
    problem("", "number of digests", &(n_tensors + 1).to_string(), told.len().to_string());
    let digest = |index: usize| told.get(index).map_or("", String::as_str);
    let described = file.tensors().iter().map(|tensor| (tensor.name.as_str(), tensor.ty, tensor.shape.as_slice()));
    problem("metadata", "blake3", digest(0), of_metadata(file.metadata(), described).to_string());
    let found: Vec<(&str, blake3::Hash)> = (0..n_tensors)
        .filter_map(|index| file.tensor(index))
        .map(|tensor| {
            let mut hasher = blake3::Hasher::new();
            hasher.update_rayon(tensor.bytes());
            (tensor.info().name.as_str(), hasher.finalize())
        })
        .collect();
    for (index, (name, found)) in found.iter().enumerate() {
        problem(name, "blake3", digest(index + 1), found.to_string());
    }
    let target_digest = of_all(found.into_iter()).to_string();
    Some(Verification { n_tensors, n_files: file.n_files(), target_digest, source_digest: None, problems })
}
