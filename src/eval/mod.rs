//! What a model's predictions are worth: loss per token, and distance from a reference.
//!
//! Every token of a window but its first is predicted; the loss of one is minus the logarithm of the probability that the model
//! gave it, in nats. Against a reference, the divergence of one prediction is `KL(reference || model)`, which is
//! `sum q (ln q - ln p)` over the vocabulary, for probabilities q of the reference and p of the model.
//!
//! Of classifiers of images: how many are right, how well confidence tells it, after which corruptions, and what tells other images.
//!
//! Logits are made in slices of the vocabulary and folded into running sums (the online softmax of Milakov and Gimelshein,
//! arXiv 1805.02867), so that memory does not grow with tokens times vocabulary.

pub mod corruption;
mod images;
mod logits;
mod running;
mod score;
mod sentences;

pub use images::{
    BINS, ImageScore, ImageSet, ImageSetError, Mahalanobis, agreement, area_under_curve, energies, score_images,
};
pub use logits::{LogitsOf, LogitsWriter, SavedLogits};
pub use score::{Against, Beside, Reference, Score, Scores, compare, score};
pub use sentences::{cosine, embed};
