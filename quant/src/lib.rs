//! Map model weights, plan, quantize by group, and write checkpoints that inference engines load.
//!
//! Data goes one way: [`store`] maps files, [`plan`] decides, [`encode`] turns values into codes, [`pack`] knows the
//! container, [`stream`] writes, checks and renames.

pub mod awq;
pub mod budget;
pub mod compensate;
pub mod confidence;
pub mod diff;
pub mod encode;
pub mod engines;
pub mod error;
pub mod fused;
pub mod grid;
pub mod importance;
pub mod limits;
pub mod manifest;
pub mod memory;
pub mod pack;
pub mod pattern;
pub mod plan;
pub mod recipe;
pub mod requantize;
pub mod roles;
pub mod scheme;
pub mod stats;
pub mod store;
pub mod stream;
pub mod tensor;
pub mod verify;

pub use error::Error;
pub use reweight_kernels as kernels;
