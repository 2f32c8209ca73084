//! A forward pass in f32, driven by `config.json`, block by block over mapped weights.
//!
//! [`Network::open`] reads the configuration and checks the wiring; [`Network::hidden_states`] takes windows of tokens
//! through every block, one block in memory at a time; [`Head`] makes logits of them. Quantized weights are dequantized
//! as their block is laid out, whatever the container.
//!
//! Results of a window do not depend on the other windows nor on the number of threads. Products are sums in f32 in
//! the order of the inputs; between kernel tables they differ by rounding.

mod architecture;
mod attention;
mod block;
mod config;
mod embedding;
mod error;
mod feed_forward;
mod head;
mod hidden;
mod image;
mod linear;
mod mappings;
mod network;
mod norm;
mod observe;
mod plan;
mod rope;
mod sublayer;
mod tensors;

pub use architecture::known as known_architectures;
pub use error::ModelError;
pub use head::{Head, HeadSlice};
pub use hidden::{HiddenStates, MEMORY_BUDGET};
pub use image::{Classified, Classifier, ImageShape, Pixels, model_types as image_model_types};
pub use network::{Network, Run};
pub use observe::{Nobody, Observe};
pub use sublayer::Sublayer;
