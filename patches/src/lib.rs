//! Patches of model weights: extract, add, rescale, stack in any order, and take off again byte for byte.
//!
//! Patched weights are one function of the base and the *set* of patches with their strengths ([`function`]): neither the
//! order in which patches came nor what was applied in between can be told from them. What is needed to go back is kept
//! in a ledger beside the weights ([`ledger`]), coded against what the patches themselves foretell ([`undo`]).
//!
//! [`open`] reads a model with its ledger, [`rewrite()`] writes it anew with another set of patches. Patches come from
//! [`signature`] (Robust Weight Signatures), [`difference`] and [`adapter`] (PEFT), all as one kind of file
//! ([`patch::Patch`]).

#![expect(
    clippy::inline_always,
    reason = "a loop takes on an instruction set by being inlined in `vectorized`, which enables it"
)]

pub mod adapter;
pub mod affine;
pub mod compare;
pub mod difference;
pub mod error;
pub mod function;
pub mod layers;
pub mod ledger;
pub mod low_rank;
pub mod packed;
pub mod patch;
pub mod place;
pub mod rewrite;
pub mod scope;
pub mod shards;
pub mod side;
pub mod signature;
pub mod state;
pub mod svd;
mod tensor;
pub mod undo;
pub mod update;
pub mod values;
pub mod verify;

pub use error::PatchError;
pub use ledger::Ledger;
pub use patch::Patch;
pub use rewrite::{Control, Outcome, rewrite};
pub use state::{Applied, State, open};
