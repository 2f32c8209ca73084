//! The home of reversible weight patches: signatures, adapters, and the ledger that takes them off again.
//!
//! This version has none of them; the crate exists so that its place in the dependency order is fixed: it builds on
//! `reweight-quant`, and the command line builds on it.
