//! Writing a model with another set of patches: restore the base piece by piece, apply the set, keep the way back.
//!
//! Weight files keep their layout: every byte that no patch touches is copied, so that a model whose last patch is taken off is the
//! base file for file. Quantized tensors are quantized again in their own scheme (`coded`). What is written is read back and compared by digest before it appears. Memory is bounded by a batch of
//! pieces; the bytes written do not depend on the number of threads.

mod coded;
mod plan;
mod tensor;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use reweight_quant::error::{FileError, RunError};
use reweight_quant::store::model::{LEDGER_NAME, MANIFEST_NAME};
use reweight_quant::store::{Bytes, Weight};
use reweight_quant::stream::{Staging, StagingOptions};

use crate::ledger::{self, BASE_MANIFEST, Ledger, PatchRecord, SideRecord, TensorRecord};
use crate::place::{Place, file_name};
use crate::scope::check_destination;
use crate::tensor::Target;
use crate::update::{Move, Update};
use crate::{Applied, PatchError, State};

pub use plan::{Plan, Planned, outline, plan};

/// What a run is given from outside.
pub struct Control<'a> {
    /// Set from outside to stop between batches.
    pub stop: &'a AtomicBool,
    /// Called with a tensor's name and bytes that are done.
    pub progress: &'a (dyn Fn(&str, u64) + Sync),
}

impl Control<'_> {
    fn check_stop(&self) -> Result<(), PatchError> {
        if self.stop.load(Ordering::Relaxed) { Err(PatchError::Interrupted) } else { Ok(()) }
    }
}

/// Where the model goes.
#[derive(Clone, Copy, Debug)]
pub enum Destination<'a> {
    /// A copy, which appears complete or not at all.
    Target {
        /// A folder, or one file for a model in one file.
        path: &'a Path,
        /// Replace what is there.
        force: bool,
        /// Wait until the disk has everything.
        fsync: bool,
    },
    /// The model itself; a killed process leaves the old one or the new one.
    InPlace,
}

/// What a run did.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The ledger that was written; `None` where the model is its base again.
    pub ledger: Option<Ledger>,
    /// Tensors that are as in the base again, with their digests, compared with those that the ledger stated.
    pub restored: Vec<(String, String)>,
    /// Bytes of the tensors that were changed or restored.
    pub touched_bytes: u64,
    /// Bytes of the whole model.
    pub model_bytes: u64,
}

/// Writes a model with a set of patches in place of those that are on it.
///
/// Cost: reads every byte of the model once and those of touched tensors twice, writes every byte of a target once; in place, only
/// files with touched tensors are written.
///
/// # Errors
/// `PatchError`; nothing is changed then.
pub fn rewrite(
    state: &State,
    set: &[Applied],
    destination: Destination<'_>,
    control: &Control<'_>,
) -> Result<Outcome, PatchError> {
    let plan = outline(state, set)?;
    check_destination(state, &plan, destination)?;
    match destination {
        Destination::InPlace => {
            let names = Names::at(&state.place)?;
            in_update(state, set, &plan, Update::begin(&state.place)?, &names, control)
        }
        Destination::Target { path, .. } if state.folder.is_none() => {
            let place = Place::of_file(path);
            let names = Names::at(&place)?;
            in_update(state, set, &plan, Update::begin(&place)?, &names, control)
        }
        Destination::Target { path, force, fsync } => {
            let staging = Staging::open(path, StagingOptions { force, resume: false, fsync })?;
            let names = Names { single: None, ledger: LEDGER_NAME.to_owned() };
            let written = write(state, set, &plan, staging.partial(), &names, control)
                .and_then(|outcome| copy_rest(state, &plan, set.is_empty(), staging.partial()).map(|()| outcome));
            match written {
                Ok(outcome) => {
                    staging.commit(None, fsync)?;
                    Ok(outcome)
                }
                Err(error) => {
                    let partial = staging.partial();
                    fs::remove_dir_all(partial).map_err(FileError::io(partial, "remove"))?;
                    Err(error)
                }
            }
        }
    }
}

/// Names of files within the folder in which a model grows.
struct Names {
    /// The name of the one file, where the target has another than the source.
    single: Option<String>,
    ledger: String,
}

impl Names {
    /// Of the model that belongs to a place.
    fn at(place: &Place) -> Result<Self, PatchError> {
        let single = if place.is_folder() { None } else { Some(file_name(&place.model)?.to_owned()) };
        Ok(Self { single, ledger: file_name(&place.ledger)?.to_owned() })
    }

