//! Shard files of known layout: header first, then tensors at their places in any order.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::error::FileError;
use crate::plan::Plan;
use crate::store::model::{INDEX_NAME, SINGLE_NAME};
use crate::store::safetensors::{Layout, NewTensor, layout};

/// Bytes handed to the system at a time.
const WRITE_BYTES: usize = 1 << 20;

/// Every shard of a plan.
#[derive(Debug)]
pub(super) struct Shards {
    files: Vec<ShardFile>,
    /// For each planned tensor, the places of its outputs in its shard.
    places: Vec<Vec<std::ops::Range<usize>>>,
}

/// One shard on disk.
#[derive(Debug)]
struct ShardFile {
    path: PathBuf,
    file: File,
}

/// The name of a shard: `model.safetensors`, or `model-00002-of-00004.safetensors`.
#[must_use]
pub fn shard_name(shard: usize, n_shards: usize) -> String {
    if n_shards == 1 { SINGLE_NAME.to_owned() } else { format!("model-{:05}-of-{n_shards:05}.safetensors", shard + 1) }
}

impl Shards {
    /// Creates every shard at its final size with its header, or reopens those of an earlier run that have both.
    ///
    /// # Errors
    /// `FileError::Io`.
    pub(super) fn open(folder: &Path, plan: &Plan) -> Result<Self, FileError> {
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        let mut files = Vec::with_capacity(plan.n_shards);
        let mut places = vec![Vec::new(); plan.tensors.len()];
        for shard in 0..plan.n_shards {
            let members = plan.tensors.iter().enumerate().filter(|(_, tensor)| tensor.shard == shard);
            let outputs: Vec<(usize, &NewTensor)> =
                members.flat_map(|(index, tensor)| tensor.outputs.iter().map(move |output| (index, output))).collect();
            let tensors: Vec<NewTensor> = outputs.iter().map(|(_, output)| (*output).clone()).collect();
            let layout = layout(&tensors, &metadata);
            for ((index, _), range) in outputs.iter().zip(&layout.ranges) {
                places[*index].push(range.clone());
            }
            let path = folder.join(shard_name(shard, plan.n_shards));
            let file = open_shard(&path, &layout).map_err(FileError::io(&path, "write"))?;
            files.push(ShardFile { path, file });
        }
        Ok(Self { files, places })
    }

    /// Writes bytes of an output, starting at `offset` within it.
    ///
    /// # Errors
    /// `FileError::Io`: a full disk, above all.
    pub(super) fn write(
        &self,
        plan: &Plan,
        tensor: usize,
        output: usize,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), FileError> {
        let shard = &self.files[plan.tensors[tensor].shard];
        let place = self.places[tensor][output].start + offset;
        // The system locks a file while it is written; short writes let other threads in between.
        for (piece, bytes) in bytes.chunks(WRITE_BYTES).enumerate() {
            let place = (place + piece * WRITE_BYTES) as u64;
            write_all_at(&shard.file, bytes, place).map_err(FileError::io(&shard.path, "write"))?;
        }
        Ok(())
    }

    /// BLAKE3 of each output of a tensor as it is in the file.
    ///
    /// # Errors
    /// `FileError::Io`.
    pub(super) fn digests(&self, plan: &Plan, tensor: usize) -> Result<Vec<String>, FileError> {
        let shard = &self.files[plan.tensors[tensor].shard];
        let bytes = crate::store::Bytes::map(&shard.path)?;
        let places = self.places[tensor].iter();
        Ok(places
            .map(|place| {
                let digest = blake3::Hasher::new().update_rayon(&bytes[place.clone()]).finalize().to_string();
                bytes.release(place.clone());
                digest
            })
            .collect())
    }
}

fn open_shard(path: &Path, layout: &Layout) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    let mut header = vec![0; layout.header.len()];
    let same = file.metadata()?.len() == layout.file_bytes as u64
        && read_at(&file, &mut header).is_ok()
        && header == layout.header;
    if !same {
        // Only a file that holds something is cut: ext4 takes a cut to nothing as a sign that the file is rewritten in
        // place, and starts writing it to the disk when it is closed.
        if file.metadata()?.len() > 0 {
            file.set_len(0)?;
        }
        file.set_len(layout.file_bytes as u64)?;
        write_all_at(&file, &layout.header, 0)?;
    }
    Ok(file)
}

#[cfg(unix)]
pub(super) fn write_all_at(file: &File, bytes: &[u8], place: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, place)
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, 0)
}

#[cfg(not(unix))]
pub(super) fn write_all_at(file: &File, bytes: &[u8], place: u64) -> io::Result<()> {
    use io::{Seek, Write};
    let mut file = file;
    file.seek(io::SeekFrom::Start(place))?;
    file.write_all(bytes)
}

#[cfg(not(unix))]
fn read_at(file: &File, bytes: &mut [u8]) -> io::Result<()> {
    use io::{Read, Seek};
    let mut file = file;
    file.seek(io::SeekFrom::Start(0))?;
    file.read_exact(bytes)
}

/// The index of a plan with several shards, in the form transformers writes; `None` for one shard.
#[must_use]
pub(super) fn index(plan: &Plan) -> Option<(String, String)> {
    if plan.n_shards == 1 {
        return None;
    }
    let mut names: Vec<(&str, usize)> = Vec::new();
    for tensor in &plan.tensors {
        names.extend(tensor.outputs.iter().map(|output| (output.name.as_str(), tensor.shard)));
    }
    names.sort_unstable();
    let map: serde_json::Map<String, serde_json::Value> =
        names.into_iter().map(|(name, shard)| (name.to_owned(), shard_name(shard, plan.n_shards).into())).collect();
    let document = json!({ "metadata": { "total_size": plan.bytes_out }, "weight_map": map });
    Some((INDEX_NAME.to_owned(), format!("{document:#}\n")))
}
