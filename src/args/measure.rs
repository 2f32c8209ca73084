//! Verbs that run a model or the kernels, and measure.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args as Group, ValueHint};
use reweight::chat::Date;
use reweight::eval::corruption::Corruptions;

use super::value;

/// Gather activation statistics of a model
///
/// Runs the model over text and writes, for the input of each linear layer, the sums of |x| and x^2 of every channel. Sums are exact:
/// files of two texts merge to that of both, byte for byte. A name ending in .gguf or .dat is written, and read by --merge, as
/// an importance matrix of llama.cpp, which holds the sums of x^2 alone.
#[derive(Debug, PartialEq, Group)]
#[command(after_long_help = "\
Examples:
  reweight calibrate demo stats.safetensors
  reweight calibrate ./model stats.safetensors --text a.txt b.jsonl
  reweight calibrate ./model stats.safetensors --text talks.jsonl --chat
  reweight calibrate imatrix.gguf --merge a.safetensors b.safetensors")]
pub(crate) struct Calibrate {
    /// Folder or .gguf file; with --merge, the file to write
    #[arg(value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    pub(crate) model: PathBuf,

    /// File to write; must not exist without --force
    #[arg(value_name = "STATS", value_hint = ValueHint::AnyPath)]
    pub(crate) stats: Option<PathBuf>,

    /// Text files, or .jsonl with a text a line
    ///
    /// A line may hold a list of token ids instead. Documents are cut in windows; none is dropped for being long. The bundled model has a text of its own.
    #[arg(long, value_name = "FILE", num_args = 1.., value_hint = ValueHint::FilePath)]
    pub(crate) text: Vec<PathBuf>,

    /// Tokens to take, evenly over texts
    #[arg(long, value_name = "N", default_value = "65536")]
    pub(crate) tokens: NonZeroUsize,

    /// Tokens of a window, at most
    #[arg(long, value_name = "N", default_value = "512")]
    pub(crate) context: NonZeroUsize,

    /// Which windows are taken where there are more
    #[arg(long, value_name = "N", default_value = "0")]
    pub(crate) seed: u64,

    /// Field of each line of .jsonl that holds the text [default: text, messages with --chat]
    #[arg(long, value_name = "NAME", value_hint = ValueHint::Other)]
    pub(crate) field: Option<String>,

    /// Take conversations, put through the model's chat template
    ///
    /// Each line of .jsonl holds a list of messages, and may hold a list of `tools`. The template is the model's own, run without
    /// files, clock or network, and its special tokens are taken as such. Other files are refused.
    #[arg(long)]
    pub(crate) chat: bool,

    /// The day that the chat template is told
    ///
    /// Without it a template that asks for the date takes its own default, or is an error: the same command gives the same
    /// statistics on any day.
    #[arg(long, value_name = "YYYY-MM-DD", requires = "chat", value_hint = ValueHint::Other)]
    pub(crate) chat_date: Option<Date>,

    /// Also sum x x^T of every input
    ///
    /// A matrix as wide as the input for each, which error-compensating rounding needs.
    #[arg(long)]
    pub(crate) gram: bool,

    /// Add up statistics instead of gathering them
    #[arg(long, value_name = "FILE", num_args = 1.., value_hint = ValueHint::FilePath)]
    #[arg(conflicts_with_all = ["text", "gram", "chat"])]
    pub(crate) merge: Vec<PathBuf>,

    /// Replace the file if it exists
    #[arg(long)]
    pub(crate) force: bool,
}

/// Measure what a model predicts
///
/// Runs the model over text, in windows of tokens that do not overlap, and prints the mean loss of every token but the first
/// of each window, in nats. With --reference, also how far its predictions are from those of another model, such as the
/// one it was made from. An encoder is compared by its sentence embeddings, a sentence a line. A classifier of images is measured
/// on --images: how many are right, clean and corrupted, and how well it knows.
#[derive(Debug, PartialEq, Group)]
#[command(after_long_help = "\
Examples:
  reweight eval ./model-int4 --text held-out.txt --reference ./model
  reweight eval ./model --text held-out.txt --save-logits model.logits
  reweight eval ./int4 --text held-out.txt --reference model.logits --json
  reweight eval demo-vision --corruption impulse_noise:4 contrast --ood ./mnist")]
pub(crate) struct Eval {
    /// Folder or .gguf file
    #[arg(value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    pub(crate) model: PathBuf,

    /// Text files, or .jsonl with a text a line
    ///
    /// A line may hold a list of token ids instead. The bundled model has a text of its own that it never saw.
    #[arg(long, value_name = "FILE", num_args = 1.., value_hint = ValueHint::FilePath)]
    pub(crate) text: Vec<PathBuf>,