    fn of(&self, file: &Path) -> Result<String, PatchError> {
        Ok(match &self.single {
            Some(name) => name.clone(),
            None => file_name(file)?.to_owned(),
        })
    }
}

/// Writes what changes into an update and commits it.
fn in_update(
    state: &State,
    set: &[Applied],
    plan: &Plan,
    update: Update,
    names: &Names,
    control: &Control<'_>,
) -> Result<Outcome, PatchError> {
    let written = write(state, set, plan, update.folder(), names, control);
    let copied = written.and_then(|outcome| {
        let mut moves = moves(state, plan, set, names)?;
        if let Some(name) = &names.single
            && update.folder() != state.place.update
            && !update.folder().join(name).exists()
        {
            // No patch touches the only file; as a target it is wanted all the same.
            let copy = update.folder().join(name);
            fs::copy(state.model.path(), &copy).map_err(FileError::io(&copy, "write"))?;
            moves.insert(0, Move { name: name.clone(), remove: false });
        }
        if set.is_empty()
            && let Some(manifest) = base_manifest(state)?
        {
            let path = update.folder().join(MANIFEST_NAME);
            fs::write(&path, manifest).map_err(FileError::io(&path, "write"))?;
        }
        Ok((outcome, moves))
    });
    match copied {
        Ok((outcome, moves)) => {
            update.commit(moves)?;
            Ok(outcome)
        }
        Err(error) => {
            update.abandon()?;
            Err(error)
        }
    }
}

/// What takes its place and what leaves it: weight files first, so that a model in one file changes with its first rename.
fn moves(state: &State, plan: &Plan, set: &[Applied], names: &Names) -> Result<Vec<Move>, PatchError> {
    let step = |name: String, remove| Move { name, remove };
    let files = plan.files().keys().map(|file| Ok(step(names.of(file)?, false)));
    let mut moves = files.collect::<Result<Vec<Move>, PatchError>>()?;
    moves.push(step(names.ledger.clone(), set.is_empty()));
    if base_manifest(state)?.is_some() {
        moves.push(step(MANIFEST_NAME.to_owned(), !set.is_empty()));
    }
    Ok(moves)
}

/// The manifest of the base: kept by the ledger, or still in its place.
fn base_manifest(state: &State) -> Result<Option<Vec<u8>>, PatchError> {
    let path = match state.ledger() {
        Some(ledger) if ledger.base_manifest_blake3.is_none() => return Ok(None),
        Some(_) => state.place.ledger.join(BASE_MANIFEST),
        None => match state.folder.as_ref().and_then(|folder| folder.directory()) {
            Some(folder) if folder.join(MANIFEST_NAME).is_file() => folder.join(MANIFEST_NAME),
            _ => return Ok(None),
        },
    };
    let bytes = fs::read(&path).map_err(FileError::io(&path, "read"))?;
    let found = blake3::hash(&bytes).to_string();
    match state.ledger().and_then(|ledger| ledger.base_manifest_blake3.as_ref()) {
        Some(expected) if *expected != found => {
            Err(PatchError::Ledger { path, what: format!("was edited: expected digest {expected}, found {found}") })
        }
        _ => Ok(Some(bytes)),
    }
}

/// Writes every file that a patch touches, and the ledger, and reads them back.
fn write(
    state: &State,
    set: &[Applied],
    plan: &Plan,
    folder: &Path,
    names: &Names,
    control: &Control<'_>,
) -> Result<Outcome, PatchError> {
    let ledger_folder = folder.join(&names.ledger);
    let mut undo = None;
    if !set.is_empty() {
        fs::create_dir_all(&ledger_folder).map_err(FileError::io(&ledger_folder, "create"))?;
        undo = Some(UndoFile::create(&ledger_folder.join(ledger::UNDO))?);
    }
    let mut results: BTreeMap<usize, tensor::Written> = BTreeMap::new();
    for (file, tensors) in plan.files() {
        let path = folder.join(names.of(file)?);
        let mut output = Output::create(&path, state, tensors)?;
        for &index in tensors {
            let weight = &state.model.weights()[index];
            let undo = undo.as_mut();
            let written = match Target::of(weight, state.model.path())? {
                Target::Float(tensor) => tensor::write(state, set, tensor, &mut output, undo, control)?,
                Target::Coded(weight) => coded::write(state, set, weight, &mut output, undo, control)?,
            };
            results.insert(index, written);
        }
        output.finish()?;
        check(&path, state, tensors, &results)?;
    }
    let ledger = match undo {
        Some(undo) => Some(write_ledger(state, set, plan, &results, undo, &ledger_folder)?),
        None => None,
    };
    let restored = results.iter().filter(|(_, written)| written.record.is_none());
    Ok(Outcome {
        ledger,
        restored: restored
            .map(|(&index, written)| (state.model.weights()[index].name.clone(), written.digest.clone()))
            .collect(),
        touched_bytes: plan.touched_bytes(),
        model_bytes: state.model.stored_bytes() as u64,
    })
}

