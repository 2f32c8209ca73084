//! What the command line accepts: one struct per verb, nothing but types and their help. Parsing a value is in [`value`];
//! what a verb does is in `commands`. The help of every verb is committed under `tests/cli/snapshots`.

mod budget;
mod container;
mod guidance;
mod measure;
mod patch;
mod value;

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::error::ErrorKind;
use clap::{Args as Group, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

pub(crate) use budget::{Budget, Plan};
pub(crate) use container::{AutoDtype, Container, ConvertTo, FloatDtype};
pub(crate) use guidance::{Guidance, Method, Objective, Propagate, Scales};
pub(crate) use measure::{Bench, Calibrate, Eval};
pub(crate) use patch::{
    Add, Compare, DeltaBits, Extract, List, Patch, PatchDiff, PatchVerb, PatchWriting, Projection, Remove, Scale,
};
pub(crate) use value::{EngineChoice, ReportFile, ReportFormat, ShardSize, TensorScheme};

/// Quantize and patch model weights: smaller models you can trust
///
/// A model is a Hugging Face folder (config.json and *.safetensors), one .safetensors file or one .gguf file. It is only
/// ever read: what a verb writes goes to TARGET, which appears complete or not at all.
#[derive(Debug, PartialEq, Parser)]
#[command(
    name = "reweight",
    bin_name = "reweight",
    version,
    max_term_width = 80,
    styles = STYLES,
    after_long_help = EXIT_STATUS,
)]
pub(crate) struct Args {
    /// What every verb takes.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default())
    .error(AnsiColor::Red.on_default().bold())
    .valid(AnsiColor::Cyan.on_default())
    .invalid(AnsiColor::Yellow.on_default());

const EXIT_STATUS: &str = "\
Exit status:
  0    done
  1    a check failed (verify, patch verify, --fail-above)
  2    wrong usage or bad input
  3    input/output or internal error
  130  interrupted

Examples:
  reweight inspect ./model
  reweight quantize ./model ./model-int4
  reweight diff ./model ./model-int4";

/// Options that every verb takes, before or after its name.
#[derive(Debug, PartialEq, Group)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Print one JSON document instead of text
    ///
    /// The document goes to standard output and has `"schema": 1`. Errors stay text on standard error, and then standard
    /// output stays empty.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Threads to use [default: all cores]
    ///
    /// The bytes written do not depend on it.
    #[arg(long, global = true, value_name = "N", value_parser = value::threads)]
    pub(crate) threads: Option<NonZeroUsize>,

    /// SIMD kernels to use [auto, scalar, avx2, avx512, neon]
    ///
    /// `auto` takes the fastest that this machine has. The bytes written do not depend on it, unless a model is run on --text.
    #[arg(long, global = true, value_enum, value_name = "NAME", default_value_t, hide_default_value = true)]
    #[arg(hide_possible_values = true)]
    pub(crate) kernels: KernelChoice,

    /// When to use color [auto, always, never]
    ///
    /// `auto` colors a terminal, unless `NO_COLOR` is set or `TERM` is `dumb`; `CLICOLOR_FORCE` colors a pipe as well. What a
    /// color says, a word says too.
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t, hide_default_value = true)]
    #[arg(hide_possible_values = true)]
    pub(crate) color: ColorChoice,

    /// Print data and errors only
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,

    /// Say what is decided; -vv also files and kernels
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// Which table of kernels to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum KernelChoice {
    /// The fastest that this machine has.
    #[default]
    Auto,
    /// Plain Rust, which defines what is correct.
    Scalar,
    /// `x86-64` with AVX2 and FMA.
    Avx2,
    /// `x86-64` with AVX-512.
    Avx512,
    /// `AArch64`.
    Neon,
}

/// When to use color.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorChoice {
    /// As the terminal and the environment say.
    #[default]
    Auto,
    /// Even into a file.
    Always,
    /// Not even on a terminal.
    Never,
}

