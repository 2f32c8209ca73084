//! The bundled model: a small Llama trained on the Rust book, in the program itself. Its card is `assets/demo/README.md`.

use reweight_quant::store::folder::{BundledFile, Folder};

/// The word that stands for it on the command line.
pub const NAME: &str = "demo";

macro_rules! bundled {
    ($($name:literal),* $(,)?) => {
        &[$(BundledFile { name: $name, bytes: include_bytes!(concat!("../assets/demo/", $name)) }),*]
    };
}

const FILES: &[BundledFile] =
    bundled!["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",];

/// The model's folder.
#[must_use]
pub fn folder() -> Folder {
    Folder::bundled(NAME, FILES)
}

/// A slice of the training text, for calibration: UTF-8.
pub const CALIBRATION_TEXT: &str = include_str!("../assets/demo/text/calibration.txt");

/// Text the model never saw, for evaluation: UTF-8.
pub const HELDOUT_TEXT: &str = include_str!("../assets/demo/text/heldout.txt");
