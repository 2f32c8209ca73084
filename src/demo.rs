//! The bundled models, in the program itself: a small Llama trained on the Rust book (`assets/demo/README.md` is its card), and a small
//! classifier of images trained on Fashion-MNIST with signatures that make it robust (`assets/demo-vision/README.md`).

use std::path::Path;

use reweight_quant::store::Bytes;
use reweight_quant::store::folder::{BundledFile, Folder};

/// The word that stands for the classifier, its test images and the folder of its signatures on the command line.
pub const VISION: &str = "demo-vision";

/// The word that stands for it on the command line.
pub const NAME: &str = "demo";

macro_rules! bundled {
    ($folder:literal, $($name:literal),* $(,)?) => {
        &[$(BundledFile { name: $name, bytes: include_bytes!(concat!("../assets/", $folder, "/", $name)) }),*]
    };
}

const FILES: &[BundledFile] = bundled![
    "demo",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json"
];

const VISION_FILES: &[BundledFile] = bundled!["demo-vision", "config.json", "model.safetensors"];

/// Files beside the classifier, by their names under [`VISION`].
const VISION_SIDE: &[BundledFile] = bundled![
    "demo-vision",
    "images.safetensors",
    "signatures/contrast.safetensors",
    "signatures/gaussian_blur.safetensors",
    "signatures/gaussian_noise.safetensors",
    "signatures/impulse_noise.safetensors",
];

/// The folder of the model of that name, where it is bundled.
#[must_use]
pub fn folder_of(name: &Path) -> Option<Folder> {
    match name.to_str()? {
        NAME => Some(folder()),
        VISION => Some(Folder::bundled(VISION, VISION_FILES)),
        _ => None,
    }
}

/// The language model's folder.
#[must_use]
pub fn folder() -> Folder {
    Folder::bundled(NAME, FILES)
}

/// A file beside the classifier by its path under `demo-vision`: `demo-vision/images.safetensors`, or `demo-vision` alone, are its test
/// images.
#[must_use]
pub fn vision_file(path: &Path) -> Option<Bytes> {
    let rest = path.strip_prefix(VISION).ok()?.to_str()?;
    let name = if rest.is_empty() { "images.safetensors" } else { rest };
    VISION_SIDE.iter().find(|file| file.name == name).map(|file| Bytes::from_static(file.bytes))
}

/// A slice of the training text, for calibration: UTF-8.
pub const CALIBRATION_TEXT: &str = include_str!("../assets/demo/text/calibration.txt");

/// Text the model never saw, for evaluation: UTF-8.
pub const HELDOUT_TEXT: &str = include_str!("../assets/demo/text/heldout.txt");