/// The verbs. Each one's help is the documentation of its type.
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum Verb {
    Inspect(Inspect),
    Calibrate(Calibrate),
    Plan(Plan),
    Quantize(Quantize),
    Convert(Convert),
    Eval(Eval),
    Diff(Diff),
    Verify(Verify),
    Patch(Patch),
    Bench(Bench),
    Generate(Generate),
}

/// Show what a model holds, without reading its weights
///
/// Lists tensors with their shape, type and size. Only headers are read, so a model of any size takes a moment. Of a file
/// that `calibrate` wrote, lists what went into each layer; of a patch or an adapter, which tensors it changes how.
#[derive(Debug, PartialEq, Group)]
#[command(after_long_help = "\
Examples:
  reweight inspect ./model
  reweight inspect model.gguf --tensors '*.attn_q.*'
  reweight inspect ./model-int4 --for vllm
  reweight inspect ./model --json | jq '.tensors[].name'")]
pub(crate) struct Inspect {
    /// Folder, .safetensors file, .gguf file, statistics, logits or a patch
    #[arg(value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    pub(crate) model: PathBuf,

    /// Show only tensors whose name matches this glob
    #[arg(long, value_name = "PATTERN", value_hint = ValueHint::Other)]
    pub(crate) tensors: Option<String>,

    /// Look at the weights: their shape, and how sure rounding is
    ///
    /// Kurtosis and skew of each linear layer, and the share of its weights within --band steps of where rounding to --scheme would go the other
    /// way, from up to 256 rows. Of a quantized model the share is what `quantize` found.
    #[arg(long)]
    pub(crate) stats: bool,

    /// With --stats, the scheme [default: int4-g128]
    #[arg(long, value_name = "SCHEME", value_hint = ValueHint::Other, requires = "stats")]
    pub(crate) scheme: Option<String>,

    /// With --stats, steps from a boundary [default: 0.005]
    #[arg(long, value_name = "STEPS", value_parser = value::band, value_hint = ValueHint::Other, requires = "stats")]
    pub(crate) band: Option<f64>,

    /// Say what does not load in [vllm, llama.cpp, transformers]
    ///
    /// Compares how the model is stored with the limits of that engine, names the weights that go beyond one, and where the limit
    /// stands. Exits 1 if the engine would not load the model.
    #[arg(long = "for", value_enum, value_name = "ENGINE", hide_possible_values = true)]
    pub(crate) engine: Option<EngineChoice>,
}

/// Write a smaller copy of a model
///
/// Stores the weights of linear layers in few bits and keeps everything else. With no options it writes 4-bit integers
/// in groups of 128 (`int4-g128`), a layout that inference engines load. MODEL is never written, and TARGET is read again
/// and checked before it appears.
#[derive(Debug, PartialEq, Group)]
#[command(after_long_help = "\
Examples:
  reweight quantize ./model ./model-int4
  reweight quantize ./model ./small --scheme int3-g64 --text a.txt b.txt
  reweight quantize ./model ./mixed --target-bpw 3.5 --text a.txt b.txt
  reweight quantize ./model ./model-int4 --dry-run --json")]
pub(crate) struct Quantize {
    /// Folder, .safetensors file or .gguf file
    #[arg(value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    pub(crate) model: PathBuf,

    /// What to write; must not exist without --force
    #[arg(value_name = "TARGET", value_hint = ValueHint::AnyPath)]
    pub(crate) target: PathBuf,

    /// How weights are stored [default: int4-g128]
    ///
    /// For example `int4-g128` (4 bits, groups of 128 input channels that share a scale and a zero point), `int4-g128-sym`
    /// (no zero point, the default of `gptq`) or `int3-g64`; for `gguf` the names of llama.cpp, `q4_k_m` by default. Other levels than
    /// integers: `statsq2`, `statsq3-g64` (halves, by the mean magnitude; `-fit` for fitted scales), `ternary`, `nf4-g64`, `lloyd2-g32`
    /// (levels fitted to each tensor); docs/grids.md tells them apart.
    #[arg(long, value_name = "SCHEME", value_hint = ValueHint::Other)]
    pub(crate) scheme: Option<String>,

