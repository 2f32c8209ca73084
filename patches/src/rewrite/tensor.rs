//! One tensor: its base restored, the set applied, the way back coded and tried, all in batches of pieces.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;
use reweight_quant::kernels::vectorized;
use reweight_quant::store::Weight;

use super::{Control, Output, UndoFile};
use crate::function::Function;
use crate::ledger::TensorRecord;
use crate::tensor::{FloatTensor, PIECE};
use crate::undo::Coder;
use crate::values::Float;
use crate::{Applied, PatchError, State, state};

/// Pieces worked on before they are hashed and written, in order: 16 MiB of f32.
const BATCH: usize = 32;

/// What became of a tensor.
#[derive(Clone, Debug)]
pub(super) struct Written {
    /// BLAKE3 of what was written.
    pub(super) digest: String,
    /// What the ledger keeps; `None` where it is the base again.
    pub(super) record: Option<TensorRecord>,
}

/// A tensor with what is on it and what is to be on it.
struct Work<'a> {
    tensor: FloatTensor<'a>,
    old: Option<(Function<'a>, Vec<&'a [u8]>)>,
    new: Option<Function<'a>>,
    /// Memory that no thread uses at the moment.
    idle: Mutex<Vec<Scratch>>,
}

/// Elements computed at a time: what lies between stays in the first cache. Whole groups of packed changes.
const BLOCK: usize = 1024;

/// Memory of one thread.
struct Scratch {
    values: [Vec<f64>; 4],
    predicted: Vec<u8>,
    guess: Vec<u8>,
    coder: Coder,
}

impl Default for Scratch {
    fn default() -> Self {
        let values = std::array::from_fn(|_| vec![0.0; BLOCK]);
        Self { values, predicted: Vec::new(), guess: Vec::new(), coder: Coder::default() }
    }
}

impl Scratch {
    /// Room for so many elements: base, values, sum, and memory to use.
    fn block(&mut self, n: usize) -> [&mut [f64]; 4] {
        self.values.each_mut().map(|values| &mut values[..n])
    }
}

/// Ranges of a piece, of at most [`BLOCK`] elements: where each begins, and its bytes.
fn blocks(n_bytes: usize, width: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    (0..n_bytes).step_by(BLOCK * width).map(move |start| (start / width, start..n_bytes.min(start + BLOCK * width)))
}

/// What stops a piece.
#[derive(Clone, Copy, Debug)]
enum Broken {
    /// An undo record that is none.
    Record,
    /// A patched value that is not finite: its index in the piece and the value.
    Overflow(usize, f64),
    /// A record that does not lead back.
    NoWayBack,
}

impl Broken {
    /// The same, so many elements further on.
    const fn after(self, offset: usize) -> Self {
        match self {
            Self::Overflow(index, value) => Self::Overflow(index + offset, value),
            other => other,
        }
    }
}

/// Writes one tensor of floating-point elements.
///
/// # Errors
/// `PatchError::Changed`, `Restore`, `Overflow`, `Interrupted`, `FileError::Io`.
pub(super) fn write(
    state: &State,
    set: &[Applied],
    tensor: FloatTensor<'_>,
    output: &mut Output<'_>,
    undo_file: Option<&mut UndoFile>,
    control: &Control<'_>,
) -> Result<Written, PatchError> {
    let weight = tensor.weight;
    let mut work = Work::new(state, set, tensor)?;
    work.learn(state)?;
    output.go_to(work.tensor.place())?;
    let (n, width) = (work.tensor.n_elements(), work.tensor.float.bytes());
    let undo_offset = undo_file.as_ref().map_or(0, |undo| undo.length);
    let mut sink = Sink::new(output, undo_file.filter(|_| work.new.is_some()), work.old.is_some());
    // One batch is computed while the one before is hashed and written.
    let (mut ready, mut free) = (None, Batch::default());
    for start in (0..n).step_by(BATCH * PIECE) {
        control.check_stop()?;
        free.size(start, (BATCH * PIECE).min(n - start) * width, work.new.is_some());
        let (stored, computed) = rayon::join(
            || ready.take().map(|batch| sink.store(&work.tensor, batch)),
            || {
                let records = work.batch(start, &mut free.base, &mut free.patched);
                records.map_err(|(piece, broken)| work.error(state, piece * PIECE, broken))
            },
        );
        let back = stored.transpose()?;
        free.records = computed?;
        (control.progress)(&weight.name, free.base.len() as u64);
        ready = Some(std::mem::replace(&mut free, back.unwrap_or_default()));
    }
    ready.map(|batch| sink.store(&work.tensor, batch)).transpose()?;
    work.tensor.release();
    for applied in set.iter().chain(state.patches()) {
        applied.patch.release(&weight.name);
    }
    let Sink { now, base, patched, undo_lengths, .. } = sink;
    let (now, base) = (now.finalize().to_string(), base.finalize().to_string());
    check_digests(state, weight, &now, &base)?;
    super::plan::check_base(state, set, weight, &base)?;
    let Some(_) = &work.new else { return Ok(Written { digest: base, record: None }) };
    let digest = patched.finalize().to_string();
    let record = TensorRecord {
        name: weight.name.clone(),
        base_blake3: base,
        patched_blake3: digest.clone(),
        bytes: (n * width) as u64,
        undo_offset,
        undo_lengths,
        energy: None,
    };
    Ok(Written { digest, record: Some(record) })
}

