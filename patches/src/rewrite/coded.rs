//! One quantized tensor: its base restored from the bytes that were kept, the set applied to the values that it stands for, and those
//! quantized again in its own scheme.
//!
//! Stored is `requantize(dequantize(base) + sum of strength * change)`, a function of base and set alone. Nothing of the base can be
//! foretold from it, so the ledger keeps the base's own bytes, as what they differ in where that is shorter.

use std::iter;

use rayon::prelude::*;
use reweight_quant::kernels::best;
use reweight_quant::requantize::{Requantized, requantize};
use reweight_quant::store::gguf::GgmlType;
use reweight_quant::store::{Storage, Weight};

use super::plan::check_base;
use super::tensor::{Written, check_digests};
use super::{Control, Output, UndoFile};
use crate::function::Function;
use crate::ledger::{ChangeEnergy, TensorRecord};
use crate::tensor::{PIECE, release};
use crate::undo::{BYTES_PIECE, decode_bytes, encode_bytes};
use crate::values::round_to_odd;
use crate::{Applied, PatchError, State, state};

/// Writes one quantized tensor.
///
/// # Errors
/// `PatchError::Changed`, `Restore`, `RunError::NonFinite`, `Interrupted`, `FileError::Io`.
pub(super) fn write(
    state: &State,
    set: &[Applied],
    weight: &Weight,
    output: &mut Output<'_>,
    undo_file: Option<&mut UndoFile>,
    control: &Control<'_>,
) -> Result<Written, PatchError> {
    control.check_stop()?;
    let base = restored(state, weight)?;
    let now = if state.record(&weight.name).is_some() { weight.digest().to_string() } else { String::new() };
    let base = base.ok_or_else(|| broken(state, weight, &now))?;
    let base_digest = base.digest().to_string();
    check_digests(state, weight, &now, &base_digest)?;
    check_base(state, set, weight, &base_digest)?;
    let base_parts: Vec<&[u8]> = base.stored_parts().iter().map(|(bytes, range)| &bytes[range.clone()]).collect();
    let function = state::function(set, weight, state.model.path())?;
    let (Some(function), Some(undo_file)) = (function, undo_file) else {
        put(weight, output, &base_parts)?;
        (control.progress)(&weight.name, weight.stored_bytes() as u64);
        release(weight);
        return Ok(Written { digest: base_digest, record: None });
    };
    let Requantized { parts, energy } = patched(&base, function)?;
    let new_parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    let undo_offset = undo_file.length;
    let mut undo_lengths = Vec::new();
    for record in records(state, weight, &base_parts, &new_parts)? {
        undo_lengths.push(record.len() as u32);
        undo_file.put(&record)?;
    }
    put(weight, output, &new_parts)?;
    let mut hasher = blake3::Hasher::new();
    for part in &new_parts {
        hasher.update_rayon(part);
    }
    let digest = hasher.finalize().to_string();
    (control.progress)(&weight.name, weight.stored_bytes() as u64);
    release(weight);
    let record = TensorRecord {
        name: weight.name.clone(),
        base_blake3: base_digest,
        patched_blake3: digest.clone(),
        bytes: weight.stored_bytes() as u64,
        undo_offset,
        undo_lengths,
        energy: Some(ChangeEnergy { wanted: energy.wanted, lost: energy.lost }),
    };
    Ok(Written { digest, record: Some(record) })
}

/// The digests of a tensor as it is and of the base that comes of it.
///
/// # Errors
/// As [`write`].
pub(super) fn restored_digest(state: &State, weight: &Weight) -> Result<(String, String), PatchError> {
    let base = restored(state, weight)?;
    let digests = (weight.digest().to_string(), base.map_or_else(String::new, |base| base.digest().to_string()));
    release(weight);
    Ok(digests)
}

