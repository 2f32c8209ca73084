//! One tensor: its base restored, the set applied, the way back coded and tried, all in batches of pieces.

use rayon::prelude::*;
use reweight_quant::store::Weight;

use super::{Control, Output, UndoFile};
use crate::function::Function;
use crate::ledger::TensorRecord;
use crate::tensor::{FloatTensor, PIECE};
use crate::values::Float;
use crate::{Applied, PatchError, State, state, undo};

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
}

/// Memory of one thread.
#[derive(Default)]
struct Scratch {
    base: Vec<f64>,
    values: Vec<f64>,
    sum: Vec<f64>,
    buffer: Vec<f64>,
    predicted: Vec<u8>,
    guess: Vec<u8>,
}

impl Scratch {
    fn sized(&mut self, n: usize, width: usize) {
        for values in [&mut self.base, &mut self.values, &mut self.sum, &mut self.buffer] {
            values.resize(n, 0.0);
        }
        self.predicted.resize(n * width, 0);
    }
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

/// Writes one tensor of floating-point elements.
///
/// # Errors
/// `PatchError::Changed`, `Restore`, `Overflow`, `Interrupted`, `FileError::Io`.
pub(super) fn write(
    state: &State,
    set: &[Applied],
    tensor: FloatTensor<'_>,
    output: &mut Output<'_>,
    mut undo_file: Option<&mut UndoFile>,
    control: &Control<'_>,
) -> Result<Written, PatchError> {
    let weight = tensor.weight;
    let mut work = Work::new(state, set, tensor)?;
    work.learn(state)?;
    output.go_to(work.tensor.place())?;
    let (n, width) = (work.tensor.n_elements(), work.tensor.float.bytes());
    let [mut now, mut base, mut patched] = std::array::from_fn(|_| blake3::Hasher::new());
    let undo_offset = undo_file.as_ref().map_or(0, |undo| undo.length);
    let mut undo_lengths = Vec::new();
    let batch = BATCH * PIECE;
    let mut base_bytes = vec![0; n.min(batch) * width];
    let mut patched_bytes = vec![0; if work.new.is_some() { base_bytes.len() } else { 0 }];
    for start in (0..n).step_by(batch) {
        control.check_stop()?;
        let len = batch.min(n - start);
        base_bytes.truncate(len * width);
        patched_bytes.truncate(if work.new.is_some() { len * width } else { 0 });
        let records = work.batch(start, &mut base_bytes, &mut patched_bytes);
        let records = records.map_err(|(piece, broken)| work.error(state, piece * PIECE, broken))?;
        if work.old.is_some() {
            now.update_rayon(work.tensor.bytes(start, len));
        }
        base.update_rayon(&base_bytes);
        if let (Some(undo), Some(_)) = (undo_file.as_mut(), &work.new) {
            patched.update_rayon(&patched_bytes);
            output.put(&patched_bytes)?;
            for record in records {
                undo_lengths.push(record.len() as u32);
                undo.put(&record)?;
            }
        } else {
            output.put(&base_bytes)?;
        }
        (control.progress)(&weight.name, (len * width) as u64);
    }
    work.tensor.release();
    let (now, base) = (now.finalize().to_string(), base.finalize().to_string());
    check_digests(state, weight, &now, &base)?;
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
        Ok(Self { tensor, old, new })
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
            let len = PIECE.min(n - start);
            bytes.resize(len * width, 0);
            scratch.sized(len, width);
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
        let one = |scratch: &mut Scratch, index: usize, base: &mut [u8], patched: &mut [u8]| {
            self.piece((first + index) * PIECE, base, patched, scratch).map_err(|broken| (first + index, broken))
        };
        let results: Vec<Result<Vec<u8>, (usize, Broken)>> = if patched.is_empty() {
            let pieces = base.par_chunks_mut(piece_bytes).enumerate();
            pieces.map_init(Scratch::default, |scratch, (index, base)| one(scratch, index, base, &mut [])).collect()
        } else {
            let pieces = base.par_chunks_mut(piece_bytes).zip(patched.par_chunks_mut(piece_bytes)).enumerate();
            pieces
                .map_init(Scratch::default, |scratch, (index, (base, patched))| one(scratch, index, base, patched))
                .collect()
        };
        results.into_iter().collect()
    }

    fn piece(
        &self,
        start: usize,
        base: &mut [u8],
        patched: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<Vec<u8>, Broken> {
        let float = self.tensor.float;
        scratch.sized(base.len() / float.bytes(), float.bytes());
        self.restore(start, base, scratch)?;
        let Some(new) = &self.new else { return Ok(Vec::new()) };
        float.read(base, &mut scratch.base);
        new.sum(start, &mut scratch.sum, &mut scratch.buffer);
        new.apply(start, &scratch.base, &scratch.sum, &mut scratch.values, &mut scratch.buffer);
        float.write(&scratch.values, patched);
        keep_what_is_no_number(float, &scratch.base, &scratch.values, base, patched)?;
        float.read(patched, &mut scratch.base);
        new.predict(&scratch.base, &scratch.sum, &mut scratch.values);
        float.write(&scratch.values, &mut scratch.predicted);
        let record = undo::encode(float, base, &scratch.predicted);
        scratch.guess.clone_from(&scratch.predicted);
        match undo::decode(float, &record, &mut scratch.guess) {
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
        float.read(now, &mut scratch.base);
        old.sum(start, &mut scratch.sum, &mut scratch.buffer);
        old.predict(&scratch.base, &scratch.sum, &mut scratch.values);
        float.write(&scratch.values, base);
        undo::decode(float, records[start / PIECE], base).ok_or(Broken::Record)
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
    let all_fine = |values: &[f64]| values.iter().all(|value| value.abs() <= limit);
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
