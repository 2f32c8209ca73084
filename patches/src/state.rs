//! A model with what is on it: weights, ledger, patches, undo records, all mapped.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use reweight_quant::store::folder::Folder;
use reweight_quant::store::{Bytes, Model, ModelLayout, Weight};

use crate::function::Function;
use crate::ledger::{self, Ledger, PatchRecord, TensorRecord};
use crate::place::Place;
use crate::tensor::find;
use crate::update::{Recovered, recover};
use crate::{Patch, PatchError, scope, side};

/// A patch with its strength, on a model or about to be.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The name it goes by.
    pub name: String,
    /// The patch.
    pub patch: Arc<Patch>,
    /// Its strength.
    pub strength: f64,
    /// Whether it may be on another base than it was made for.
    pub transfer: bool,
    /// Whether it stays beside the weights, whose bytes are not touched.
    pub side: bool,
}

/// An opened model with its ledger.
#[derive(Debug)]
pub struct State {
    pub(crate) model: Model,
    pub(crate) folder: Option<Folder>,
    pub(crate) place: Place,
    pub(crate) recovered: Option<Recovered>,
    patches: Vec<Applied>,
    ledger: Option<Ledger>,
    records: HashMap<String, usize>,
    undo: Bytes,
}

/// Opens a model folder, a `.safetensors` or a `.gguf` file with its ledger, and finishes or removes an update that a killed process left.
///
/// Cost: reads headers, the ledger and its patches, and hashes the latter and the undo records; no weights.
///
/// # Errors
/// `PatchError`: a model or ledger that cannot be read, a ledger that is not as it was written, or a name that stands for a part of a model.
pub fn open(path: &Path) -> Result<State, PatchError> {
    let place = Place::of(path);
    let recovered = recover(&place)?;
    let model = Model::open(path)?;
    scope::check_whole(&model, &place)?;
    match model.layout() {
        ModelLayout::Folder => State::new(model, Some(Folder::on_disk(path)), place, recovered),
        ModelLayout::Gguf if path.is_dir() => State::new(model, Some(Folder::on_disk(path)), place, recovered),
        ModelLayout::Gguf | ModelLayout::Safetensors => State::new(model, None, place, recovered),
    }
}

/// Opens a model as its readers see it: with the patches that its ledger keeps beside the weights.
///
/// Cost: as `Model::open`, and where there is a ledger that of [`open`].
///
/// # Errors
/// As [`open`]; `ScopeError::Unfinished` for an update that was killed after its commit, which only verbs that patch carry through.
pub fn open_with_side_terms(path: &Path) -> Result<Model, PatchError> {
    let (model, place) = (Model::open(path)?, Place::of(path));
    scope::check_read(&model, &place)?;
    let is_folder = path.is_dir();
    if !Ledger::read(&place.ledger)?.is_some_and(|ledger| ledger.patches.iter().any(|patch| patch.side)) {
        return Ok(model);
    }
    let state = State::new(model, is_folder.then(|| Folder::on_disk(path)), place, None)?;
    for applied in state.patches.iter().filter(|applied| applied.side) {
        for entry in &applied.patch.header().tensors {
            let weight = find(&state.model, &entry.name, &applied.name)?;
            applied.patch.check_shape(entry, weight, path)?;
            side::check(applied, entry)?;
        }
    }
    Ok(side::attach(&state))
}

/// Opens a folder that may live in the program itself; such a one has no ledger.
///
/// # Errors
/// As [`open`].
pub fn open_bundled(folder: Folder) -> Result<State, PatchError> {
    let place = Place::of_folder(folder.root());
    State::new(Model::open_folder(&folder)?, Some(folder), place, None)
}

impl State {
    fn new(
        model: Model,
        folder: Option<Folder>,
        place: Place,
        recovered: Option<Recovered>,
    ) -> Result<Self, PatchError> {
        let on_disk = folder.as_ref().is_none_or(|folder| folder.directory().is_some());
        let ledger = if on_disk { Ledger::read(&place.ledger)? } else { None };
        let (mut patches, mut undo, mut records) = (Vec::new(), Bytes::from_static(&[]), HashMap::new());
        if let Some(ledger) = &ledger {
            patches = ledger.patches.iter().map(|record| stored(&place.ledger, record)).collect::<Result<_, _>>()?;
            undo = Bytes::map(&place.ledger.join(ledger::UNDO))?;
            check_undo(&place.ledger.join(ledger::UNDO), ledger, &undo)?;
            records = ledger.tensors.iter().enumerate().map(|(index, tensor)| (tensor.name.clone(), index)).collect();
        }
        Ok(Self { model, folder, place, recovered, patches, ledger, records, undo })
    }

    /// The weights as they are now.
    #[must_use]
    pub const fn model(&self) -> &Model {
        &self.model
    }

    /// The ledger, where a patch is on it.
    #[must_use]
    pub const fn ledger(&self) -> Option<&Ledger> {
        self.ledger.as_ref()
    }