    /// Choice of values [rtn, search, awq, gptq, best]
    ///
    /// `rtn` takes the range of each group; `search` the range with the least squared error, weighted where there are statistics;
    /// both store the nearest value. `awq` scales channels by what goes through them, then searches. `gptq` searches, and
    /// makes good in later columns what rounding does to earlier ones. `best` does all three. `confident` and `awq-confident` are cheaper: what lies about half
    /// way between two values takes the one that is better for the outputs, all else the nearest. Without --method: `best` with --text,
    /// `awq` with --stats, else `search`.
    #[arg(long, value_enum, value_name = "METHOD", hide_possible_values = true)]
    pub(crate) method: Option<Method>,

    /// How statistics are had.
    #[command(flatten)]
    pub(crate) guidance: Guidance,

    /// Choose schemes within a budget.
    #[command(flatten)]
    pub(crate) budget: Budget,

    /// Schemes from a file of `plan`
    ///
    /// What it does not name is kept as it is; --tensor and --keep go before it.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[arg(conflicts_with_all = ["scheme", "target_bpw", "target_size"])]
    pub(crate) recipe: Option<PathBuf>,

    /// Layout [default: compressed-tensors]
    ///
    /// How the files of TARGET are laid out: `compressed-tensors` as the library of that name does; `awq` as `AutoAWQ` (version gemm,
    /// 4 bits, asymmetric); `gptq` as `AutoGPTQ` (2, 3, 4 or 8 bits, symmetric), `gptq-v2` with zeros as they are. These three
    /// hold one scheme for all and floats in f16. `gguf` is one file for llama.cpp, with schemes such as `q4_k_m`, `q4_0`, `q8_0` or `f16`;
    /// a TARGET that does not end in .gguf becomes a folder of files of at most --max-shard-size. `reweight` holds every scheme in safetensors
    /// (docs/format.md); it is the default where one is asked for that the others cannot hold.
    #[arg(long, value_enum, value_name = "CONTAINER", hide_possible_values = true)]
    pub(crate) to: Option<Container>,

    /// Fail if ENGINE would not load TARGET
    ///
    /// One of `vllm`, `llama.cpp` and `transformers`. Its limits are looked at before any work: bits, groups, zero points, and layers that it
    /// fuses. What it loads in newer versions only, or runs in slower kernels, is a warning.
    #[arg(long = "for", value_enum, value_name = "ENGINE", hide_possible_values = true)]
    pub(crate) engine: Option<EngineChoice>,

    /// Keep tensors that match as they are
    ///
    /// The pattern is a glob over names, such as `*.down_proj.*`. May be given again.
    #[arg(long, value_name = "PATTERN", value_hint = ValueHint::Other)]
    pub(crate) keep: Vec<String>,

    /// Scheme of the tensors that match
    ///
    /// The pattern is a glob over names, such as `model.layers.*.mlp.*=int8-g128`. May be given again;
    /// the last one that matches a tensor counts, and --keep goes before it.
    #[arg(long, value_name = "PATTERN=SCHEME", value_parser = value::tensor_scheme, value_hint = ValueHint::Other)]
    pub(crate) tensor: Vec<TensorScheme>,

    /// Type of the scales [auto, f16, bf16, f32]
    ///
    /// `auto` is the type of the model's floats, in which loaders compute.
    #[arg(long, value_enum, value_name = "DTYPE", default_value_t, hide_default_value = true)]
    #[arg(hide_possible_values = true)]
    pub(crate) scale_dtype: AutoDtype,

    /// Type of kept floats [auto, bf16, f16, f32]
    ///
    /// What is not quantized is rounded to it. `auto` copies such tensors bit for bit; what a .gguf file stores in its own
    /// blocks becomes bf16.
    #[arg(long, value_enum, value_name = "DTYPE", default_value_t, hide_default_value = true)]
    #[arg(hide_possible_values = true)]
    pub(crate) dtype: AutoDtype,

