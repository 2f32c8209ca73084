//! A target in the making, written in stages: what one stage quantized can be read before the next one decides.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::check;
use super::journal::{Earlier, Journal};
use super::shards::{self, Shards, shard_name};
use super::staging::Staging;
use super::target::check_target;
use super::work::Work;
use super::{Control, Outcome, Record, StagingOptions, Target};
use crate::error::{Error, FileError, RunError};
use crate::manifest::Manifest;
use crate::plan::Plan;
use crate::stats::Statistics;
use crate::store::model::{CONFIG_NAME, MANIFEST_NAME};
use crate::store::{Model, Weight};

/// Writes the tensors of a plan, some at a time, and lets the target appear when all are there.
///
/// Where an error is returned, no target appears, and finished tensors wait for a run with `resume`.
pub struct Writer<'a> {
    plan: &'a Plan,
    target: Target<'a>,
    fsync: bool,
    control: &'a Control<'a>,
    staging: Staging,
    shards: Shards,
    journal: Mutex<Journal>,
    earlier: Earlier,
    records: HashMap<String, Record>,
    /// What the target's configuration says of how it is quantized.
    config: Option<Value>,
    n_resumed: usize,
    peak_anonymous_bytes: usize,
}

impl<'a> Writer<'a> {
    /// Opens the staging folder beside the target, and the shards in it at their final sizes.
    ///
    /// # Errors
    /// `PlanError` for a target that may not be written, `RunError::Busy`, `RunError::OtherJournal`, `FileError::Io`.
    pub fn open(
        model: &Model,
        plan: &'a Plan,
        target: Target<'a>,
        options: StagingOptions,
        control: &'a Control<'a>,
    ) -> Result<Self, Error> {
        check_target(model, target.path, options.force)?;
        let staging = Staging::open(target.path, options)?;
        let (journal, earlier) = Journal::open(staging.partial(), &plan.fingerprint())?;
        let shards = Shards::open(staging.partial(), plan)?;
        Ok(Self {
            plan,
            target,
            fsync: options.fsync,
            control,
            staging,
            shards,
            journal: Mutex::new(journal),
            earlier,
            records: HashMap::new(),
            config: quantization_config(model, plan),
            n_resumed: 0,
            peak_anonymous_bytes: 0,
        })
    }

    /// Takes over those of some tensors, by their order in the plan, that an earlier run finished: whose bytes, in the shard and in
    /// `model`, are still what was recorded. Returns whether all of them are finished now.
    ///
    /// # Errors
    /// `FileError::Io`.
    pub fn take_over(&mut self, model: &Model, indices: &[usize]) -> Result<bool, Error> {
        let mut all = true;
        for &index in indices {
            let weight = &model.weights()[index];
            if let Some(record) = self.earlier.records.remove(&weight.name)
                && self.shards.digests(self.plan, index)? == record.outputs
                && weight.digest().to_string() == record.source
            {
                weight.release_rows(0..weight.rows());
                (self.control.progress)(&weight.name, weight.stored_bytes() as u64);
                self.n_resumed += 1;
                self.records.insert(record.name.clone(), record);
            }
            all &= self.records.contains_key(&weight.name);
        }
        Ok(all)
    }

    /// Makes some tensors, by their order in the plan, that are not finished: of `model`, by statistics of its layers' inputs.
    ///
    /// # Errors
    /// [`Error`].
    pub fn stage(&mut self, model: &Model, statistics: Option<&Statistics>, indices: &[usize]) -> Result<(), Error> {
        self.take_over(model, indices)?;
        let name = |index: usize| self.plan.tensors[index].name.as_str();
        let left: Vec<usize> =
            indices.iter().copied().filter(|index| !self.records.contains_key(name(*index))).collect();
        let work = Work::new(model, self.plan, statistics, &self.shards, &self.journal, self.control);
        let made = work.run(&left).map_err(|error| if error.is_interrupted() { self.interrupted() } else { error })?;
        self.peak_anonymous_bytes = self.peak_anonymous_bytes.max(work.peak_anonymous_bytes());
        self.records.extend(made.into_iter().map(|record| (record.name.clone(), record)));
        Ok(())
    }

    /// What to return where the run was asked to stop.
    #[must_use]
    pub fn interrupted(&self) -> Error {
        RunError::Interrupted { partial: self.staging.partial().to_owned() }.into()
    }