    /// What is on it, by digest.
    #[must_use]
    pub fn patches(&self) -> &[Applied] {
        &self.patches
    }

    /// What was done about an update that a killed process left.
    #[must_use]
    pub const fn recovered(&self) -> Option<Recovered> {
        self.recovered
    }

    /// The folder of its ledger.
    #[must_use]
    pub fn ledger_path(&self) -> PathBuf {
        self.place.ledger.clone()
    }

    /// The ledger, which there must be.
    ///
    /// # Errors
    /// `PatchError::NoLedger`.
    pub fn require_ledger(&self) -> Result<&Ledger, PatchError> {
        self.ledger.as_ref().ok_or_else(|| PatchError::NoLedger { model: self.model.path().to_owned() })
    }

    /// The patch that goes by a name, or whose digest begins with it.
    ///
    /// # Errors
    /// `PatchError::NoLedger`, `PatchError::NotOn`.
    pub fn position(&self, name: &str) -> Result<usize, PatchError> {
        self.require_ledger()?;
        let by_name = self.patches.iter().position(|applied| applied.name == name);
        let by_digest = || {
            let mut found =
                self.patches.iter().enumerate().filter(|(_, applied)| applied.patch.digest().starts_with(name));
            found.next().filter(|_| name.len() >= 8 && found.next().is_none()).map(|(index, _)| index)
        };
        by_name.or_else(by_digest).ok_or_else(|| PatchError::NotOn {
            patch: name.to_owned(),
            model: self.model.path().to_owned(),
            names: self.patches.iter().map(|applied| applied.name.clone()).collect(),
        })
    }

    /// The set that is on the model, with another patch.
    ///
    /// # Errors
    /// `PatchError::AlreadyOn`.
    pub fn with(&self, mut set: Vec<Applied>, new: Applied) -> Result<Vec<Applied>, PatchError> {
        if let Some(same) = set.iter().find(|applied| applied.patch.digest() == new.patch.digest()) {
            let (patch, strength) = (same.name.clone(), same.strength);
            return Err(PatchError::AlreadyOn { patch, model: self.model.path().to_owned(), strength });
        }
        let taken = |name: &str| set.iter().any(|applied| applied.name == name);
        let names = std::iter::once(new.name.clone()).chain((2..).map(|count| format!("{}-{count}", new.name)));
        let name = names.into_iter().find(|name| !taken(name)).unwrap_or_default();
        set.push(Applied { name, ..new });
        Ok(set)
    }

    pub(crate) fn record(&self, tensor: &str) -> Option<&TensorRecord> {
        let ledger = self.ledger.as_ref()?;
        self.records.get(tensor).map(|&index| &ledger.tensors[index])
    }

    /// Undo records of a tensor, one a piece; `None` where there are more or fewer than it has pieces.
    pub(crate) fn undo(&self, record: &TensorRecord, n_pieces: usize) -> Option<Vec<&[u8]>> {
        let mut place = record.undo_offset as usize;
        let records = record.undo_lengths.iter().map(|&length| {
            let start = place;
            place += length as usize;
            &self.undo[start..place]
        });
        (record.undo_lengths.len() == n_pieces).then(|| records.collect())
    }
}

/// What a set of patches makes of a tensor; `None` where none changes its bytes.
pub(crate) fn function<'a>(
    set: &'a [Applied],
    weight: &Weight,
    model: &Path,
) -> Result<Option<Function<'a>>, PatchError> {
    let mut order: Vec<&Applied> = set.iter().collect();
    order.sort_by(|a, b| a.patch.digest().cmp(b.patch.digest()));
    let mut function = Function::default();
    let mut any = false;
    for applied in order {
        if let Some(entry) = applied.patch.entry(&weight.name).filter(|_| !applied.side) {
            applied.patch.check_shape(entry, weight, model)?;
            function.push(applied.strength, applied.patch.term(entry, &weight.shape));
            any = true;
        }
    }
    Ok(any.then_some(function))
}

fn stored(folder: &Path, record: &PatchRecord) -> Result<Applied, PatchError> {
    let path = folder.join(ledger::patch_file(&record.blake3));
    let patch = Patch::open(&path)?;
    if patch.digest() != record.blake3 {
        let what = format!("was edited: expected digest {}, found {}", record.blake3, patch.digest());
        return Err(PatchError::Ledger { path, what });
    }
    let PatchRecord { name, strength, transfer, side, .. } = record.clone();
    Ok(Applied { name, patch: Arc::new(patch), strength, transfer, side })
}

fn check_undo(path: &Path, ledger: &Ledger, undo: &Bytes) -> Result<(), PatchError> {
    let wrong = |what| Err(PatchError::Ledger { path: path.to_owned(), what });
    if undo.len() as u64 != ledger.undo_bytes {
        return wrong(format!("expected {} bytes, found {}", ledger.undo_bytes, undo.len()));
    }
    let found = undo.digest().to_string();
    if found != ledger.undo_blake3 {
        return wrong(format!("was edited: expected digest {}, found {found}", ledger.undo_blake3));
    }
    Ok(())
}