    /// How files are written.
    #[command(flatten)]
    pub(crate) writing: Writing,

    /// Fail where a group does not divide a row
    ///
    /// Without it such a tensor gets the largest group that does, and the report says so.
    #[arg(long)]
    pub(crate) strict: bool,

    /// Steps from a boundary that count as near [default: 0.005]
    ///
    /// The report names the share of weights so near to where rounding goes the other way: those of low confidence.
    #[arg(long, value_name = "STEPS", value_parser = value::band, value_hint = ValueHint::Other, hide_short_help = true)]
    pub(crate) band: Option<f64>,

    /// Also write a report (.json or .md)
    #[arg(long, value_name = "FILE", value_parser = value::report_file, value_hint = ValueHint::FilePath)]
    pub(crate) report: Option<ReportFile>,
}

/// Write a model in another layout
///
/// Takes the codes of a quantized model into another layout as they are, or turns every stored weight back into floating point.
/// Codes that the layout cannot hold are an error that says why, unless --requantize chooses new ones.
#[derive(Debug, PartialEq, Group)]
#[command(after_long_help = "\
Examples:
  reweight convert model-q4_k_m.gguf ./model-bf16 --to bf16
  reweight convert ./model-awq ./model-int4 --to compressed-tensors
  reweight convert ./model-int4-sym ./model-gptq --to gptq
  reweight convert ./model-int4 ./model-awq --to awq --requantize")]
pub(crate) struct Convert {
    /// Folder, .safetensors file or .gguf file
    #[arg(value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    pub(crate) model: PathBuf,

    /// What to write; must not exist without --force
    #[arg(value_name = "TARGET", value_hint = ValueHint::AnyPath)]
    pub(crate) target: PathBuf,

    /// Float type (bf16, f16, f32) or layout
    ///
    /// With a type, every weight becomes floating point; tensors that hold integers or flags keep theirs. With a layout
    /// (`compressed-tensors`, `awq`, `gptq`, `gptq-v2`, `reweight`, `gguf`), quantized weights keep their values bit for bit, and everything
    /// else is copied.
    #[arg(long, value_enum, value_name = "LAYOUT", hide_possible_values = true)]
    pub(crate) to: ConvertTo,

    /// Choose new codes, by search, for quantized weights
    ///
    /// Loses a little more each time; quantizing the original is better.
    #[arg(long)]
    pub(crate) requantize: bool,

    /// With --requantize, how weights are stored
    #[arg(long, value_name = "SCHEME", value_hint = ValueHint::Other, requires = "requantize")]
    pub(crate) scheme: Option<String>,

    /// How files are written.
    #[command(flatten)]
    pub(crate) writing: Writing,
}

/// Compare two models tensor by tensor
///
/// Quantized tensors are turned back into floating point first, so the two may be stored in different ways.
#[derive(Debug, PartialEq, Group)]
#[command(after_long_help = "\
Examples:
  reweight diff ./model ./model-int4
  reweight diff ./model ./model-int4 --tensors '*.mlp.*' --json
  reweight diff ./model ./model-int4 --fail-above 1e-5")]
pub(crate) struct Diff {
    /// The model to compare with
    #[arg(value_name = "A", value_hint = ValueHint::AnyPath)]
    pub(crate) a: PathBuf,

    /// The model to compare
    #[arg(value_name = "B", value_hint = ValueHint::AnyPath)]
    pub(crate) b: PathBuf,

    /// Exit 1 if a tensor's mean squared error is above
    #[arg(long, value_name = "MSE", value_parser = value::error_bound, allow_negative_numbers = true)]
    pub(crate) fail_above: Option<f64>,

    /// Compare only tensors whose name matches this glob
    #[arg(long, value_name = "PATTERN", value_hint = ValueHint::Other)]
    pub(crate) tensors: Option<String>,
}