    /// Finished tensors, by their order in the plan, as a reader of the target will see them.
    ///
    /// # Errors
    /// `FileError`.
    pub fn written(&self, indices: &[usize]) -> Result<Vec<Weight>, Error> {
        let mut weights = Vec::with_capacity(indices.len());
        for shard in 0..self.plan.n_shards {
            let planned = indices.iter().map(|index| &self.plan.tensors[*index]).filter(|tensor| tensor.shard == shard);
            let names: Vec<&str> =
                planned.flat_map(|tensor| &tensor.outputs).map(|output| output.name.as_str()).collect();
            if !names.is_empty() {
                let path = self.staging.partial().join(shard_name(shard, self.plan.n_shards));
                weights.extend(Model::open_tensors(&path, self.config.as_ref(), |name| names.contains(&name))?);
            }
        }
        Ok(weights)
    }

    /// Keeps something for a run that goes on from here.
    ///
    /// # Errors
    /// `FileError::Io`.
    pub fn note(&mut self, name: &str, value: &impl Serialize) -> Result<(), Error> {
        let Ok(value) = serde_json::to_value(value) else { return Ok(()) };
        Ok(self.journal.get_mut().unwrap_or_else(PoisonError::into_inner).note(name, value)?)
    }

    /// What an earlier run noted; `None` also where it reads as something else.
    #[must_use]
    pub fn noted<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_value(self.earlier.notes.get(name)?.clone()).ok()
    }

    /// Writes what goes beside the weights, reads everything back, checks it, and lets the target appear by rename.
    ///
    /// # Errors
    /// [`Error`]: `RunError::Mismatch` where a tensor was not made, or is not what it was made as from `model`.
    pub fn finish(mut self, model: &Model) -> Result<Outcome, Error> {
        let plan = self.plan;
        let records: Vec<Record> = plan.tensors.iter().filter_map(|tensor| self.records.remove(&tensor.name)).collect();
        let side_files = write_side_files(model, plan, self.staging.partial(), self.target)?;
        let manifest = Manifest::new(model, plan, &records, side_files);
        let checked = check::check(model, plan, self.staging.partial(), self.target, &records, self.control);
        checked.map_err(|error| if error.is_interrupted() { self.interrupted() } else { error })?;
        if !self.target.single_file {
            write_file(self.staging.partial(), MANIFEST_NAME, manifest.to_json().as_bytes())?;
        }
        self.journal.into_inner().unwrap_or_else(PoisonError::into_inner).remove()?;
        let single = self.target.single_file.then(|| shard_name(0, 1));
        self.staging.commit(single.as_deref(), self.fsync)?;
        let (n_resumed, peak_anonymous_bytes) = (self.n_resumed, self.peak_anonymous_bytes);
        Ok(Outcome { manifest, n_resumed, peak_anonymous_bytes })
    }
}

/// The part of the target's configuration that tells how it is quantized: the rest may be large.
fn quantization_config(model: &Model, plan: &Plan) -> Option<Value> {
    const KEY: &str = "quantization_config";
    let own = plan.config(model)?.get_mut(KEY).map(Value::take)?;
    Some(json!({ KEY: own }))
}

/// Writes configuration, index and carried files; returns their digests by name.
fn write_side_files(
    model: &Model,
    plan: &Plan,
    folder: &Path,
    target: Target<'_>,
) -> Result<Vec<(String, String)>, FileError> {
    let mut digests = Vec::new();
    if target.single_file {
        return Ok(digests);
    }
    let mut write = |name: &str, bytes: &[u8]| {
        digests.push((name.to_owned(), blake3::hash(bytes).to_string()));
        write_file(folder, name, bytes)
    };
    if let Some(config) = plan.config(model) {
        write(CONFIG_NAME, format!("{config:#}\n").as_bytes())?;
    }
    if let Some((name, settings)) = plan.settings_file() {
        write(name, format!("{settings:#}\n").as_bytes())?;
    }
    if let Some((name, text)) = shards::index(plan) {
        write(&name, text.as_bytes())?;
    }
    for file in model.side_files()? {
        write(&file.name, &file.bytes)?;
    }
    digests.sort();
    Ok(digests)
}

fn write_file(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), FileError> {
    let path = folder.join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(FileError::io(parent, "create"))?;
    }
    fs::write(&path, bytes).map_err(FileError::io(&path, "write"))
}