/// The digests of a tensor as it is and of the base that comes of it, without writing anything.
///
/// # Errors
/// As a rewrite would meet.
pub(crate) fn restored_digest(state: &State, weight: &Weight) -> Result<(String, String), PatchError> {
    match Target::of(weight, state.model.path())? {
        Target::Float(tensor) => tensor::restored_digest(state, tensor),
        Target::Coded(weight) => coded::restored_digest(state, weight),
    }
}

/// Reads a file back and compares touched tensors with what was to be written; the layout is that of the source.
fn check(
    path: &Path,
    state: &State,
    tensors: &[usize],
    results: &BTreeMap<usize, tensor::Written>,
) -> Result<(), PatchError> {
    let file = Bytes::map(path)?;
    for index in tensors {
        let weight = &state.model.weights()[*index];
        let mut hasher = blake3::Hasher::new();
        for (_, range) in weight.stored_parts() {
            for start in range.clone().step_by(CHECK_BYTES) {
                let piece = start..range.end.min(start + CHECK_BYTES);
                hasher.update_rayon(file.get(piece.clone()).unwrap_or_default());
                file.release(piece);
            }
        }
        let (expected, found) = (results[index].digest.clone(), hasher.finalize().to_string());
        if found != expected {
            let (file, tensor) = (path.to_owned(), weight.name.clone());
            return Err(RunError::Mismatch { file, tensor, what: "digest", expected, found }.into());
        }
    }
    Ok(())
}

fn write_ledger(
    state: &State,
    set: &[Applied],
    plan: &Plan,
    results: &BTreeMap<usize, tensor::Written>,
    undo: UndoFile,
    folder: &Path,
) -> Result<Ledger, PatchError> {
    let mut patches: Vec<PatchRecord> = Vec::with_capacity(set.len());
    for applied in set {
        let path = folder.join(ledger::patch_file(applied.patch.digest()));
        applied.patch.copy_to(&path)?;
        patches.push(PatchRecord {
            name: applied.name.clone(),
            blake3: applied.patch.digest().to_owned(),
            kind: applied.patch.header().kind,
            strength: applied.strength,
            transfer: applied.transfer,
            bytes: applied.patch.bytes().len() as u64,
            side: applied.side,
        });
    }
    patches.sort_by(|a, b| a.blake3.cmp(&b.blake3));
    let manifest = base_manifest(state)?;
    if let Some(manifest) = &manifest {
        let path = folder.join(BASE_MANIFEST);
        fs::write(&path, manifest).map_err(FileError::io(&path, "write"))?;
    }
    let in_order = plan.files().values().flatten();
    let tensors: Vec<TensorRecord> = in_order.filter_map(|index| results[index].record.clone()).collect();
    let manifest = manifest.map(|bytes| blake3::hash(&bytes).to_string());
    let side_tensors = side_records(state, set, &tensors)?;
    let ledger = Ledger::new(patches, tensors, side_tensors, undo.finish()?, manifest);
    let path = folder.join(ledger::DOCUMENT);
    fs::write(&path, ledger.to_json()).map_err(FileError::io(&path, "write"))?;
    Ok(ledger)
}

/// The digests of what only patches beside the weights change, compared with those that were recorded before.
fn side_records(state: &State, set: &[Applied], tensors: &[TensorRecord]) -> Result<Vec<SideRecord>, PatchError> {
    let entries = set.iter().filter(|applied| applied.side).flat_map(|applied| &applied.patch.header().tensors);
    let names: BTreeSet<&str> = entries.map(|entry| entry.name.as_str()).collect();
    let written: BTreeSet<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let mut records = Vec::new();
    for name in names.difference(&written) {
        let before = state.ledger().and_then(|ledger| ledger.side_tensors.iter().find(|record| record.name == **name));
        let base_blake3 = plan::base_digest(state, name, "")?;
        if let Some(weight) = state.model.weight(name) {
            plan::check_base(state, set, weight, &base_blake3)?;
        }
        if let Some(before) = before.filter(|before| before.base_blake3 != base_blake3) {
            return Err(PatchError::Changed {
                model: state.model.path().to_owned(),
                tensor: (*name).to_owned(),
                expected: before.base_blake3.clone(),
                found: base_blake3,
            });
        }
        records.push(SideRecord { name: (*name).to_owned(), base_blake3 });
    }
    Ok(records)
}

