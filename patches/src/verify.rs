//! Whether a patched model is what its ledger says, and whether its base comes back.

use serde::Serialize;

use crate::rewrite::restored_digest;
use crate::{PatchError, State};

/// Something that is not as the ledger says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The tensor.
    pub tensor: String,
    /// What was compared: `patched` or `base`.
    pub what: &'static str,
    /// BLAKE3 that the ledger states.
    pub expected: String,
    /// BLAKE3 that was found.
    pub found: String,
}

/// Hashes every touched tensor, restores its base in memory, and hashes that.
///
/// Cost: reads touched tensors once.
///
/// # Errors
/// `PatchError::NoLedger`; `PatchError::Ledger` where it speaks of tensors that are not there.
pub fn verify(state: &State) -> Result<Vec<Problem>, PatchError> {
    let mut problems = Vec::new();
    for record in &state.require_ledger()?.tensors {
        let weight = state.model().weight(&record.name).ok_or_else(|| PatchError::Ledger {
            path: state.ledger_path(),
            what: format!("tensor {:?} is not in the model", record.name),
        })?;
        let (now, base) = restored_digest(state, weight)?;
        let compared = [("patched", &record.patched_blake3, now), ("base", &record.base_blake3, base)];
        for (what, expected, found) in compared.into_iter().filter(|(_, expected, found)| *expected != found) {
            problems.push(Problem { tensor: record.name.clone(), what, expected: expected.clone(), found });
        }
    }
    for record in &state.require_ledger()?.side_tensors {
        let weight = state.model().weight(&record.name);
        let found = weight.map_or_else(|| "nothing".to_owned(), |weight| weight.digest().to_string());
        if found != record.base_blake3 {
            let (tensor, expected) = (record.name.clone(), record.base_blake3.clone());
            problems.push(Problem { tensor, what: "base", expected, found });
        }
    }
    Ok(problems)
}
