//! The patch file: one safetensors file that says which tensors change and how, whatever the patch was made from.
//!
//! `__metadata__` holds `format` = `reweight-patch`, `version` and `patch`, a JSON document ([`Header`]). The parts of the change
//! of tensor `T` are tensors named `T:codes`, `T:a` and so on. The BLAKE3 of the file is the patch's identity.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use reweight_quant::error::FileError;
use reweight_quant::store::safetensors::{NewTensor, SafetensorsFile, TensorEntry, layout};
use reweight_quant::store::{Bytes, Weight, rename};
use reweight_quant::tensor::{Dtype, n_elements, shape_text};
use serde::{Deserialize, Serialize};

use crate::PatchError;
use crate::affine::Affine;
use crate::function::{Replacement, Term};
use crate::low_rank::{Magnitudes, Product};
use crate::packed::{Bits, GROUP, Packed};
use crate::shards::Shards;
use crate::values::Float;

/// What the file's metadata says of its format.
pub const FORMAT: &str = "reweight-patch";
/// The version of the layout.
pub const VERSION: &str = "1";

/// Bytes copied at a time.
const COPY_BYTES: usize = 8 << 20;

/// Whether a file's header says that it is a patch; nothing more is read.
#[must_use]
pub fn is_patch(path: &Path) -> bool {
    let file = || SafetensorsFile::open(path).ok()?.metadata().get("format").map(|format| format == FORMAT);
    path.is_file() && file().unwrap_or(false)
}

/// What a patch was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A Robust Weight Signature.
    Signature,
    /// The difference of two checkpoints.
    Difference,
    /// A PEFT LoRA or DoRA adapter.
    Lora,
    /// A PEFT Bone or MiSS adapter.
    Miss,
}

impl Kind {
    /// Its name in files and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Signature => "signature",
            Self::Difference => "difference",
            Self::Lora => "lora",
            Self::Miss => "miss",
        }
    }
}

/// The document in the file's metadata.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// What it was made from.
    pub kind: Kind,
    /// The name it goes by unless another is given.
    pub name: String,
    /// Settings and figures of the making, for people and for `inspect`.
    pub notes: BTreeMap<String, serde_json::Value>,
    /// What changes.
    pub tensors: Vec<Entry>,
}

/// How one tensor changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The tensor.
    pub name: String,
    /// Its shape; a MiSS block does not tell the number of inputs, and then only the outputs stand here.
    pub shape: Vec<usize>,
    /// BLAKE3 of the tensor that the patch was made for, where it was made for one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub base_blake3: Option<String>,
    /// How its parts are read.
    pub change: Change,
}

/// How the parts of a change are read.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Change {
    /// `T:delta`, floating point, times a scale.
    Plain {
        /// Multiplies every element.
        scale: f64,
    },
    /// `T:codes` and `T:scales`.
    Packed {
        /// Bits of a code.
        bits: u8,
    },
    /// `T:value` takes the tensor's place.
    Replace,
    /// `T:b` times `T:a`, and `T:magnitude` for DoRA.
    LowRank {
        /// Rows of `a`.
        rank: usize,
        /// Multiplies the product.
        scale: f64,
        /// The weight is stored inputs first.
        transposed: bool,
        /// Outputs are brought to a magnitude afterwards.
        magnitude: bool,
    },
    /// `T:block`, repeated along the inputs.
    Shards {
        /// Rows of the block.
        rank: usize,
        /// It is repeated along the outputs too (MiSS `mini`); the shape is then that of one block's outputs.
        #[serde(skip_serializing_if = "std::ops::Not::not", default)]
        repeated: bool,
    },
    /// `T:block`, one square for each run of outputs, by which the base is multiplied (Bone and MiSS `bat`).
    Affine {
        /// Rows and columns of a square.
        rank: usize,
    },
}

