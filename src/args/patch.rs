//! `patch` and its verbs.

use std::num::NonZeroU16;
use std::path::PathBuf;

use clap::{Args as Group, Subcommand, ValueEnum, ValueHint};

use super::value::{self, PatchFile};

/// Add patches to a model, rescale them, take them off
///
/// A patch is a file that changes weights: a robust weight signature, the difference of two models, or a LoRA, DoRA, Bone or MiSS
/// adapter. What is on a model is written in a ledger beside the weights, so that taking it off gives the model back byte
/// for byte, in any order.
#[derive(Debug, PartialEq, Group)]
#[command(after_long_help = "\
Examples:
  reweight patch extract --pretrained p --clean s --robust c fog.patch
  reweight patch add ./model ./patched --patch fog.patch=0.8
  reweight patch list ./patched
  reweight patch remove ./patched ./clean --all")]
pub(crate) struct Patch {
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: PatchVerb,
}

/// What `patch` does.
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum PatchVerb {
    Extract(Extract),
    Diff(PatchDiff),
    Add(Add),
    Remove(Remove),
    Scale(Scale),
    List(List),
    Verify(PatchVerify),
    Compare(Compare),
}

/// Make a robust weight signature of three models
///
/// Takes the part of ROBUST - PRETRAINED that is orthogonal to CLEAN - PRETRAINED, in the chosen layers, and stores it in few bits.
/// It belongs on CLEAN. Batch-norm statistics and shortcuts are stored whole and replaced.
#[derive(Debug, PartialEq, Group)]
#[command(after_long_help = "\
Examples:
  reweight patch extract --pretrained p --clean s --robust c fog.patch
  reweight patch extract --clean s --robust c out.patch --dry-run
  reweight patch extract --clean s --robust c out.patch --layers '*conv*'")]
pub(crate) struct Extract {
    /// The file to write; must not exist without --force
    #[arg(value_name = "OUT", value_hint = ValueHint::FilePath)]
    pub(crate) out: PathBuf,

    /// The model that the other two were tuned from
    ///
    /// Without it the plain difference of the two is taken.
    #[arg(long, value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    pub(crate) pretrained: Option<PathBuf>,

    /// The model tuned on clean data
    #[arg(long, value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    pub(crate) clean: PathBuf,

    /// The model tuned on corrupted data
    #[arg(long, value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    pub(crate) robust: PathBuf,

    /// first:N, all, or a glob over names
    ///
    /// `first:7` takes the first 7 modules with a matrix or filters, weight and bias together, in natural order of their names and
    /// heads last. A table of all layers is printed to choose by; with --dry-run nothing else is done.
    #[arg(long, value_name = "LAYERS", default_value = "first:7", value_hint = ValueHint::Other)]
    pub(crate) layers: String,

    /// Stored as [f32, f16, 8, 4, 3, 2 bits]
    ///
    /// Numbers are bits of whole numbers in groups of 64 that share a scale.
    #[arg(long, value_enum, value_name = "BITS", default_value_t = DeltaBits::Eight, hide_possible_values = true)]
    pub(crate) bits: DeltaBits,

    /// What is projected out [tensor, row, none]
    ///
    /// `tensor` takes each tensor as one vector, `row` each output channel; `none` takes the plain difference.
    #[arg(long, value_enum, value_name = "HOW", default_value_t, hide_possible_values = true)]
    pub(crate) projection: Projection,

    /// How the patch is written.
    #[command(flatten)]
    pub(crate) making: PatchMaking,
}

/// Make a patch that turns one model into another
#[derive(Debug, PartialEq, Group)]
#[command(after_long_help = "\
Examples:
  reweight patch diff ./base ./tuned tuned.patch
  reweight patch diff ./base ./tuned tuned.patch --bits 4
  reweight patch diff ./base ./tuned ./adapter --rank 16")]
pub(crate) struct PatchDiff {
    /// The model that the patch goes on
    #[arg(value_name = "A", value_hint = ValueHint::AnyPath)]
    pub(crate) a: PathBuf,

    /// The model that it makes
    #[arg(value_name = "B", value_hint = ValueHint::AnyPath)]
    pub(crate) b: PathBuf,