/// Pieces that follow one another, computed.
#[derive(Default)]
struct Batch {
    /// Its first element.
    start: usize,
    base: Vec<u8>,
    patched: Vec<u8>,
    records: Vec<Vec<u8>>,
}

impl Batch {
    fn size(&mut self, start: usize, n_bytes: usize, is_patched: bool) {
        self.start = start;
        self.base.resize(n_bytes, 0);
        self.patched.resize(if is_patched { n_bytes } else { 0 }, 0);
    }
}

/// Where batches go, in order, and what is told of them.
struct Sink<'a, 'o> {
    output: &'a mut Output<'o>,
    undo_file: Option<&'a mut UndoFile>,
    was_patched: bool,
    now: blake3::Hasher,
    base: blake3::Hasher,
    patched: blake3::Hasher,
    undo_lengths: Vec<u32>,
}

impl<'a, 'o> Sink<'a, 'o> {
    fn new(output: &'a mut Output<'o>, undo_file: Option<&'a mut UndoFile>, was_patched: bool) -> Self {
        let [now, base, patched] = std::array::from_fn(|_| blake3::Hasher::new());
        Self { output, undo_file, was_patched, now, base, patched, undo_lengths: Vec::new() }
    }

    /// Hashes and writes a batch, and gives its memory back.
    fn store(&mut self, tensor: &FloatTensor<'_>, batch: Batch) -> Result<Batch, PatchError> {
        if self.was_patched {
            self.now.update_rayon(tensor.bytes(batch.start, batch.base.len() / tensor.float.bytes()));
        }
        self.base.update_rayon(&batch.base);
        match &mut self.undo_file {
            Some(undo) => {
                self.patched.update_rayon(&batch.patched);
                self.output.put(&batch.patched)?;
                for record in &batch.records {
                    self.undo_lengths.push(record.len() as u32);
                    undo.put(record)?;
                }
            }
            None => self.output.put(&batch.base)?,
        }
        tensor.release_elements(batch.start, batch.base.len() / tensor.float.bytes());
        Ok(batch)
    }
}

/// Compares what was there, and the base that came of it, with the ledger.
pub(super) fn check_digests(state: &State, weight: &Weight, now: &str, base: &str) -> Result<(), PatchError> {
    let Some(record) = state.record(&weight.name) else { return Ok(()) };
    let (model, tensor) = (state.model.path().to_owned(), weight.name.clone());
    if record.patched_blake3 != now {
        let (expected, found) = (record.patched_blake3.clone(), now.to_owned());
        return Err(PatchError::Changed { model, tensor, expected, found });
    }
    if record.base_blake3 != base {
        let (expected, found) = (record.base_blake3.clone(), base.to_owned());
        return Err(PatchError::Restore { model, tensor, expected, found });
    }
    Ok(())
}