/// An opened patch. Parts are mapped, not read.
#[derive(Debug)]
pub struct Patch {
    header: Header,
    digest: String,
    file: SafetensorsFile,
    parts: HashMap<String, usize>,
    entries: HashMap<String, usize>,
}

impl Patch {
    /// Opens a patch file and hashes it.
    ///
    /// # Errors
    /// `PatchError::NoPatch`, `FileError::Malformed`.
    pub fn open(path: &Path) -> Result<Self, PatchError> {
        Self::parse(path, Bytes::map(path)?)
    }

    /// Parses bytes; `path` is for messages.
    ///
    /// # Errors
    /// As [`Patch::open`].
    pub fn parse(path: &Path, bytes: Bytes) -> Result<Self, PatchError> {
        let digest = bytes.digest().to_string();
        let file = SafetensorsFile::parse(path, bytes)?;
        let said = |key: &str| file.metadata().get(key).map(String::as_str);
        if said("format") != Some(FORMAT) {
            let what = "expected a safetensors file whose metadata say format `reweight-patch`".to_owned();
            return Err(PatchError::NoPatch { path: path.to_owned(), what });
        }
        if said("version") != Some(VERSION) {
            let what = format!("version {:?}; this program reads {VERSION}", said("version").unwrap_or("none"));
            return Err(PatchError::NoPatch { path: path.to_owned(), what });
        }
        let header: Header = serde_json::from_str(said("patch").unwrap_or_default())
            .map_err(|error| malformed(path, format!("metadata `patch`: {error}")))?;
        let parts = file.tensors().iter().enumerate().map(|(index, part)| (part.name.clone(), index)).collect();
        let mut entries = HashMap::new();
        for (index, entry) in header.tensors.iter().enumerate() {
            if entries.insert(entry.name.clone(), index).is_some() {
                return Err(malformed(path, format!("tensor {:?} is changed twice", entry.name)));
            }
        }
        let patch = Self { header, digest, file, parts, entries };
        patch.header.tensors.iter().try_for_each(|entry| patch.check(entry))?;
        Ok(patch)
    }