/// Settings of quantized models for older loaders. Who writes such a model anew makes them; here they stay.
const SETTINGS: [&str; 2] = ["quantize_config.json", "quant_config.json"];

/// Copies into a target folder what no patch touches.
fn copy_rest(state: &State, plan: &Plan, is_base: bool, target: &Path) -> Result<(), PatchError> {
    let Some(folder) = &state.folder else { return Ok(()) };
    let touched = plan.files().keys().map(|file| file_name(file)).collect::<Result<Vec<&str>, _>>()?;
    for name in folder.names()? {
        let is_left = state.model.left_behind().contains(&name) && !SETTINGS.contains(&name.as_str());
        if touched.contains(&name.as_str()) || name == MANIFEST_NAME || is_left {
            continue;
        }
        let path = target.join(&name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(FileError::io(parent, "create"))?;
        }
        let copied = match folder.directory() {
            Some(directory) => fs::copy(directory.join(&name), &path).map(|_| ()),
            None => fs::write(&path, &*folder.bytes(&name)?),
        };
        copied.map_err(FileError::io(&path, "write"))?;
    }
    if is_base && let Some(manifest) = base_manifest(state)? {
        let path = target.join(MANIFEST_NAME);
        fs::write(&path, manifest).map_err(FileError::io(&path, "write"))?;
    }
    Ok(())
}

/// A weight file in the making: touched tensors at their places, everything else copied from the source.
pub(crate) struct Output<'a> {
    path: PathBuf,
    file: File,
    source: &'a Bytes,
    /// Ranges that are copied, in order.
    kept: Vec<Range<usize>>,
}

/// Bytes hashed at a time.
const CHECK_BYTES: usize = 32 << 20;

/// Bytes copied at a time.
const COPY_BYTES: usize = 8 << 20;

impl<'a> Output<'a> {
    fn create(path: &Path, state: &'a State, tensors: &[usize]) -> Result<Self, PatchError> {
        let parts = tensors.iter().flat_map(|&index| state.model.weights()[index].stored_parts());
        let mut parts: Vec<(&Bytes, Range<usize>)> = parts.collect();
        let Some(&(source, _)) = parts.first() else {
            unreachable!("a file is written because a tensor in it is touched");
        };
        parts.sort_unstable_by_key(|(_, range)| range.start);
        let (mut kept, mut place) = (Vec::with_capacity(parts.len() + 1), 0);
        for (_, range) in parts {
            kept.push(place..range.start.max(place));
            place = range.end.max(place);
        }
        kept.push(place..source.len());
        let file = File::create(path).map_err(FileError::io(path, "create"))?;
        file.set_len(source.len() as u64).map_err(FileError::io(path, "write"))?;
        Ok(Self { path: path.to_owned(), file, source, kept })
    }

    /// What is put next goes to this place of the file.
    pub(crate) fn go_to(&mut self, place: usize) -> Result<(), PatchError> {
        let moved = self.file.seek(SeekFrom::Start(place as u64));
        moved.map(|_| ()).map_err(|error| FileError::io(&self.path, "write")(error).into())
    }

    /// Writes bytes of a touched tensor in place of those of the source.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<(), PatchError> {
        Ok(self.file.write_all(bytes).map_err(FileError::io(&self.path, "write"))?)
    }

    fn finish(mut self) -> Result<(), PatchError> {
        for range in std::mem::take(&mut self.kept) {
            self.go_to(range.start)?;
            for start in range.clone().step_by(COPY_BYTES) {
                let piece = start..range.end.min(start + COPY_BYTES);
                self.put(&self.source[piece.clone()])?;
                self.source.release(piece);
            }
        }
        Ok(())
    }
}

/// Undo records in the making.
pub(crate) struct UndoFile {
    path: PathBuf,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    pub(crate) length: u64,
}

impl UndoFile {
    fn create(path: &Path) -> Result<Self, PatchError> {
        let file = File::create(path).map_err(FileError::io(path, "create"))?;
        Ok(Self { path: path.to_owned(), file: BufWriter::new(file), hasher: blake3::Hasher::new(), length: 0 })
    }

    pub(crate) fn put(&mut self, record: &[u8]) -> Result<(), PatchError> {
        self.file.write_all(record).map_err(FileError::io(&self.path, "write"))?;
        self.hasher.update(record);
        self.length += record.len() as u64;
        Ok(())
    }

    fn finish(mut self) -> Result<String, PatchError> {
        self.file.flush().map_err(FileError::io(&self.path, "write"))?;
        Ok(self.hasher.finalize().to_string())
    }
}
