//! The command line as other programs see it: exit status, standard output, standard error.
//!
//! - [`help`]: what every verb says about itself, committed as snapshots, and that it fits a terminal.
//! - [`usage`]: command lines that are refused, and how.
//! - [`images`]: classifiers of images, corruptions, signatures of the bundled one.
//! - [`json`]: what `--json` promises whatever the verb.
//! - [`streams`]: color, closed pipes, full disks.
//! - [`signals`]: Ctrl-C once, twice, and under `nohup`.
//! - [`bench`]: kernels on this machine.
//! - [`care`]: what no output replaces, and numbers that no type may lose.
//! - [`convert`]: containers, from one to another.
//! - [`engines`]: what would not load in an engine.
//! - [`evaluate`]: `calibrate` and `eval` on the bundled model.
//! - [`foreign`]: files of older and other writers, and values that a type does not hold.
//! - [`fused`]: layers that engines compute as one.
//! - [`generate`]: completion scripts and manual pages.
//! - [`guided`]: quantizing by activation statistics.
//! - [`hostile`]: files that no honest program writes.
//! - [`linear`]: its weights as packed matrices of the library.
//! - [`patch`]: patches extracted, added, rescaled and taken off.
//! - [`patch_coded`]: patches on quantized models.
//! - [`patch_names`]: which names stand for a model that can be patched.
//! - `patch_killed`: models that are patched in place by a process that is killed.
//! - [`patch_sequences`]: random sequences of patches on every kind of base.
//! - [`quantize`]: what becomes of a model, scheme by scheme.
//! - [`readme`]: examples of the README on the bundled model.
//! - [`resume`]: the same bytes however a run goes, and what stands in the way of a target.
//!
//! A snapshot that should change is written again by `REWEIGHT_UPDATE_SNAPSHOTS=1 cargo test --test cli`; the difference
//! is then read in the commit.

mod support;
mod synthetic;

mod bench;
mod blocks;
mod care;
mod chat;
mod confidence;
mod convert;
mod engines;
mod evaluate;
mod foreign;
mod fused;
mod generate;
mod guided;
mod help;
mod hostile;
mod images;
mod json;
mod linear;
mod logits;
mod patch;
mod patch_adapters;
mod patch_coded;
#[cfg(target_os = "linux")]
mod patch_killed;
mod patch_names;
mod patch_sequences;
mod plan;
mod quantize;
mod readme;
#[cfg(target_os = "linux")]
mod resume;
#[cfg(target_os = "linux")]
mod signals;
mod streams;
mod usage;