    /// Where it was read from.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// What the file says of itself.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// BLAKE3 of the file: its identity.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The whole file.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        self.file.bytes()
    }

    /// Writes the whole file elsewhere.
    ///
    /// # Errors
    /// `FileError::Io`.
    pub(crate) fn copy_to(&self, path: &Path) -> Result<(), PatchError> {
        let bytes = self.bytes();
        let mut file = std::fs::File::create(path).map_err(FileError::io(path, "create"))?;
        for start in (0..bytes.len()).step_by(COPY_BYTES) {
            let piece = start..bytes.len().min(start + COPY_BYTES);
            file.write_all(&bytes[piece.clone()]).map_err(FileError::io(path, "write"))?;
            bytes.release(piece);
        }
        Ok(())
    }

    /// Says that pages of a tensor's change need not stay.
    pub(crate) fn release(&self, tensor: &str) {
        let prefix = format!("{tensor}:");
        let parts = self.file.tensors().iter().filter(|part| part.name.starts_with(&prefix));
        parts.for_each(|part| self.bytes().release(part.range.clone()));
    }

    /// Bytes of the parts of a tensor's change.
    #[must_use]
    pub fn bytes_of(&self, tensor: &str) -> usize {
        let prefix = format!("{tensor}:");
        let parts = self.file.tensors().iter().filter(|part| part.name.starts_with(&prefix));
        parts.map(|part| part.range.len()).sum()
    }

    /// How it changes a tensor, if it does.
    #[must_use]
    pub fn entry(&self, tensor: &str) -> Option<&Entry> {
        self.entries.get(tensor).map(|&index| &self.header.tensors[index])
    }

    fn part(&self, entry: &Entry, part: &str) -> Result<&TensorEntry, PatchError> {
        let name = format!("{}:{part}", entry.name);
        let index =
            self.parts.get(&name).ok_or_else(|| malformed(self.path(), format!("expected a tensor {name:?}")))?;
        Ok(&self.file.tensors()[*index])
    }

    fn data(&self, entry: &Entry, part: &str) -> &[u8] {
        let part = self.part(entry, part).expect("every part was looked up when the file was opened");
        &self.file.bytes()[part.range.clone()]
    }

    fn float_of(&self, entry: &Entry, part: &str) -> Float {
        let part = self.part(entry, part).expect("every part was looked up when the file was opened");
        Float::of(part.dtype).expect("the type of every part was checked when the file was opened")
    }

    fn values(&self, entry: &Entry, part: &str) -> Vec<f64> {
        self.float_of(entry, part).values(self.data(entry, part))
    }

    /// Requires that every part of a change is there, of the right type and size.
    fn check(&self, entry: &Entry) -> Result<(), PatchError> {
        let wrong = |what: String| malformed(self.path(), format!("tensor {:?}: {what}", entry.name));
        let n = n_elements(&entry.shape).ok_or_else(|| wrong("the size of its shape overflows".to_owned()))?;
        let floats = |part: &str, expected: usize| {
            let found = self.part(entry, part)?;
            let n_found = n_elements(&found.shape).unwrap_or(usize::MAX);
            if Float::of(found.dtype).is_none() || n_found != expected {
                let found = format!("{} of {}", shape_text(&found.shape), found.dtype);
                return Err(wrong(format!("part {part:?}: expected {expected} floats, found {found}")));
            }
            Ok(())
        };
        let bytes = |part: &str, dtype: Dtype, expected: usize| {
            let found = self.part(entry, part)?;
            if found.dtype != dtype || found.range.len() != expected {
                let found = format!("{} of {}", found.range.len(), found.dtype);
                return Err(wrong(format!("part {part:?}: expected {expected} bytes of {dtype}, found {found}")));
            }
            Ok(())
        };
        match entry.change {
            Change::Plain { scale } if !scale.is_finite() => Err(wrong(format!("scale {scale}"))),
            Change::Plain { .. } => floats("delta", n),
            Change::Replace => floats("value", n),
            Change::Packed { bits } => {
                let bits = Bits::new(bits).ok_or_else(|| wrong(format!("expected 2, 3, 4 or 8 bits, found {bits}")))?;
                bytes("codes", Dtype::U8, bits.code_bytes(n))?;
                bytes("scales", Dtype::Bf16, 2 * n.div_ceil(GROUP))
            }
            Change::LowRank { rank, scale, transposed, magnitude } => {
                let (rows, columns) = matrix(&entry.shape).ok_or_else(|| wrong("expected a matrix".to_owned()))?;
                let (outputs, inputs) = if transposed { (columns, rows) } else { (rows, columns) };
                let sizes = rank.checked_mul(inputs).zip(rank.checked_mul(outputs)).filter(|_| rank > 0);
                let (a, b) =
                    sizes.filter(|_| scale.is_finite()).ok_or_else(|| wrong(format!("rank {rank}, scale {scale}")))?;
                floats("a", a)?;
                floats("b", b)?;
                if magnitude { floats("magnitude", outputs) } else { Ok(()) }
            }
            Change::Affine { rank } => {
                let outputs = entry.shape.first().copied().filter(|&outputs| rank > 0 && outputs > 0);
                let size = outputs
                    .filter(|outputs| outputs.is_multiple_of(rank))
                    .and_then(|outputs| outputs.checked_mul(rank));
                floats("block", size.ok_or_else(|| wrong(format!("rank {rank}")))?)
            }
            Change::Shards { rank, .. } => {
                let outputs = entry.shape.first().copied().filter(|&outputs| rank > 0 && outputs > 0);
                let size = outputs.and_then(|outputs| outputs.checked_mul(rank));
                floats("block", size.ok_or_else(|| wrong(format!("rank {rank}")))?)
            }
        }
    }

    /// Requires that a tensor of a model is one that the entry can change.
    ///
    /// # Errors
    /// `PatchError::Shape`.
    pub(crate) fn check_shape(&self, entry: &Entry, weight: &Weight, model: &Path) -> Result<(), PatchError> {
        let found = &weight.shape;
        let fits = match entry.change {
            Change::Shards { repeated, .. } => fits_outputs(entry, repeated, found),
            Change::Affine { rank } => fits_outputs(entry, false, found) && found[1].is_multiple_of(rank),
            _ => *found == entry.shape,
        };
        if fits {
            return Ok(());
        }
        Err(PatchError::Shape {
            patch: self.header.name.clone(),
            tensor: entry.name.clone(),
            model: model.to_owned(),
            expected: shape_text(&entry.shape).into(),
            found: shape_text(found).into(),
        })
    }

    /// Requires that a change is one of a matrix of that size.
    ///
    /// # Errors
    /// `PatchError::Shape`.
    pub(crate) fn check_matrix(&self, entry: &Entry, (rows, columns): (usize, usize)) -> Result<(), PatchError> {
        let found = [rows, columns];
        let fits = match entry.change {
            Change::Shards { repeated, .. } => fits_outputs(entry, repeated, &found),
            _ => entry.shape == found,
        };
        if fits {
            return Ok(());
        }
        Err(PatchError::Shape {
            patch: self.header.name.clone(),
            tensor: entry.name.clone(),
            model: self.path().to_owned(),
            expected: shape_text(&entry.shape).into(),
            found: shape_text(&found).into(),
        })
    }

    /// Codes from 0 up, one a byte, scales, and the bits of a code, of a change in groups.
    pub(crate) fn codes(&self, entry: &Entry) -> (Vec<u8>, Vec<f32>, u8) {
        let Change::Packed { bits } = entry.change else { return (Vec::new(), Vec::new(), 0) };
        let n = n_elements(&entry.shape).unwrap_or(0);
        let width = Bits::new(bits).expect("the bits were checked when the file was opened");
        let packed = Packed { bits: width, codes: self.data(entry, "codes"), scales: self.data(entry, "scales") };
        let mut codes = vec![0; n];
        packed.read_codes(&mut codes);
        let scales = packed.scales.as_chunks::<2>().0.iter().map(|scale| half::bf16::from_le_bytes(*scale).to_f32());
        (codes, scales.collect(), bits)
    }

    /// The factors of a change of low rank, `rank * columns` and `rows * rank` values, the scale in the latter.
    pub(crate) fn factors(&self, entry: &Entry, (rows, columns): (usize, usize)) -> (Vec<f32>, Vec<f32>) {
        let narrow = |values: &[f64]| values.iter().map(|&value| value as f32).collect::<Vec<f32>>();
        match self.term(entry, &[rows, columns]) {
            Ok(Term::LowRank { product, .. }) => (narrow(product.right()), narrow(product.left())),
            Ok(Term::Shards(shards)) => {
                let (down, up) = shards.factors();
                // Repeated along the outputs where the block is for fewer.
                (down, narrow(up).into_iter().cycle().take(rows * shards.rank()).collect())
            }
            _ => (Vec::new(), Vec::new()),
        }
    }

    /// The change of a tensor, ready to be computed; its shape was checked.
    pub(crate) fn term(&self, entry: &Entry, shape: &[usize]) -> Result<Term<'_>, Replacement<'_>> {
        let columns = matrix(shape).map_or(1, |(_, columns)| columns).max(1);
        Ok(match entry.change {
            Change::Plain { scale } => {
                Term::Plain { float: self.float_of(entry, "delta"), data: self.data(entry, "delta"), scale }
            }
            Change::Packed { bits } => Term::Packed(Packed {
                bits: Bits::new(bits).expect("the bits were checked when the file was opened"),
                codes: self.data(entry, "codes"),
                scales: self.data(entry, "scales"),
            }),
            Change::Replace => {
                let (float, data) = (self.float_of(entry, "value"), self.data(entry, "value"));
                return Err(Replacement { float, data });
            }
            Change::LowRank { rank, scale, transposed, magnitude } => {
                let (a, b) = (self.values(entry, "a"), self.values(entry, "b"));
                let product = Product::new(a, b, rank, scale, transposed);
                let magnitudes =
                    magnitude.then(|| Magnitudes::new(self.values(entry, "magnitude"), columns, transposed));
                Term::LowRank { product, magnitudes }
            }
            Change::Shards { rank, .. } => Term::Shards(Shards::new(&self.values(entry, "block"), rank, columns)),
            Change::Affine { rank } => Term::Affine(Affine::new(self.values(entry, "block"), rank, columns)),
        })
    }
}

