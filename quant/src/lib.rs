//! Map model weights, plan, quantize by group, and write checkpoints that inference engines load.

pub mod error;
pub mod store;
pub mod tensor;
