//! GGUF files: planned whole, written tensor by tensor on all threads, read back and checked, and then given their name.

mod check;
mod digests;
mod plan;
mod rows;

use std::fs::File;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use reweight_kernels::BLOCK_ROWS;
use serde::Serialize;

use self::rows::{Sums, TensorWork};
use super::shards::write_all_at;
use super::{Control, Staging, StagingOptions, check_target};
use crate::error::{Error, FileError};
use crate::memory::{PIECE_BYTES, SMALL_BYTES};
use crate::pack::gguf::Mix;
use crate::pattern::Pattern;
use crate::plan::Method;
use crate::stats::Statistics;
use crate::store::Model;
use crate::store::gguf::GgmlType;

pub(crate) use digests::verify;
pub use plan::GgufPlan;

/// What to write.
#[derive(Clone, Debug)]
pub struct GgufOptions {
    /// The type of each tensor.
    pub mix: Mix,
    /// `Rtn` takes the whole range of each block; every other method searches.
    pub method: Method,
    /// Types for tensors by name; the last match counts.
    pub overrides: Vec<(Pattern, GgmlType)>,
    /// Tensors that are stored as floats.
    pub keep: Vec<Pattern>,
    /// Whether quantized weights keep their codes, and floats their type; `mix` counts for nothing then.
    pub repack: bool,
    /// Whether to tell what the whole range of each block would have lost: every tensor is then encoded twice.
    pub compare: bool,
    /// Makes a folder with files of at most so many bytes of tensors, where a tensor is not larger; one file otherwise.
    pub max_shard_bytes: Option<usize>,
}

/// What becomes of one tensor.
#[derive(Clone, Debug, Serialize)]
pub struct GgufTensor {
    /// Name of the weight it is made from, the first of several experts.
    pub name: String,
    /// Its name in the file.
    pub stored_name: String,
    /// What it is stored as in the source.
    pub from: String,
    /// Its type in the file.
    pub scheme: String,
    /// Its bytes.
    pub bytes: usize,
    /// Its elements.
    #[serde(skip)]
    pub n_elements: usize,
    /// Bytes of all weights that it is made from.
    #[serde(skip)]
    pub bytes_in: usize,
    /// Mean squared error against the source, where quantized.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_mse: Option<f64>,
    /// That of the whole range of each block at the same type, where it was to be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_mse_rtn: Option<f64>,
}

/// What a run wrote.
#[derive(Clone, Debug)]
pub struct GgufOutcome {
    /// One entry a tensor of the file.
    pub tensors: Vec<GgufTensor>,
    /// Bytes of all files.
    pub bytes_out: usize,
    /// BLAKE3 of the tensors' names and digests, in their order.
    pub target_digest: String,
}

impl GgufTensor {
    fn record(&mut self, sums: Sums) {
        let mean = |squared: f64| squared / self.n_elements.max(1) as f64;
        let is_blocks = !matches!(self.scheme.as_str(), "F32" | "F16" | "BF16");
        self.error_mse = is_blocks.then(|| mean(sums.squared));
        self.error_mse_rtn = sums.squared_rtn.filter(|_| is_blocks).map(mean);
    }
}

/// What is known of a tensor that was written: its error, as the reader decodes the bytes, and the digest of these.
#[derive(Clone, Copy, Debug)]
struct Written {
    sums: Sums,
    digest: blake3::Hash,
}

/// Writes the file, or the folder of files, reads it back, checks it, and lets it appear by rename.
///
/// The bytes depend on the model, the plan and the statistics alone. The error of a tensor is that of its bytes as they were handed to the
/// system; what is read back has to have the digest of these.
///
/// Cost: reads each source byte once and each written byte once; memory of a small tensor or a piece of a large one a thread.
///
/// # Errors
/// [`Error`]; no target appears then.
pub fn write_gguf(
    model: &Model,
    plan: &GgufPlan,
    statistics: Option<&Statistics>,
    target: &Path,
    options: StagingOptions,
    control: &Control<'_>,
) -> Result<GgufOutcome, Error> {
    check_target(model, target, options.force)?;
    let staging = Staging::open(target, StagingOptions { resume: false, ..options })?;
    let files: Result<Vec<OpenFile>, FileError> =
        plan.files.iter().map(|file| OpenFile::create(staging.partial(), file)).collect();
    let run = Run { model, plan, statistics, files: files?, control };
    let written = run.tensors()?;
    run.seal(&written)?;
    let target_digest = check::check(plan, staging.partial(), &written, control)?;
    let mut tensors = plan.tensors.clone();
    tensors.iter_mut().zip(&written).for_each(|(tensor, written)| tensor.record(written.sums));
    let single = plan.is_folder.then_some(()).map_or_else(|| plan.files.first(), |()| None);
    staging.commit(single.map(|file| file.name.as_str()), options.fsync)?;
    Ok(GgufOutcome { tensors, bytes_out: plan.bytes_out(), target_digest })
}

/// A file of the target while it grows.
struct OpenFile {
    path: PathBuf,
    file: File,
}