    /// Compare with the predictions of this model, or with saved ones
    ///
    /// A file that --save-logits made over the same text, --context and --max-tokens gives the figures that the model itself
    /// would, without running it.
    #[arg(long, value_name = "MODEL | FILE", value_hint = ValueHint::AnyPath)]
    pub(crate) reference: Option<PathBuf>,

    /// Keep the model's logits, to be a --reference later
    ///
    /// Four bytes for each predicted token and each entry of the vocabulary; how much it will be is said beforehand. The
    /// file appears when it is complete, and must not exist without --force.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) save_logits: Option<PathBuf>,

    /// Replace the file of --save-logits if it exists
    #[arg(long, requires = "save_logits")]
    pub(crate) force: bool,

    /// Tokens of a window [default: 1024, or all positions]
    #[arg(long, value_name = "N")]
    pub(crate) context: Option<NonZeroUsize>,

    /// Take at most this many tokens, evenly over texts
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<NonZeroUsize>,

    /// Field of each line of .jsonl that holds the text
    #[arg(long, value_name = "NAME", default_value = "text", value_hint = ValueHint::Other)]
    pub(crate) field: String,

    /// Images with their classes
    ///
    /// An IDX file as of MNIST, packed or not, with its labels beside it; the folder of both; or a .safetensors file with `images` (U8, [n,
    /// rows, columns] or [n, channels, rows, columns]) and `labels`. The bundled classifier has 500 test images of its own.
    #[arg(long, value_name = "SET", value_hint = ValueHint::AnyPath)]
    #[arg(conflicts_with_all = ["text", "context", "max_tokens", "save_logits"])]
    pub(crate) images: Option<PathBuf>,

    /// Measure on corrupted images too
    ///
    /// Corruptions of MNIST-C for grey images, at severities of 1 to 5: a name alone is every severity, `all` every corruption. The mean
    /// corruption error is the mean over corruptions of the mean error over their severities.
    #[arg(long, value_name = "NAME[:SEVERITY]", num_args = 1.., conflicts_with = "text", value_hint = ValueHint::Other)]
    pub(crate) corruption: Vec<Corruptions>,

    /// What corruptions draw their random numbers by
    #[arg(long, value_name = "N", default_value = "0", conflicts_with = "text", hide_short_help = true)]
    pub(crate) corruption_seed: u64,

    /// Tell the images from those of another set
    ///
    /// By the energy of the logits, and by the distance of features from those of the classes (Mahalanobis): the area under the ROC curve.
    /// Means and covariance are those of every second image; the others are scored.
    #[arg(long, value_name = "SET", conflicts_with = "text", value_hint = ValueHint::AnyPath)]
    pub(crate) ood: Option<PathBuf>,

    /// Exit 1 if the loss is above
    ///
    /// The loss in nats a token; with --reference the mean divergence in nats, for encoders one minus the mean cosine; for images the
    /// share of errors without corruption.
    #[arg(long, value_name = "NATS", value_parser = value::error_bound, allow_negative_numbers = true)]
    pub(crate) fail_above: Option<f64>,
}

/// Measure the kernels on this machine
///
/// Times every kernel of every table this machine has, in turns, beside what one thread reads and copies of memory; the
/// figures are medians. --kernels and --threads measure one table, or one number of threads.
#[derive(Debug, PartialEq, Group)]
#[command(after_long_help = "\
Examples:
  reweight bench --quick
  reweight bench softmax --quick --sizes 1024,4096 --threads 1 --json
  reweight bench matvec --quick")]
pub(crate) struct Bench {
    /// What to measure [default: everything]
    ///
    /// `softmax`: algorithms and kinds of store, out of place and in place, and input in half the width; `log-softmax`, `stablemax`:
    /// out of place. `quantize`: bf16 weights to int4 in groups of 128 by rtn and search; `dequantize`: back to f32; sizes
    /// are weights, in rows of up to 4096. `matvec`: a vector through packed matrices
    /// of 2, 3, 4 and 8 bits that exceed the caches, with f32 and int8 activations; sizes are its own.
    #[arg(value_name = "OP", value_hint = ValueHint::Other)]
    pub(crate) ops: Vec<String>,

    /// Elements of a row, separated by commas
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = value::bench_size)]
    #[arg(value_hint = ValueHint::Other)]
    pub(crate) sizes: Vec<usize>,

    /// Elements of all rows [default: one row]
    #[arg(long, value_name = "N", value_parser = value::bench_size)]
    pub(crate) total: Option<usize>,

    /// Turns of each kernel [default: 7]
    #[arg(long, value_name = "N", value_parser = value::bench_rounds)]
    pub(crate) rounds: Option<usize>,

    /// Take seconds; the figures mean little
    #[arg(long)]
    pub(crate) quick: bool,
}
