//! Image classifiers: convolutional networks and vision transformers behind one type, from bytes of pixels to class logits.
//!
//! Feature maps are laid out with channels last, so that what a convolution reads at one offset is one run of memory. Images go
//! through on all threads, each alone; results depend on neither the threads nor the other images.

mod convolution;
mod input;
mod maps;
mod network;
mod resnet;
mod steps;
mod vgg;

pub use input::{ImageShape, Pixels};
pub use network::{Classified, Classifier};

/// Model types that are classifiers of images: convolutional networks and transformers.
#[must_use]
pub fn model_types() -> [&'static str; 4] {
    [vgg::MODEL_TYPE, resnet::MODEL_TYPE, "vit", "deit"]
}