/// Check that a written model is what it says it is
///
/// Reads every byte and compares with the digests recorded when it was written. Exits 1 if one differs. Of a patched model,
/// does what `patch verify` does.
#[derive(Debug, PartialEq, Group)]
#[command(after_long_help = "\
Examples:
  reweight verify ./model-int4
  reweight verify ./model-int4 --json")]
pub(crate) struct Verify {
    /// A folder or file that reweight wrote
    #[arg(value_name = "TARGET", value_hint = ValueHint::AnyPath)]
    pub(crate) target: PathBuf,
}

/// Print shell completions or the manual
#[derive(Debug, PartialEq, Group)]
#[command(after_long_help = "\
Examples:
  reweight generate completions bash > reweight.bash
  reweight generate completions fish > ~/.config/fish/completions/reweight.fish
  reweight generate man --out ~/.local/share/man/man1")]
pub(crate) struct Generate {
    /// What to print.
    #[command(subcommand)]
    pub(crate) what: GenerateWhat,
}

/// What `generate` makes.
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum GenerateWhat {
    /// Print a completion script
    #[command(after_long_help = "\
Examples:
  reweight generate completions bash > reweight.bash
  reweight generate completions zsh > ~/.zfunc/_reweight")]
    Completions {
        /// The shell that reads it
        #[arg(value_enum, value_name = "SHELL")]
        shell: Shell,
    },
    /// Print the manual page, or write one per verb
    #[command(after_long_help = "\
Examples:
  reweight generate man | man -l -
  reweight generate man --out ~/.local/share/man/man1")]
    Man {
        /// Write a page for each verb into this folder
        ///
        /// The folder is created if need be. Pages that are there are replaced.
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        out: Option<PathBuf>,
    },
}

/// How a verb that makes a model writes it.
#[derive(Debug, PartialEq, Group)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own, and any of them go together")]
pub(crate) struct Writing {
    /// Largest file to write
    ///
    /// Such as 5GB, 500MiB or plain bytes: 1 GB is 10^9 bytes, 1 GiB is 2^30. A tensor larger than this gets a file of its own.
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = value::shard_size)]
    #[arg(value_hint = ValueHint::Other)]
    pub(crate) max_shard_size: ShardSize,

    /// Check everything, write nothing
    ///
    /// Says what would be written, and fails where the run would.
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Replace TARGET if it exists
    #[arg(long)]
    pub(crate) force: bool,

    /// Go on with what an interrupted run left
    ///
    /// The result has the same bytes as a run that was never interrupted.
    #[arg(long)]
    pub(crate) resume: bool,

    /// Wait until the disk holds all of it
    ///
    /// Slower; for a machine that may lose power.
    #[arg(long)]
    pub(crate) fsync: bool,
}

impl Args {
    /// Reads a command line, its first word the program's name.
    ///
    /// # Errors
    /// Wrong usage, and also a request for help or the version: the error holds the text to print and the exit status.
    pub(crate) fn read(argv: &[OsString]) -> Result<Self, clap::Error> {
        let mut command = Self::command();
        let matches = command.try_get_matches_from_mut(argv)?;
        let args = Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
        if args.global.quiet && args.global.verbose > 0 {
            let what = "the argument '--quiet' cannot be used with '--verbose'";
            return Err(command.error(ErrorKind::ArgumentConflict, what));
        }
        Ok(args)
    }
}

impl ColorChoice {
    /// What `--color` says in a command line that may not parse, so that its error obeys too.
    pub(crate) fn scan(argv: &[OsString]) -> Self {
        let mut words = argv.iter().skip(1).filter_map(|word| word.to_str()).take_while(|word| *word != "--");
        while let Some(word) = words.next() {
            let value = if word == "--color" { words.next() } else { word.strip_prefix("--color=") };
            if let Some(choice) = value.and_then(|value| Self::from_str(value, false).ok()) {
                return choice;
            }
        }
        Self::Auto
    }
}

#[cfg(test)]
mod tests;
