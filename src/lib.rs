//! Quantize and patch model weights: smaller models you can trust.
//!
//! This crate is the command line's home and a facade over the libraries: [`quant`] maps, plans, quantizes and writes;
//! [`patches`] adds to it and takes off again; [`model`] runs it; [`awq`] scales its channels; [`blocks`] quantizes it while
//! text goes through; [`demo`] is the bundled model.
//!
//! ```
//! use reweight::quant::plan::{Method, Plan, PlanOptions};
//! use reweight::quant::store::Model;
//!
//! let model = Model::open_folder(&reweight::demo::folder())?;
//! let plan = Plan::new(&model, &PlanOptions::new("int4-g64".parse()?, Method::Search))?;
//! assert!(plan.bytes_out < plan.bytes_in / 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod awq;
pub mod awq_paper;
pub mod blocks;
pub mod calibrate;
pub mod chat;
pub mod demo;
pub mod eval;
pub mod model;
pub mod sensitivity;
pub mod text;

pub use reweight_patches as patches;
pub use reweight_quant as quant;