/// The digests of a tensor as it is and of the base that comes of it, without writing anything.
///
/// # Errors
/// As a rewrite would meet.
pub(super) fn restored_digest(state: &State, tensor: FloatTensor<'_>) -> Result<(String, String), PatchError> {
    let work = Work::new(state, &[], tensor)?;
    let (n, width) = (work.tensor.n_elements(), work.tensor.float.bytes());
    let [mut now, mut base] = std::array::from_fn(|_| blake3::Hasher::new());
    let mut base_bytes = vec![0; n.min(BATCH * PIECE) * width];
    for start in (0..n).step_by(BATCH * PIECE) {
        let len = (BATCH * PIECE).min(n - start);
        base_bytes.truncate(len * width);
        let restored = work.batch(start, &mut base_bytes, &mut []);
        now.update_rayon(work.tensor.bytes(start, len));
        // A record that is none gives no base; the digest of nothing says so.
        if restored.is_ok() {
            base.update_rayon(&base_bytes);
        }
    }
    work.tensor.release();
    Ok((now.finalize().to_string(), base.finalize().to_string()))
}

impl<'a> Work<'a> {
    fn new(state: &'a State, set: &'a [Applied], tensor: FloatTensor<'a>) -> Result<Self, PatchError> {
        let weight = tensor.weight;
        let old = match state.record(&weight.name) {
            None => None,
            Some(record) => {
                let n_pieces = tensor.n_elements().div_ceil(PIECE);
                let wrong = |what: &str| PatchError::Ledger {
                    path: state.ledger_path(),
                    what: format!("tensor {:?}: {what}", weight.name),
                };
                let records =
                    state.undo(record, n_pieces).ok_or_else(|| wrong("another number of undo records than pieces"))?;
                let function = state::function(state.patches(), weight, state.model.path())?;
                Some((function.ok_or_else(|| wrong("no patch changes it"))?, records))
            }
        };
        let new = state::function(set, weight, state.model.path())?;
        Ok(Self { tensor, old, new, idle: Mutex::default() })
    }

    /// Shows the base to a function that must have seen all of it first, in order.
    fn learn(&mut self, state: &State) -> Result<(), PatchError> {
        if !self.new.as_ref().is_some_and(Function::depends_on_base) {
            return Ok(());
        }
        let (n, width) = (self.tensor.n_elements(), self.tensor.float.bytes());
        let mut scratch = Scratch::default();
        let mut bytes = Vec::new();
        for start in (0..n).step_by(PIECE) {
            bytes.resize(PIECE.min(n - start) * width, 0);
            self.restore(start, &mut bytes, &mut scratch).map_err(|broken| self.error(state, start, broken))?;
            let base = self.tensor.float.values(&bytes);
            if let Some(new) = &mut self.new {
                new.learn(start, &base);
            }
        }
        Ok(())
    }

