//! A model that was split into several GGUF files, seen as one: `NAME-00001-of-00003.gguf` and its siblings, each with keys that
//! tell its place (`llama-gguf-split` of llama.cpp). The first has the metadata, and is the one to name.

use std::path::{Path, PathBuf};

use super::GgufFile;
use super::parse::quoted;
use crate::error::FileError;
use crate::store::Bytes;

/// Key of a file's place, counted from 0.
pub(crate) const SPLIT_NO: &str = "split.no";
/// Key of the number of files.
pub(crate) const SPLIT_COUNT: &str = "split.count";
/// Key of the tensors in all of them.
pub(crate) const SPLIT_TENSORS: &str = "split.tensors.count";

/// Digits of a number in a name.
const DIGITS: usize = 5;

/// A name of one of several files: what all begin with, the number of this one from 1, and of all.
fn parts(name: &str) -> Option<(&str, usize, usize)> {
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let number_of =
        |text: &str| text.parse().ok().filter(|_| text.len() == DIGITS && text.bytes().all(|b| b.is_ascii_digit()));
    Some((stem, number_of(number)?, number_of(count)?))
}

/// Whether this is the name of one of several files, but not of the first.
#[must_use]
pub fn is_later_file(name: &str) -> bool {
    parts(name).is_some_and(|(_, number, _)| number > 1)
}

pub(super) fn open(path: &Path) -> Result<GgufFile, FileError> {
    let mut first = GgufFile::parse(path, Bytes::map(path)?)?;
    let count = first.value(SPLIT_COUNT).and_then(super::Value::as_usize).unwrap_or(1);
    if count <= 1 {
        return Ok(first);
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let unsupported = |what: String| FileError::Unsupported { path: path.to_owned(), what };
    let of_all = parts(name).filter(|(_, _, named)| *named == count);
    let Some((stem, number, _)) = of_all else {
        return Err(unsupported(format!("one of {count} files whose name does not end in -00001-of-{count:05}.gguf")));
    };
    if number != 1 || place(&first) != Some(0) {
        return Err(unsupported(format!("one of {count} files: name the first, {stem}-00001-of-{count:05}.gguf")));
    }
    let expected = first.value(SPLIT_TENSORS).and_then(super::Value::as_usize);
    for index in 1..count {
        let sibling = path.with_file_name(format!("{stem}-{:05}-of-{count:05}.gguf", index + 1));
        join(&mut first, sibling, index, count)?;
    }
    match expected {
        Some(expected) if expected != first.tensors.len() => Err(FileError::Malformed {
            path: path.to_owned(),
            format: "GGUF",
            what: format!(
                "{SPLIT_TENSORS}: expected {expected} tensors in {count} files, found {}",
                first.tensors.len()
            ),
        }),
        _ => Ok(first),
    }
}

/// Adds the tensors of another file.
fn join(first: &mut GgufFile, path: PathBuf, index: usize, count: usize) -> Result<(), FileError> {
    let file = GgufFile::parse(&path, Bytes::map(&path)?)?;
    let malformed = |what: String| Err(FileError::Malformed { path: path.clone(), format: "GGUF", what });
    let found = (place(&file), file.value(SPLIT_COUNT).and_then(super::Value::as_usize));
    if found != (Some(index), Some(count)) {
        return malformed(format!("{SPLIT_NO} and {SPLIT_COUNT}: expected {index} of {count}, found {found:?}"));
    }
    for mut tensor in file.tensors {
        tensor.file = index;
        if first.tensor_by_name.insert(tensor.name.clone(), first.tensors.len()).is_some() {
            return malformed(format!("tensor {} occurs in two files", quoted(&tensor.name)));
        }
        first.tensors.push(tensor);
    }
    first.others.push((path, file.bytes));
    Ok(())
}

fn place(file: &GgufFile) -> Option<usize> {
    file.value(SPLIT_NO).and_then(super::Value::as_usize)
}

#[cfg(test)]
mod tests {
    use super::super::tests::Draft;
    use super::*;

    #[test]
    fn names_of_several_files() {
        assert_eq!(parts("a-00002-of-00003.gguf"), Some(("a", 2, 3)));
        assert!(is_later_file("a-00002-of-00003.gguf") && !is_later_file("a-00001-of-00003.gguf"));
        for other in ["a.gguf", "a-2-of-00003.gguf", "a-00002-of-00003", "00002-of-00003.gguf", "a-+0002-of-00003.gguf"]
        {
            assert_eq!(parts(other), None, "{other}");
        }
    }

    /// A file of one tensor of eight f32.
    fn part(number: u16, count: u16, n_tensors: i32, tensor: &str) -> Draft {
        Draft::new()
            .key(SPLIT_NO, 2, &number.to_le_bytes())
            .key(SPLIT_COUNT, 2, &count.to_le_bytes())
            .key(SPLIT_TENSORS, 5, &n_tensors.to_le_bytes())
            .tensor(tensor, &[8], 0, 0)
            .data(32)
    }

    fn opened(parts: &[(&str, Draft)], name: &str) -> Result<GgufFile, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        for (name, draft) in parts {
            std::fs::write(folder.path().join(name), draft.bytes()).map_err(|error| error.to_string())?;
        }
        GgufFile::open(&folder.path().join(name)).map_err(|error| format!("{error:?}"))
    }

    #[test]
    fn files_that_go_together_are_one() -> Result<(), String> {
        const NAMES: [&str; 2] = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"];
        let file = opened(&[(NAMES[0], part(0, 2, 2, "a")), (NAMES[1], part(1, 2, 2, "b"))], NAMES[0])?;
        assert_eq!((file.n_files(), file.tensors().len(), file.tensor_index("b")), (2, 2, Some(1)));
        assert_eq!(file.tensor(1).map(|tensor| tensor.bytes().len()), Some(32));
        let first = || part(0, 2, 2, "a");
        let cases = [
            (
                "a file of another model",
                vec![(NAMES[0], first()), (NAMES[1], part(1, 3, 2, "b"))],
                NAMES[0],
                "split.no",
            ),
            (
                "a file in another place",
                vec![(NAMES[0], first()), (NAMES[1], part(0, 2, 2, "b"))],
                NAMES[0],
                "split.no",
            ),
            ("a tensor twice", vec![(NAMES[0], first()), (NAMES[1], part(1, 2, 2, "a"))], NAMES[0], "in two files"),
            (
                "too few tensors",
                vec![(NAMES[0], part(0, 2, 3, "a")), (NAMES[1], part(1, 2, 3, "b"))],
                NAMES[0],
                "expected 3 tensors",
            ),
            ("a file that is not there", vec![(NAMES[0], first())], NAMES[0], "00002-of-00002"),
            ("a name that tells nothing", vec![("m.gguf", first())], "m.gguf", "whose name does not end in"),
            ("a name of fewer files", vec![(NAMES[0], part(0, u16::MAX, 2, "a"))], NAMES[0], "65535 files whose name"),
            ("a later file", vec![(NAMES[1], part(1, 2, 2, "b"))], NAMES[1], "name the first"),
            ("a first file of another place", vec![(NAMES[0], part(1, 2, 2, "b"))], NAMES[0], "name the first"),
        ];
        for (case, parts, name, expected) in cases {
            let error = opened(&parts, name).err().unwrap_or_default();
            assert!(error.contains(expected), "{case}: {error}");
        }
        Ok(())
    }
}
