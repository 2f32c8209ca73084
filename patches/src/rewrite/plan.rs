//! What a run will touch, and everything that can be refused before a byte is written.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use reweight_quant::manifest::Manifest;
use reweight_quant::store::Weight;

use crate::patch::Entry;
use crate::tensor::{Target, find, release};
use crate::{Applied, PatchError, State, side};

/// Which tensors of which files a run touches.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Positions of weights in the order of their file.
    files: BTreeMap<PathBuf, Vec<usize>>,
    /// The same, for people, in natural order of names.
    pub tensors: Vec<Planned>,
}

/// A tensor that a run touches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
    /// Patches that will be on it; none where it becomes the base again.
    pub patches: Vec<String>,
}

impl Plan {
    pub(crate) const fn files(&self) -> &BTreeMap<PathBuf, Vec<usize>> {
        &self.files
    }

    /// Bytes of everything that is touched.
    #[must_use]
    pub fn touched_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes).sum()
    }
}

/// Looks at names, shapes, types and bases, and says what a run would touch.
///
/// Cost: reads tensors once where a patch says which base it was made for.
///
/// # Errors
/// `PatchError`, as the run itself would meet, but for weights that changed and values that overflow.
pub fn plan(state: &State, set: &[Applied]) -> Result<Plan, PatchError> {
    let plan = outline(state, set)?;
    let quantized_from = sources(state)?;
    for applied in set {
        for entry in &applied.patch.header().tensors {
            if wants_base(state, applied, entry) {
                let found = base_digest(state, &entry.name, &applied.name)?;
                is_base(state, applied, entry, &found, &quantized_from)?;
            }
        }
    }
    Ok(plan)
}

/// The same without reading weights: bases are compared by the run itself.
///
/// # Errors
/// As [`plan`], but for another base.
pub fn outline(state: &State, set: &[Applied]) -> Result<Plan, PatchError> {
    let model = &state.model;
    let mut touched: BTreeSet<usize> = BTreeSet::new();
    for record in state.ledger().iter().flat_map(|ledger| &ledger.tensors) {
        let position = model.position(&record.name);
        touched.insert(position.ok_or_else(|| PatchError::Ledger {
            path: state.ledger_path(),
            what: format!("tensor {:?} is not in the model", record.name),
        })?);
    }
    for applied in set {
        for entry in &applied.patch.header().tensors {
            let weight = find(model, &entry.name, &applied.name)?;
            applied.patch.check_shape(entry, weight, model.path())?;
            if applied.side {
                side::check(applied, entry)?;
                continue;
            }
            Target::of(weight, model.path())?;
            touched.extend(model.position(&entry.name));
        }
    }
    let mut plan = Plan { files: BTreeMap::new(), tensors: Vec::with_capacity(touched.len()) };
    for index in touched {
        let weight = &model.weights()[index];
        Target::of(weight, model.path())?;
        plan.files.entry(weight.file().to_owned()).or_default().push(index);
        let on = set.iter().filter(|applied| !applied.side && applied.patch.entry(&weight.name).is_some());
        plan.tensors.push(Planned {
            name: weight.name.clone(),
            bytes: weight.stored_bytes() as u64,
            patches: on.map(|applied| applied.name.clone()).collect(),
        });
    }
    for tensors in plan.files.values_mut() {
        tensors.sort_by_key(|&index| {
            let parts = model.weights()[index].stored_parts();
            parts.first().map_or((0, 0), |(_, range)| (range.start, range.end))
        });
        check_apart(state, tensors)?;
    }
    Ok(plan)
}

/// Requires that no byte belongs to two tensors.
fn check_apart(state: &State, tensors: &[usize]) -> Result<(), PatchError> {
    let weights = state.model.weights();
    let parts =
        tensors.iter().flat_map(|&index| weights[index].stored_parts().into_iter().map(move |part| (index, part.1)));
    let mut places: Vec<(usize, Range<usize>)> = parts.filter(|(_, range)| !range.is_empty()).collect();
    places.sort_unstable_by_key(|(_, range)| range.start);
    match places.windows(2).find(|pair| pair[0].1.end > pair[1].1.start) {
        None => Ok(()),
        Some(pair) => Err(PatchError::Storage {
            model: Path::to_owned(state.model.path()),
            tensor: weights[pair[1].0].name.clone(),
            found: format!("bytes shared with tensor {:?}", weights[pair[0].0].name),
        }),
    }
}

/// Whether a patch says which base it was made for, and that was not compared when it came.
fn wants_base(state: &State, applied: &Applied, entry: &Entry) -> bool {
    let is_on = || state.patches().iter().any(|on| on.patch.digest() == applied.patch.digest());
    entry.base_blake3.is_some() && !applied.transfer && !is_on()
}

fn is_base(
    state: &State,
    applied: &Applied,
    entry: &Entry,
    found: &str,
    quantized_from: &HashMap<String, String>,
) -> Result<(), PatchError> {
    match &entry.base_blake3 {
        Some(expected) if found != expected && quantized_from.get(&entry.name) != Some(expected) => {
            Err(PatchError::OtherBase {
                patch: applied.name.clone(),
                model: Path::to_owned(state.model.path()),
                tensor: entry.name.clone(),
                expected: expected.as_str().into(),
                found: found.into(),
            })
        }
        _ => Ok(()),
    }
}

/// Requires that a tensor's base is the one that patches were made for.
///
/// # Errors
/// `PatchError::OtherBase`.
pub(super) fn check_base(state: &State, set: &[Applied], weight: &Weight, found: &str) -> Result<(), PatchError> {
    for applied in set {
        if let Some(entry) = applied.patch.entry(&weight.name).filter(|entry| wants_base(state, applied, entry))
            && entry.base_blake3.as_deref() != Some(found)
        {
            is_base(state, applied, entry, found, &sources(state)?)?;
        }
    }
    Ok(())
}

/// Of each tensor that the base's manifest speaks of, the digest of what it was quantized from. One that was scaled before has another.
fn sources(state: &State) -> Result<HashMap<String, String>, PatchError> {
    let manifest = super::base_manifest(state)?.and_then(|bytes| serde_json::from_slice::<Manifest>(&bytes).ok());
    let tensors = manifest.into_iter().flat_map(|manifest| manifest.tensors);
    Ok(tensors.map(|tensor| (tensor.name, tensor.source_blake3)).collect())
}

pub(super) fn base_digest(state: &State, tensor: &str, patch: &str) -> Result<String, PatchError> {
    if let Some(record) = state.record(tensor) {
        return Ok(record.base_blake3.clone());
    }
    let weight = find(&state.model, tensor, patch)?;
    let digest = weight.digest().to_string();
    release(weight);
    Ok(digest)
}
