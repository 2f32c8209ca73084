//! What `plan` and `quantize` take where the schemes of tensors are to be chosen within a budget.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args as Group, ValueHint};

use super::value::{self, ShardSize, TensorScheme};
use super::{Guidance, Objective, Scales};

/// A budget, and what may be spent it on.
#[derive(Debug, PartialEq, Group)]
pub(crate) struct Budget {
    /// Choose schemes for this many bits per weight
    ///
    /// Bits of a quantized weight on average, scales and zeros counted, kept tensors not; never more than asked for.
    #[arg(long, value_name = "X", value_parser = value::bits_per_weight, value_hint = ValueHint::Other)]
    #[arg(conflicts_with = "target_size")]
    pub(crate) target_bpw: Option<f64>,

    /// Choose schemes for tensors of this size in all
    ///
    /// Such as 500MB or 2GiB; tensors that are kept count, headers and other files do not.
    #[arg(long, value_name = "SIZE", value_parser = value::shard_size, value_hint = ValueHint::Other)]
    #[arg(hide_short_help = true)]
    pub(crate) target_size: Option<ShardSize>,

    /// Schemes to choose from [default: 2 to 8 bits, any group]
    ///
    /// Names or globs, separated by commas: `int*-g64,int8-channel-sym`. `*-sym` makes folders that transformers loads directly.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_hint = ValueHint::Other, hide_short_help = true)]
    pub(crate) schemes: Vec<String>,

    /// With --text, tokens on which layers are tried
    ///
    /// Each block, and each kind of layer, is quantized alone, and what this does to predictions is measured on so many tokens.
    /// 0 goes by statistics alone.
    #[arg(long, value_name = "N", default_value = "2048", hide_short_help = true)]
    pub(crate) probe_tokens: usize,
}

impl Budget {
    /// Whether there is one.
    pub(crate) const fn is_given(&self) -> bool {
        self.target_bpw.is_some() || self.target_size.is_some()
    }
}

/// Choose a scheme for each tensor within a budget
///
/// Weighs 2 to 8 bits, in groups of 32, 64, 128 or a row, with and without a zero point, by what each does to the outputs of its layer, and
/// takes the choice of least loss that fits. With --text it also measures which layers predictions depend on. Writes a recipe for
/// `quantize --recipe`; the weights stay as they are.
#[derive(Debug, PartialEq, Group)]
#[command(after_long_help = "\
Examples:
  reweight plan ./model --target-bpw 3.5 --recipe-out model.toml
  reweight plan ./model --target-bpw 3 --text a.txt b.txt
  reweight plan ./model --target-size 2GiB --keep '*.down_proj.*' --json")]
pub(crate) struct Plan {
    /// Folder, .safetensors file or .gguf file
    #[arg(value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    pub(crate) model: PathBuf,

    /// The budget.
    #[command(flatten)]
    pub(crate) budget: Budget,

    /// Where the recipe goes (.toml)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) recipe_out: Option<PathBuf>,

    /// Replace the recipe if it exists
    #[arg(long)]
    pub(crate) force: bool,

    /// Statistics of `calibrate`, or an imatrix
    #[arg(long, value_name = "STATS", value_hint = ValueHint::FilePath, conflicts_with = "text")]
    pub(crate) stats: Option<PathBuf>,

    /// Gather statistics over these files, and try layers on them
    ///
    /// Text, or .jsonl with a text or a list of token ids a line.
    #[arg(long, value_name = "FILE", num_args = 1.., value_hint = ValueHint::FilePath)]
    pub(crate) text: Vec<PathBuf>,

    /// With --text, tokens to take, evenly over files
    #[arg(long, value_name = "N", default_value = "65536")]
    pub(crate) tokens: NonZeroUsize,

    /// With --text, tokens of a window, at most
    #[arg(long, value_name = "N", default_value = "512")]
    pub(crate) context: NonZeroUsize,

    /// Keep tensors that match as they are
    ///
    /// The pattern is a glob over names. May be given again.
    #[arg(long, value_name = "PATTERN", value_hint = ValueHint::Other)]
    pub(crate) keep: Vec<String>,

    /// Scheme of the tensors that match
    ///
    /// They count in the budget. May be given again; the last one that matches a tensor counts, and --keep goes before it.
    #[arg(long, value_name = "PATTERN=SCHEME", value_parser = value::tensor_scheme, value_hint = ValueHint::Other)]
    pub(crate) tensor: Vec<TensorScheme>,
}

impl Plan {
    /// What statistics are had from, as `quantize` takes it.
    pub(crate) fn guidance(&self) -> Guidance {
        Guidance {
            stats: self.stats.clone(),
            text: self.text.clone(),
            tokens: self.tokens,
            context: self.context,
            propagate: None,
            objective: Objective::default(),
            scales: Scales::default(),
            paper: false,
            keep_stats: false,
            only_fold: false,
            scales_out: None,
        }
    }
}