impl OpenFile {
    fn create(folder: &Path, planned: &plan::PlannedFile) -> Result<Self, FileError> {
        let path = folder.join(&planned.name);
        let file = File::create(&path).map_err(FileError::io(&path, "create"))?;
        file.set_len(planned.bytes as u64).map_err(FileError::io(&path, "write"))?;
        let open = Self { path, file };
        Ok(open)
    }

    fn write(&self, bytes: &[u8], at: usize) -> Result<(), FileError> {
        write_all_at(&self.file, bytes, at as u64).map_err(FileError::io(&self.path, "write"))
    }
}

/// All that the work on one tensor needs.
struct Run<'a> {
    model: &'a Model,
    plan: &'a GgufPlan,
    statistics: Option<&'a Statistics>,
    files: Vec<OpenFile>,
    control: &'a Control<'a>,
}

impl Run<'_> {
    /// Small tensors go through whole, one a thread; large ones one after the other, on all threads.
    fn tensors(&self) -> Result<Vec<Written>, Error> {
        let all = 0..self.plan.exported.len();
        let (small, large): (Vec<usize>, Vec<usize>) =
            all.partition(|index| self.plan.tensors[*index].bytes <= SMALL_BYTES);
        let one = |index: usize, buffer: &mut Vec<u8>| {
            self.control.check_stop()?;
            let work = TensorWork::of(self.model, self.plan, index, (self.control.kernels, self.statistics));
            let written = if self.plan.tensors[index].bytes <= SMALL_BYTES {
                self.small(index, &work, buffer)?
            } else {
                self.large(index, &work)?
            };
            work.release(self.control);
            Ok((index, written))
        };
        let mut written: Vec<(usize, Written)> =
            large.into_iter().map(|index| one(index, &mut Vec::new())).collect::<Result<_, Error>>()?;
        let small: Result<Vec<_>, Error> =
            small.into_par_iter().map_init(Vec::new, |buffer, index| one(index, buffer)).collect();
        written.extend(small?);
        written.sort_unstable_by_key(|(index, _)| *index);
        Ok(written.into_iter().map(|(_, written)| written).collect())
    }

    fn small(&self, index: usize, work: &TensorWork<'_>, buffer: &mut Vec<u8>) -> Result<Written, Error> {
        buffer.resize(self.plan.tensors[index].bytes, 0);
        let (mut room, mut sums) = (work.room(), work.no_sums());
        for (chunk, bytes) in buffer.chunks_mut(BLOCK_ROWS * work.row_bytes()).enumerate() {
            sums.add(work.rows(chunk * BLOCK_ROWS, &mut room, bytes)?);
        }
        self.write(index, buffer, 0)?;
        Ok(Written { sums, digest: blake3::hash(buffer) })
    }

    /// One piece is made while the one before is written.
    fn large(&self, index: usize, work: &TensorWork<'_>) -> Result<Written, Error> {
        let (n_rows, row_bytes) = (work.n_rows(), work.row_bytes());
        let step = (PIECE_BYTES / row_bytes.max(1)).next_multiple_of(BLOCK_ROWS).max(BLOCK_ROWS);
        let (mut sums, mut hasher) = (work.no_sums(), blake3::Hasher::new());
        let (mut made, mut next): (Vec<u8>, Vec<u8>) = (Vec::new(), Vec::new());
        let mut at = 0;
        for start in (0..n_rows).step_by(step) {
            next.resize(step.min(n_rows - start) * row_bytes, 0);
            let store = || {
                hasher.update_rayon(&made);
                self.write(index, &made, at)
            };
            let (stored, found) = rayon::join(store, || work.piece(start, &mut next));
            stored?;
            sums.add(found?);
            at = start * row_bytes;
            std::mem::swap(&mut made, &mut next);
        }
        self.write(index, &made, at)?;
        hasher.update_rayon(&made);
        Ok(Written { sums, digest: hasher.finalize() })
    }

    /// Writes bytes of a tensor, from its byte `at` on.
    fn write(&self, index: usize, bytes: &[u8], at: usize) -> Result<(), Error> {
        let place = self.plan.places[index];
        Ok(self.files[place.file].write(bytes, self.plan.files[place.file].header.len() + place.offset + at)?)
    }

    /// Writes what is not a weight: factors of rotary frequencies, and headers with the digests.
    fn seal(&self, written: &[Written]) -> Result<(), Error> {
        let mut digests = vec![self.plan.metadata_digest];
        digests.extend(written.iter().map(|written| written.digest));
        if let Some((factors, place)) = &self.plan.rope_factors {
            let bytes: Vec<u8> = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
            self.files[place.file].write(&bytes, self.plan.files[place.file].header.len() + place.offset)?;
            digests.push(blake3::hash(&bytes));
        }
        for (index, (file, planned)) in self.files.iter().zip(&self.plan.files).enumerate() {
            let mut header = planned.header.clone();
            if index == 0 {
                digests::fill(&mut header, planned.keys_end, &digests);
            }
            file.write(&header, 0)?;
        }
        Ok(())
    }
}