    /// The file to write, or the folder with --rank; must not exist without --force
    #[arg(value_name = "OUT", value_hint = ValueHint::AnyPath)]
    pub(crate) out: PathBuf,

    /// Write a LoRA adapter of this rank, which PEFT loads
    ///
    /// A folder with the best approximation of each matrix's change. What is no matrix is left out and told.
    #[arg(long, value_name = "R", conflicts_with_all = ["bits", "name"])]
    pub(crate) rank: Option<NonZeroU16>,

    /// first:N, all, or a glob over names
    #[arg(long, value_name = "LAYERS", default_value = "all", value_hint = ValueHint::Other)]
    pub(crate) layers: String,

    /// Stored as [f32, f16, 8, 4, 3, 2 bits]
    #[arg(long, value_enum, value_name = "BITS", default_value_t = DeltaBits::F32, hide_possible_values = true)]
    pub(crate) bits: DeltaBits,

    /// How the patch is written.
    #[command(flatten)]
    pub(crate) making: PatchMaking,
}

/// Write a model with more patches on it
///
/// The patched weights depend on the base and on which patches are on it with which strength, not on the order in which they came.
#[derive(Debug, PartialEq, Group)]
#[command(after_long_help = "\
Examples:
  reweight patch add ./model ./patched --patch fog.patch
  reweight patch add ./model ./patched --patch fog.patch=0.5 ./my-lora
  reweight patch add ./model --in-place --patch fog.patch")]
pub(crate) struct Add {
    /// Folder, .safetensors or .gguf file
    #[arg(value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    pub(crate) model: PathBuf,

    /// What to write; must not exist without --force
    #[arg(value_name = "TARGET", value_hint = ValueHint::AnyPath)]
    #[arg(required_unless_present = "in_place", conflicts_with = "in_place")]
    pub(crate) target: Option<PathBuf>,

    /// Patch files or adapters, with a strength [1]
    ///
    /// Adapters are folders of PEFT, or GGUF files of llama.cpp for this model.
    #[arg(long, value_name = "FILE[=ALPHA]", num_args = 1.., required = true, value_parser = value::patch_file)]
    #[arg(value_hint = ValueHint::AnyPath)]
    pub(crate) patch: Vec<PatchFile>,

    /// Also on another base than it was made for
    ///
    /// For a signature on a retrained or updated model, or one of another data set. Shapes must fit.
    #[arg(long)]
    pub(crate) transfer: bool,

    /// Keep it beside the weights, whose bytes stay
    ///
    /// The ledger holds it, and `eval`, `diff` and `convert` read the weights with it. For quantized models, whose steps may be larger than
    /// the change. Patches that replace a tensor, and DoRA, cannot be kept so.
    #[arg(long)]
    pub(crate) side: bool,

    /// How the model is written.
    #[command(flatten)]
    pub(crate) writing: PatchWriting,
}

/// Write a model with fewer patches on it
///
/// Takes patches off exactly: what is left is what it would be had they never been on it. Without any patch left it is the base,
/// compared by digest.
#[derive(Debug, PartialEq, Group)]
#[command(override_usage = "\
reweight patch remove <MODEL> <TARGET> <NAME>...
       reweight patch remove <MODEL> <TARGET> --all
       reweight patch remove <MODEL> --in-place <NAME>... | --all")]
#[command(after_long_help = "\
Examples:
  reweight patch remove ./patched ./clean --all
  reweight patch remove ./patched ./other fog
  reweight patch remove ./patched --in-place fog")]
pub(crate) struct Remove {
    /// Folder, .safetensors or .gguf file with patches on it
    #[arg(value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    pub(crate) model: PathBuf,

    /// TARGET, unless --in-place, then names of patches
    #[arg(value_name = "TARGET|NAME", value_hint = ValueHint::AnyPath)]
    pub(crate) words: Vec<String>,

    /// Take off every patch
    #[arg(long)]
    pub(crate) all: bool,

    /// How the model is written.
    #[command(flatten)]
    pub(crate) writing: PatchWriting,
}

