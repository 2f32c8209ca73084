//! What a run will touch, and everything that can be refused before a byte is written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::tensor::{FloatTensor, find};
use crate::{Applied, PatchError, State};

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
    pub(super) const fn files(&self) -> &BTreeMap<PathBuf, Vec<usize>> {
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
            let tensor = FloatTensor::of(weight, model.path())?;
            applied.patch.check_shape(entry, &tensor, model.path())?;
            touched.extend(model.position(&entry.name));
        }
    }
    set.iter().filter(|applied| !applied.transfer).try_for_each(|applied| check_base(state, applied))?;
    let mut plan = Plan { files: BTreeMap::new(), tensors: Vec::with_capacity(touched.len()) };
    for index in touched {
        let weight = &model.weights()[index];
        FloatTensor::of(weight, model.path())?;
        plan.files.entry(weight.file().to_owned()).or_default().push(index);
        let on = set.iter().filter(|applied| applied.patch.entry(&weight.name).is_some());
        plan.tensors.push(Planned {
            name: weight.name.clone(),
            bytes: weight.stored_bytes() as u64,
            patches: on.map(|applied| applied.name.clone()).collect(),
        });
    }
    for tensors in plan.files.values_mut() {
        tensors.sort_by_key(|&index| {
            let range = super::plan_range(&model.weights()[index]);
            (range.start, range.end)
        });
    }
    Ok(plan)
}

/// Requires that the base is the one that a patch was made for.
fn check_base(state: &State, applied: &Applied) -> Result<(), PatchError> {
    // A patch that is on already was compared when it came.
    if state.patches().iter().any(|on| on.patch.digest() == applied.patch.digest()) {
        return Ok(());
    }
    for entry in &applied.patch.header().tensors {
        let Some(expected) = &entry.base_blake3 else { continue };
        let found = base_digest(state, &entry.name, &applied.name)?;
        if found != *expected {
            return Err(PatchError::OtherBase {
                patch: applied.name.clone(),
                model: Path::to_owned(state.model.path()),
                tensor: entry.name.clone(),
                expected: expected.as_str().into(),
                found: found.into(),
            });
        }
    }
    Ok(())
}

fn base_digest(state: &State, tensor: &str, patch: &str) -> Result<String, PatchError> {
    if let Some(record) = state.record(tensor) {
        return Ok(record.base_blake3.clone());
    }
    let weight = find(&state.model, tensor, patch)?;
    let tensor = FloatTensor::of(weight, state.model.path())?;
    let digest = tensor.digest();
    tensor.release();
    Ok(digest)
}
