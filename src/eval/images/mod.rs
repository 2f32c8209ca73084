//! Image sets and what classifiers are worth on them.

mod idx;
mod outside;
mod score;
mod set;

pub use outside::{Mahalanobis, area_under_curve, energies};
pub use score::{BINS, ImageScore, agreement, score_images};
pub use set::{ImageSet, ImageSetError};
