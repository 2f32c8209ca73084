//! IDX files (<http://yann.lecun.com/exdb/mnist>): two zero bytes, a type, a number of dimensions, the dimensions in 32 bits
//! big-endian, the elements. Only bytes (type 8) are read, unpacked or through gzip.

use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;
use reweight_quant::error::FileError;
use reweight_quant::store::Bytes;

/// The most elements a file may claim: ten times the largest set of this format.
const ELEMENTS_MAX: usize = 1 << 32;
/// The most dimensions.
const RANK_MAX: usize = 4;

/// Dimensions and elements.
pub(super) struct Idx {
    pub(super) shape: Vec<usize>,
    bytes: Bytes,
    start: usize,
}

impl Idx {
    /// Whether the bytes begin as such a file, or are packed.
    pub(super) fn is_one(bytes: &[u8]) -> bool {
        is_packed(bytes) || matches!(bytes, [0, 0, 8, ..])
    }

    /// Parses a file's bytes; `path` is for messages.
    ///
    /// # Errors
    /// `FileError::Malformed`: with what was expected and found.
    pub(super) fn parse(path: &Path, bytes: Bytes) -> Result<Self, FileError> {
        let malformed = |what: String| FileError::Malformed { path: path.to_owned(), format: "IDX", what };
        let bytes = if is_packed(&bytes) { unpacked(path, &bytes)? } else { bytes };
        let header = Header::parse(&bytes).map_err(malformed)?;
        let found = bytes.len() - header.start;
        if found != header.elements {
            return Err(malformed(format!("its dimensions ask for {} elements, found {found}", header.elements)));
        }
        Ok(Self { shape: header.shape, start: header.start, bytes })
    }

    /// The elements.
    pub(super) fn elements(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

struct Header {
    shape: Vec<usize>,
    start: usize,
    elements: usize,
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let [0, 0, kind, rank, rest @ ..] = bytes else {
            return Err("expected it to begin with two bytes of zero".to_owned());
        };
        let rank = usize::from(*rank);
        if *kind != 8 || rank == 0 || rank > RANK_MAX {
            let expected = format!("expected bytes (type 8) in 1 to {RANK_MAX} dimensions");
            return Err(format!("{expected}, found type {kind} in {rank}"));
        }
        let short = || format!("expected {rank} dimensions of 4 bytes, found {} bytes", rest.len());
        let dimensions = rest.get(..4 * rank).ok_or_else(short)?;
        let shape: Vec<usize> = dimensions
            .chunks_exact(4)
            .map(|four| four.iter().fold(0, |n, byte| (n << 8) | usize::from(*byte)))
            .collect();
        let elements = shape.iter().try_fold(1usize, |product, n| product.checked_mul(*n));
        let elements = elements.filter(|n| *n <= ELEMENTS_MAX);
        let elements = elements.ok_or_else(|| format!("dimensions {shape:?} are more than {ELEMENTS_MAX} elements"))?;
        Ok(Self { shape, start: 4 + 4 * rank, elements })
    }
}

fn is_packed(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}

/// Unpacks as much as the header asks for, and a byte more, so that what is too long is seen and nothing grows without bound.
fn unpacked(path: &Path, packed: &[u8]) -> Result<Bytes, FileError> {
    let malformed = |what: String| FileError::Malformed { path: path.to_owned(), format: "IDX", what };
    let mut reader = MultiGzDecoder::new(packed);
    let mut bytes = Vec::new();
    let mut take = |bytes: &mut Vec<u8>, n: usize| {
        reader.by_ref().take(n as u64).read_to_end(bytes).map_err(|error| malformed(format!("gzip: {error}")))
    };
    take(&mut bytes, 4 + 4 * RANK_MAX)?;
    let header = Header::parse(&bytes).map_err(malformed)?;
    let rest = (header.start + header.elements).saturating_sub(bytes.len());
    take(&mut bytes, rest + 1)?;
    Ok(Bytes::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn parse(bytes: &[u8]) -> Result<Idx, String> {
        Idx::parse(Path::new("t"), Bytes::from_vec(bytes.to_vec())).map_err(|error| error.to_string())
    }

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("memory takes bytes");
        encoder.finish().expect("memory takes bytes")
    }

    #[test]
    fn plain_and_packed_files_are_the_same() {
        let file = [0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6];
        for bytes in [file.to_vec(), packed(&file)] {
            let idx = parse(&bytes).expect("it is one");
            assert_eq!((idx.shape.as_slice(), idx.elements()), ([2, 3].as_slice(), [1, 2, 3, 4, 5, 6].as_slice()));
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let cases: [(&[u8], &str); 7] = [
            (&[], "begin with two bytes of zero"),
            (&[0, 0, 8], "begin with two bytes of zero"),
            (&[0, 0, 13, 1, 0, 0, 0, 0], "found type 13 in 1"),
            (&[0, 0, 8, 9], "found type 8 in 9"),
            (&[0, 0, 8, 2, 0, 0, 0, 1], "expected 2 dimensions of 4 bytes, found 4 bytes"),
            (&[0, 0, 8, 2, 255, 255, 255, 255, 255, 255, 255, 255], "are more than"),
            (&[0, 0, 8, 1, 0, 0, 0, 2, 7], "ask for 2 elements, found 1"),
        ];
        for (bytes, expected) in cases {
            for bytes in [bytes.to_vec(), packed(bytes)] {
                let error = parse(&bytes).err().expect("it is wrong");
                assert!(error.contains(expected), "{error} lacks {expected}");
            }
        }
        let mut cut = packed(&[0, 0, 8, 1, 0, 0, 0, 1, 7]);
        cut.truncate(15);
        assert!(parse(&cut).err().expect("it is cut").contains("gzip"));
        let long = packed(&[0, 0, 8, 1, 0, 0, 0, 1, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7]);
        assert!(parse(&long).err().expect("it is long").contains("ask for 1 elements"));
    }
}
