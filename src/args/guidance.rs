//! What `quantize` goes by besides the weights: a method, statistics or text, and how they are used.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args as Group, ValueEnum, ValueHint};

/// Activation statistics for `quantize`: gathered before, or from text.
#[derive(Clone, Debug, PartialEq, Group)]
pub(crate) struct Guidance {
    /// Statistics of `calibrate`, or an imatrix
    #[arg(long, value_name = "STATS", value_hint = ValueHint::FilePath, conflicts_with = "text")]
    pub(crate) stats: Option<PathBuf>,

    /// Gather statistics over these files
    ///
    /// Text, or .jsonl with a text or a list of token ids a line.
    #[arg(long, value_name = "FILE", num_args = 1.., value_hint = ValueHint::FilePath)]
    pub(crate) text: Vec<PathBuf>,

    /// With --text, tokens to take, evenly over files
    #[arg(long, value_name = "N", default_value = "65536", hide_short_help = true)]
    pub(crate) tokens: NonZeroUsize,

    /// With --text, tokens of a window, at most
    #[arg(long, value_name = "N", default_value = "512", hide_short_help = true)]
    pub(crate) context: NonZeroUsize,

    /// With --text, what goes into a block [quantized, original]
    ///
    /// What the blocks before it give once they are quantized, or what they gave before. Default: `quantized`; `original`, which takes
    /// one pass of the text less, for `search` and with --paper.
    #[arg(long, value_enum, value_name = "WHAT", hide_possible_values = true, hide_short_help = true)]
    pub(crate) propagate: Option<Propagate>,

    /// What scales are searched by [moments, gram]
    ///
    /// The error of outputs told from the mean of x^2 of each channel, or exactly, from x x^T; that takes longer, and statistics
    /// with --gram.
    #[arg(long, value_enum, value_name = "WHAT", default_value_t, hide_default_value = true)]
    #[arg(hide_possible_values = true, hide_short_help = true)]
    pub(crate) objective: Objective,

    /// Factors of channels to try [plain, duo, both]
    ///
    /// Powers of the mean of |x|, or these divided by powers of the mean of the weights. Leaving channels alone is always tried.
    #[arg(long, value_enum, value_name = "FORM", default_value_t, hide_default_value = true)]
    #[arg(hide_possible_values = true, hide_short_help = true)]
    pub(crate) scales: Scales,

    /// With --method awq and --text, the published algorithm
    ///
    /// As a baseline: 20 exponents judged by the outputs of attention and feed-forward, ranges from minimum to maximum, clipped.
    #[arg(long, hide_short_help = true, requires = "text")]
    pub(crate) paper: bool,

    /// Keep the statistics in TARGET
    ///
    /// With 8 bits it is a master, from which any smaller model is made without the original: `quantize` and `plan` go by what it
    /// keeps where neither --stats nor --text is given.
    #[arg(long, hide_short_help = true)]
    pub(crate) keep_stats: bool,

    /// Write the scaled model unquantized, for other tools
    #[arg(long, hide_short_help = true)]
    pub(crate) only_fold: bool,

    /// Also write the factors of every channel (.safetensors)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, hide_short_help = true)]
    pub(crate) scales_out: Option<PathBuf>,
}

/// How the stored values of a quantized tensor are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Method {
    /// The range of each group, and the nearest value
    Rtn,
    /// The range with the least squared error, and the nearest value
    #[default]
    Search,
    /// Channels scaled by their activations, then search
    Awq,
    /// Search; what lies between two values goes where outputs are better
    Confident,
    /// Awq, then as confident
    AwqConfident,
    /// Search, and rounding that compensates its errors
    Gptq,
    /// Awq and gptq together
    Best,
}

/// What goes into a block while text goes through the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Propagate {
    /// What the quantized blocks before it give
    Quantized,
    /// What the blocks before it gave unquantized
    Original,
}

/// What errors of a layer's outputs are told by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Objective {
    /// The mean of x^2 of each channel
    #[default]
    Moments,
    /// The mean of x x^T
    Gram,
}

/// Forms of the factors of channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scales {
    /// Powers of the mean of |x|
    #[default]
    Plain,
    /// Divided by powers of the mean of the weights
    Duo,
    /// Whichever is better
    Both,
}