    /// Restores and patches a batch of pieces on all threads; returns their undo records in order, or the first piece that
    /// stops it.
    fn batch(&self, start: usize, base: &mut [u8], patched: &mut [u8]) -> Result<Vec<Vec<u8>>, (usize, Broken)> {
        let piece_bytes = PIECE * self.tensor.float.bytes();
        let first = start / PIECE;
        let one = |index: usize, base: &mut [u8], patched: &mut [u8]| {
            let mut scratch = self.idle().pop().unwrap_or_default();
            let done = self.piece((first + index) * PIECE, base, patched, &mut scratch);
            self.idle().push(scratch);
            done.map_err(|broken| (first + index, broken))
        };
        let pieces = base.par_chunks_mut(piece_bytes);
        let results: Vec<Result<Vec<u8>, (usize, Broken)>> = if patched.is_empty() {
            pieces.enumerate().map(|(index, base)| one(index, base, &mut [])).collect()
        } else {
            let pieces = pieces.zip(patched.par_chunks_mut(piece_bytes)).enumerate();
            pieces.map(|(index, (base, patched))| one(index, base, patched)).collect()
        };
        results.into_iter().collect()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Scratch>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn piece(
        &self,
        start: usize,
        base: &mut [u8],
        patched: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<Vec<u8>, Broken> {
        let float = self.tensor.float;
        self.restore(start, base, scratch)?;
        let Some(new) = &self.new else { return Ok(Vec::new()) };
        let mut predicted = std::mem::take(&mut scratch.predicted);
        predicted.resize(base.len(), 0);
        for (offset, place) in blocks(base.len(), float.bytes()) {
            let [wide, values, sum, buffer] = scratch.block(place.len() / float.bytes());
            let (base, patched) = (&base[place.clone()], &mut patched[place.clone()]);
            float.read(base, wide);
            new.sum(start + offset, sum, buffer);
            new.apply(start + offset, wide, sum, values, buffer);
            float.write(values, patched);
            keep_what_is_no_number(float, wide, values, base, patched).map_err(|broken| broken.after(offset))?;
            float.read(patched, wide);
            new.predict(wide, sum, values);
            float.write(values, &mut predicted[place]);
        }
        let record = scratch.coder.encode(float, base, &predicted);
        scratch.guess.clone_from(&predicted);
        scratch.predicted = predicted;
        match scratch.coder.decode(float, &record, &mut scratch.guess) {
            Some(()) if scratch.guess == base => Ok(record),
            _ => Err(Broken::NoWayBack),
        }
    }

    /// The base of a piece.
    fn restore(&self, start: usize, base: &mut [u8], scratch: &mut Scratch) -> Result<(), Broken> {
        let float = self.tensor.float;
        let now = self.tensor.bytes(start, base.len() / float.bytes());
        let Some((old, records)) = &self.old else {
            base.copy_from_slice(now);
            return Ok(());
        };
        for (offset, place) in blocks(base.len(), float.bytes()) {
            let [wide, values, sum, buffer] = scratch.block(place.len() / float.bytes());
            float.read(&now[place.clone()], wide);
            old.sum(start + offset, sum, buffer);
            old.predict(wide, sum, values);
            float.write(values, &mut base[place]);
        }
        scratch.coder.decode(float, records[start / PIECE], base).ok_or(Broken::Record)
    }

    /// What a piece that begins at an element met. Weights that were changed make their records meaningless, so that is looked at first.
    fn error(&self, state: &State, start: usize, broken: Broken) -> PatchError {
        let (model, tensor) = (state.model.path().to_owned(), self.tensor.weight.name.clone());
        let now = self.tensor.digest();
        if let Err(error) = check_digests(state, self.tensor.weight, &now, "nothing")
            && (matches!(error, PatchError::Changed { .. }) || matches!(broken, Broken::Record))
        {
            return error;
        }
        match broken {
            Broken::Overflow(offset, value) => {
                let dtype = self.tensor.float.dtype().name();
                PatchError::Overflow { model, tensor, index: start + offset, value, dtype }
            }
            Broken::Record | Broken::NoWayBack => {
                let expected = "a way back".to_owned();
                PatchError::Restore { model, tensor, expected, found: "none".to_owned() }
            }
        }
    }
}

/// Elements of the base that are no number keep their bits; a number must stay one.
fn keep_what_is_no_number(
    float: Float,
    base: &[f64],
    values: &[f64],
    base_bytes: &[u8],
    patched: &mut [u8],
) -> Result<(), Broken> {
    let limit = match float {
        // Half a unit in the last place above the largest value: what rounds to infinity.
        Float::F64 => f64::MAX,
        Float::F32 => f64::from(f32::MAX) * (1.0 + 2.0_f64.powi(-25)),
        Float::F16 => 65519.0,
        Float::Bf16 => 3.394_615_1e38,
    };
    // Without a way out the loop is done in wide registers.
    let all_fine =
        |values: &[f64]| vectorized(|| values.iter().fold(true, |fine, value| fine & (value.abs() <= limit)));
    if all_fine(base) && all_fine(values) {
        return Ok(());
    }
    let width = float.bytes();
    for (index, (&base, &value)) in base.iter().zip(values).enumerate() {
        let place = index * width..(index + 1) * width;
        if !base.is_finite() {
            patched[place.clone()].copy_from_slice(&base_bytes[place]);
        } else if !float.values(&patched[place])[0].is_finite() {
            return Err(Broken::Overflow(index, value));
        }
    }
    Ok(())
}
