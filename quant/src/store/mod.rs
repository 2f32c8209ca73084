//! Files: mapped for reading, streamed and renamed for writing.

mod bytes;
pub mod disk;
pub mod float8;
pub mod folder;
mod ggml_rows;
pub mod gguf;
pub mod model;
pub mod natural;
pub mod rename;
pub mod safetensors;
mod scaling;
pub mod weight;

pub use bytes::Bytes;
pub use ggml_rows::GgmlRows;
pub use model::{Model, ModelLayout};
pub use scaling::{Addition, Scaling};
pub use weight::{Storage, Weight};