/// Write a model with other strengths of its patches
#[derive(Debug, PartialEq, Group)]
#[command(override_usage = "\
reweight patch scale <MODEL> <TARGET> <NAME=ALPHA>...
       reweight patch scale <MODEL> --in-place <NAME=ALPHA>...")]
#[command(after_long_help = "\
Examples:
  reweight patch scale ./patched ./weaker fog=0.5
  reweight patch scale ./patched --in-place fog=0.5 my-lora=2")]
pub(crate) struct Scale {
    /// Folder, .safetensors or .gguf file with patches on it
    #[arg(value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    pub(crate) model: PathBuf,

    /// TARGET, unless --in-place, then NAME=ALPHA
    #[arg(value_name = "TARGET|NAME=ALPHA", required = true, value_hint = ValueHint::AnyPath)]
    pub(crate) words: Vec<String>,

    /// How the model is written.
    #[command(flatten)]
    pub(crate) writing: PatchWriting,
}

/// Show what is on a model, and what the way back takes
#[derive(Debug, PartialEq, Group)]
#[command(after_long_help = "\
Examples:
  reweight patch list ./patched
  reweight patch list ./patched --json | jq '.patches[].name'")]
pub(crate) struct List {
    /// Folder, .safetensors or .gguf file
    #[arg(value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    pub(crate) model: PathBuf,
}

/// Check that a patched model and its ledger fit, and that the base comes back
///
/// Hashes every tensor that a patch changes, restores its base in memory and hashes that. Exits 1 if anything differs. Finishes or
/// undoes an update that was killed, and says which.
#[derive(Debug, PartialEq, Group)]
#[command(after_long_help = "\
Examples:
  reweight patch verify ./patched
  reweight patch verify ./patched --json")]
pub(crate) struct PatchVerify {
    /// Folder, .safetensors or .gguf file
    #[arg(value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    pub(crate) model: PathBuf,
}

/// Compare patches by the cosine of their changes
///
/// Signatures of one corruption from different data are alike; of different corruptions they are not.
#[derive(Debug, PartialEq, Group)]
#[command(after_long_help = "\
Examples:
  reweight patch compare fog.patch snow.patch
  reweight patch compare fog.patch snow.patch noise.patch --json")]
pub(crate) struct Compare {
    /// Patch files or adapter folders, two or more
    #[arg(value_name = "PATCH", num_args = 2.., required = true, value_hint = ValueHint::AnyPath)]
    pub(crate) patches: Vec<PathBuf>,
}

/// How a verb that makes a patch writes it.
#[derive(Debug, PartialEq, Group)]
pub(crate) struct PatchMaking {
    /// The name it goes by [default: that of OUT]
    #[arg(long, value_name = "NAME", value_hint = ValueHint::Other)]
    pub(crate) name: Option<String>,

    /// Print the figures, write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Replace OUT if it exists
    #[arg(long)]
    pub(crate) force: bool,
}

/// How a verb that patches a model writes it.
#[derive(Debug, PartialEq, Group)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own, and any of them go together")]
pub(crate) struct PatchWriting {
    /// Change MODEL itself
    ///
    /// New files are written beside the old ones and take their place by rename; a process that is killed leaves the old
    /// model or the new one.
    #[arg(long)]
    pub(crate) in_place: bool,

    /// Check everything, write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Replace TARGET if it exists
    #[arg(long)]
    pub(crate) force: bool,

    /// Wait until the disk holds all of it
    #[arg(long)]
    pub(crate) fsync: bool,
}

/// How the elements of a change are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeltaBits {
    /// IEEE 754 single precision
    F32,
    /// IEEE 754 half precision
    F16,
    /// 8 bits in groups of 64
    #[value(name = "8")]
    Eight,
    /// 4 bits in groups of 64
    #[value(name = "4")]
    Four,
    /// 3 bits in groups of 64
    #[value(name = "3")]
    Three,
    /// 2 bits in groups of 64
    #[value(name = "2")]
    Two,
}

/// What is projected out of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Projection {
    /// Each tensor as one vector
    #[default]
    Tensor,
    /// Each output channel as one vector
    Row,
    /// Nothing
    None,
}