/// Whether a matrix has the outputs that a block is for, or whole runs of them.
fn fits_outputs(entry: &Entry, repeated: bool, found: &[usize]) -> bool {
    let ([rows, _], Some(&outputs)) = (found, entry.shape.first()) else { return false };
    *rows == outputs || (repeated && rows.is_multiple_of(outputs))
}

/// Rows and columns of a weight seen as a matrix: everything after the first dimension is a row.
fn matrix(shape: &[usize]) -> Option<(usize, usize)> {
    let (&rows, inner) = shape.split_first()?;
    // A shape without elements may state any other dimension.
    n_elements(inner).filter(|_| !inner.is_empty()).map(|columns| (rows, columns))
}

fn malformed(path: &Path, what: String) -> PatchError {
    FileError::Malformed { path: path.to_owned(), format: "patch", what }.into()
}

/// A part of a patch yet to be written.
#[must_use]
pub fn part(tensor: &str, part: &str, dtype: Dtype, shape: &[usize]) -> NewTensor {
    NewTensor { name: format!("{tensor}:{part}"), dtype, shape: shape.to_vec() }
}

/// Writes a patch file part by part and lets it appear by rename. `fill` gives the bytes of each part.
///
/// # Errors
/// What `fill` meets; `FileError::Io`.
///
/// # Panics
/// Where `fill` gives another number of bytes than the part takes.
pub fn write<'a>(
    path: &Path,
    header: &Header,
    parts: &[NewTensor],
    fill: impl FnMut(usize) -> Result<Cow<'a, [u8]>, PatchError>,
) -> Result<(), PatchError> {
    let document = serde_json::to_string(header).expect("strings and numbers make JSON");
    let said = [("format", FORMAT.to_owned()), ("patch", document), ("version", VERSION.to_owned())];
    let metadata: BTreeMap<String, String> = said.map(|(key, value)| (key.to_owned(), value)).into();
    write_parts(path, parts, &metadata, fill)
}

/// Writes a safetensors file part by part and lets it appear.
pub(crate) fn write_parts<'a>(
    path: &Path,
    parts: &[NewTensor],
    metadata: &BTreeMap<String, String>,
    mut fill: impl FnMut(usize) -> Result<Cow<'a, [u8]>, PatchError>,
) -> Result<(), PatchError> {
    let layout = layout(parts, metadata);
    let mut file = rename::begin(path)?;
    let io = |error| FileError::io(path, "write")(error);
    file.write_all(&layout.header).map_err(io)?;
    for (index, range) in layout.ranges.iter().enumerate() {
        let bytes = fill(index)?;
        assert_eq!(bytes.len(), range.len(), "a part has the size that was laid out");
        file.seek(SeekFrom::Start(range.start as u64)).map_err(io)?;
        file.write_all(&bytes).map_err(io)?;
    }
    rename::finish(file, path)?;
    Ok(())
}

/// The name of a patch by its file: what comes before the extension.
#[must_use]
pub fn name_of(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
    let name = if path.is_dir() { absolute.file_name() } else { absolute.file_stem() };
    name.map_or_else(|| "patch".to_owned(), |name| name.to_string_lossy().into_owned())
}