/// The base of a tensor; `None` where its undo records are none.
fn restored(state: &State, weight: &Weight) -> Result<Option<Weight>, PatchError> {
    let Some(record) = state.record(&weight.name) else { return Ok(Some(weight.clone())) };
    let n_pieces = weight.stored_parts().iter().map(|(_, range)| range.len().div_ceil(BYTES_PIECE)).sum();
    let records = state.undo(record, n_pieces).ok_or_else(|| PatchError::Ledger {
        path: state.ledger_path(),
        what: format!("tensor {:?}: another number of undo records than pieces", weight.name),
    })?;
    let mut parts: Vec<Vec<u8>> =
        weight.stored_parts().iter().map(|(bytes, range)| bytes[range.clone()].to_vec()).collect();
    let pieces: Vec<&mut [u8]> = parts.iter_mut().flat_map(|part| part.chunks_mut(BYTES_PIECE)).collect();
    let decoded = pieces.into_par_iter().zip(records).map(|(piece, record)| decode_bytes(record, piece));
    let decoded: Option<()> = decoded.collect();
    Ok(decoded.map(|()| weight.with_parts(parts)))
}

/// What a tensor without a way back is: changed since, or under a ledger that does not fit.
fn broken(state: &State, weight: &Weight, now: &str) -> PatchError {
    check_digests(state, weight, now, "nothing").err().unwrap_or_else(|| PatchError::Restore {
        model: state.model.path().to_owned(),
        tensor: weight.name.clone(),
        expected: "a way back".to_owned(),
        found: "none".to_owned(),
    })
}

/// Memory of one thread.
#[derive(Default)]
struct Scratch {
    base: Vec<f64>,
    sum: Vec<f64>,
    values: Vec<f64>,
    buffer: Vec<f64>,
}

/// The base with a set applied.
fn patched(base: &Weight, mut function: Function<'_>) -> Result<Requantized, PatchError> {
    let columns = base.columns();
    learn(base, &mut function);
    // Of the types of GGUF that are no blocks, those of 16 bits must be rounded once, and what comes between is f32.
    let to_odd = matches!(&base.storage, Storage::Ggml(rows) if matches!(rows.ty, GgmlType::F16 | GgmlType::BF16));
    let change = |scratch: &mut Scratch, row: usize, base: &[f32], wanted: &mut [f32]| {
        let Scratch { base: wide, sum, values, buffer } = scratch;
        wide.clear();
        wide.extend(base.iter().map(|&value| f64::from(value)));
        for buffer in [&mut *sum, &mut *values, &mut *buffer] {
            buffer.resize(columns, 0.0);
        }
        function.sum(row * columns, sum, buffer);
        function.apply(row * columns, wide, sum, values, buffer);
        for (wanted, &value) in wanted.iter_mut().zip(&*values) {
            *wanted = if to_odd { round_to_odd(value) } else { value as f32 };
        }
    };
    Ok(requantize(best(), base, change)?)
}

/// Shows the base to a function that must have seen all of it first, in order.
fn learn(base: &Weight, function: &mut Function<'_>) {
    if !function.depends_on_base() {
        return;
    }
    let columns = base.columns();
    let step = (PIECE / columns.max(1)).max(1);
    let mut values = Vec::new();
    for start in (0..base.rows()).step_by(step) {
        let rows = start..base.rows().min(start + step);
        values.resize(rows.len() * columns, 0.0);
        base.read_rows(best(), rows, &mut values);
        let wide: Vec<f64> = values.iter().map(|&value| value.into()).collect();
        function.learn(start * columns, &wide);
    }
}

/// Undo records, each tried.
fn records(state: &State, weight: &Weight, base: &[&[u8]], new: &[&[u8]]) -> Result<Vec<Vec<u8>>, PatchError> {
    let pairs = iter::zip(base, new).flat_map(|(base, new)| base.chunks(BYTES_PIECE).zip(new.chunks(BYTES_PIECE)));
    let pairs: Vec<(&[u8], &[u8])> = pairs.collect();
    let records: Option<Vec<Vec<u8>>> = pairs
        .into_par_iter()
        .map(|(base, new)| {
            let record = encode_bytes(base, new);
            let mut back = new.to_vec();
            decode_bytes(&record, &mut back).filter(|()| back == base).map(|()| record)
        })
        .collect();
    records.ok_or_else(|| broken(state, weight, ""))
}

fn put(weight: &Weight, output: &mut Output<'_>, parts: &[&[u8]]) -> Result<(), PatchError> {
    for ((_, range), part) in weight.stored_parts().into_iter().zip(parts) {
        output.go_to(range.start)?;
        output.put(part)?;
    }
    Ok(())
}
