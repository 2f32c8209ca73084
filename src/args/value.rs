//! Values on the command line: text in, a checked type out, and an error that says what would be accepted.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::ValueEnum;
use reweight_quant::engines::Engine;

/// The most bytes one file of a model may hold. At least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShardSize(pub(crate) u64);

/// A scheme for the tensors that a glob matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorScheme {
    /// Glob over tensor names.
    pub(crate) pattern: String,
    /// The scheme's name.
    pub(crate) scheme: String,
}

/// A file for the report, in the format that its extension names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReportFile {
    /// Where to write.
    pub(crate) path: PathBuf,
    /// What to write.
    pub(crate) format: ReportFormat,
}

/// A patch with its strength.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PatchFile {
    /// The file, or the folder of an adapter.
    pub(crate) path: PathBuf,
    /// The strength; finite.
    pub(crate) strength: f64,
}

/// How a report is written to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReportFormat {
    /// The document that `--json` prints.
    Json,
    /// Headings and tables for people.
    Markdown,
}

/// An inference engine, by the name it has on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineChoice {
    /// vLLM
    Vllm,
    /// llama.cpp
    #[value(name = "llama.cpp")]
    LlamaCpp,
    /// transformers
    Transformers,
}

impl From<EngineChoice> for Engine {
    fn from(choice: EngineChoice) -> Self {
        match choice {
            EngineChoice::Vllm => Self::Vllm,
            EngineChoice::LlamaCpp => Self::LlamaCpp,
            EngineChoice::Transformers => Self::Transformers,
        }
    }
}

/// Units of size, longest suffix first so that `MiB` is not read as `B`.
const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// More threads than any machine this runs on has cores; a slip of the finger is told here, not by the system.
const MAX_THREADS: usize = 4096;

/// Reads how many elements to measure on: at most 2^30, of which two buffers are 8 GiB.
pub(crate) fn bench_size(text: &str) -> Result<usize, String> {
    let size = text.parse().ok().filter(|size| (1..=1 << 30).contains(size));
    size.ok_or_else(|| format!("expected a number from 1 to {}", 1 << 30))
}

/// Reads how often to measure.
pub(crate) fn bench_rounds(text: &str) -> Result<usize, String> {
    let rounds = text.parse().ok().filter(|rounds| (1..=10_000).contains(rounds));
    rounds.ok_or_else(|| "expected a number from 1 to 10000".to_owned())
}

/// Reads how many threads to use.
pub(crate) fn threads(text: &str) -> Result<NonZeroUsize, String> {
    match text.parse::<NonZeroUsize>() {
        Ok(threads) if threads.get() <= MAX_THREADS => Ok(threads),
        _ => Err(format!("expected a number from 1 to {MAX_THREADS}")),
    }
}

/// Reads `5GB`, `1.5GiB`, `500 MB` or plain bytes; letters in either case.
pub(crate) fn shard_size(text: &str) -> Result<ShardSize, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, suffix) = (text[..split].trim_end(), &text[split..]);
    let unit = match UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(suffix)) {
        Some((_, unit)) => *unit,
        None if suffix.is_empty() => 1,
        None => return Err(format!("unknown unit `{suffix}`, expected B, KB, MB, GB, TB, KiB, MiB, GiB or TiB")),
    };
    match decimal_times(number, unit)? {
        0 => Err("expected at least 1 byte".to_owned()),
        bytes => Ok(ShardSize(bytes)),
    }
}

/// `number * unit`, exactly: a fraction of a byte is an error, as is more than 2^64 - 1.
fn decimal_times(number: &str, unit: u64) -> Result<u64, String> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let all_digits = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if !all_digits(whole) || !all_digits(fraction) {
        return Err(format!("expected a number and a unit, such as 5GB, found number `{number}`"));
    }
    let too_large = || "more than 2^64 - 1 bytes".to_owned();
    let whole = whole.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).ok_or_else(too_large)?;
    let fraction = fraction.trim_end_matches('0');
    let part = match (fraction.parse::<u128>(), 10_u128.checked_pow(fraction.len() as u32)) {
        (Err(_), _) if fraction.is_empty() => 0,
        (Ok(digits), Some(scale)) if (digits.saturating_mul(unit.into())) % scale == 0 => {
            (digits.saturating_mul(unit.into()) / scale) as u64
        }
        _ => return Err(format!("`{number}` is not a whole number of bytes")),
    };
    whole.checked_add(part).ok_or_else(too_large)
}

/// Reads `FILE` or `FILE=ALPHA`. A path that is there is taken whole, since a name may hold a `=`.
pub(crate) fn patch_file(text: &str) -> Result<PatchFile, String> {
    let whole = PatchFile { path: text.into(), strength: 1.0 };
    match text.rsplit_once('=') {
        Some(_) if whole.path.exists() => Ok(whole),
        Some((path, alpha)) if !path.is_empty() => Ok(PatchFile { path: path.into(), strength: strength(alpha)? }),
        None if !text.is_empty() => Ok(whole),
        _ => Err("expected a file, or a file and its strength, such as fog.patch=0.5".to_owned()),
    }
}

/// Reads a strength.
pub(crate) fn strength(text: &str) -> Result<f64, String> {
    let strength = text.parse::<f64>().ok().filter(|strength| strength.is_finite());
    strength.ok_or_else(|| format!("expected a finite number as strength, found `{text}`"))
}

/// Reads `PATTERN=SCHEME`, split at the last `=` since a tensor's name may hold one and a scheme's never does.
pub(crate) fn tensor_scheme(text: &str) -> Result<TensorScheme, String> {
    match text.rsplit_once('=') {
        Some((pattern, scheme)) if !pattern.is_empty() && !scheme.is_empty() => {
            Ok(TensorScheme { pattern: pattern.to_owned(), scheme: scheme.to_owned() })
        }
        _ => Err("expected PATTERN=SCHEME, such as '*.mlp.*=int8-g128'".to_owned()),
    }
}

/// Reads the path of a report, whose extension decides its format.
pub(crate) fn report_file(text: &str) -> Result<ReportFile, String> {
    let path = PathBuf::from(text);
    let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
    let format = match extension.to_str() {
        Some("json") => ReportFormat::Json,
        Some("md") => ReportFormat::Markdown,
        _ => return Err("expected a file name that ends in .json or .md".to_owned()),
    };
    Ok(ReportFile { path, format })
}

/// Reads bits per weight: more than 0, at most 16.
pub(crate) fn bits_per_weight(text: &str) -> Result<f64, String> {
    let bits = text.parse::<f64>().ok().filter(|bits| *bits > 0.0 && *bits <= 16.0);
    bits.ok_or_else(|| "expected a number of bits up to 16, such as 3.5".to_owned())
}

/// Reads a band about decision boundaries, in steps: from 0 to a half, which is everything.
pub(crate) fn band(text: &str) -> Result<f64, String> {
    let band = text.parse::<f64>().ok().filter(|band| (0.0..=0.5).contains(band));
    band.ok_or_else(|| "expected a number of steps from 0 to 0.5, such as 0.005".to_owned())
}

/// Reads a bound on an error: a finite number, not negative.
pub(crate) fn error_bound(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(bound) if bound.is_finite() && bound >= 0.0 => Ok(bound),
        _ => Err("expected a number that is not negative, such as 1e-5".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs every row and reports all that fail.
    #[track_caller]
    fn check<T: PartialEq + std::fmt::Debug>(parse: fn(&str) -> Result<T, String>, rows: &[(&str, Option<T>)]) {
        let failed: Vec<String> = rows
            .iter()
            .filter(|(text, expected)| parse(text).ok() != *expected)
            .map(|(text, expected)| format!("`{text}`: expected {expected:?}, found {:?}", parse(text)))
            .collect();
        assert!(failed.is_empty(), "{}", failed.join("\n"));
    }

    #[test]
    fn sizes() {
        let size = |bytes| Some(ShardSize(bytes));
        check(
            shard_size,
            &[
                ("1", size(1)),
                ("4096", size(4096)),
                ("7B", size(7)),
                ("5GB", size(5_000_000_000)),
                ("5gb", size(5_000_000_000)),
                ("5 GB", size(5_000_000_000)),
                ("5GiB", size(5 << 30)),
                ("500MB", size(500_000_000)),
                ("3KiB", size(3072)),
                ("2kB", size(2000)),
                ("1TiB", size(1 << 40)),
                ("1.5GB", size(1_500_000_000)),
                ("0.5KiB", size(512)),
                ("1.50KB", size(1500)),
                ("1.0", size(1)),
                ("18446744073709551615", size(u64::MAX)),
                ("18446744073709551616", None),
                ("18446744073709551615.5KB", None),
                ("20000000TB", None),
                ("0", None),
                ("0.0GB", None),
                ("1.5", None),
                ("1.0001KB", None),
                ("0.00000000000000000000000000000000000000000000001TB", None),
                ("5G", None),
                ("5Gi", None),
                ("GB", None),
                ("", None),
                ("-1", None),
                ("+1GB", None),
                ("1e3", None),
                ("1.GB", None),
                (".5GB", None),
                ("1.2.3GB", None),
                ("5GB5", None),
                ("5µB", None),
            ],
        );
    }

    #[test]
    fn a_unit_without_bytes_names_the_units_there_are() {
        assert_eq!(
            shard_size("5G"),
            Err("unknown unit `G`, expected B, KB, MB, GB, TB, KiB, MiB, GiB or TiB".to_owned())
        );
    }

    #[test]
    fn tensor_schemes() {
        let pair =
            |pattern: &str, scheme: &str| Some(TensorScheme { pattern: pattern.to_owned(), scheme: scheme.to_owned() });
        check(
            tensor_scheme,
            &[
                ("*.mlp.*=int8-g64", pair("*.mlp.*", "int8-g64")),
                ("a=b=int4-g128", pair("a=b", "int4-g128")),
                ("==x", pair("=", "x")),
                ("int4-g128", None),
                ("=int4-g128", None),
                ("*.mlp.*=", None),
                ("", None),
            ],
        );
    }

    #[test]
    fn patch_files() {
        let file = |path: &str, strength| Some(PatchFile { path: path.into(), strength });
        check(
            patch_file,
            &[
                ("fog.patch", file("fog.patch", 1.0)),
                ("fog.patch=0.5", file("fog.patch", 0.5)),
                ("a=b=-2e-1", file("a=b", -0.2)),
                ("fog.patch=", None),
                ("fog.patch=x", None),
                ("fog.patch=inf", None),
                ("=1", None),
                ("", None),
            ],
        );
    }

    #[test]
    fn report_files() {
        let file = |path: &str, format| Some(ReportFile { path: path.into(), format });
        check(
            report_file,
            &[
                ("out/r.json", file("out/r.json", ReportFormat::Json)),
                ("R.MD", file("R.MD", ReportFormat::Markdown)),
                ("r.html", None),
                ("json", None),
                (".json", None),
                ("", None),
            ],
        );
    }

    #[test]
    fn thread_counts() {
        let rows = [("1", NonZeroUsize::new(1)), ("4096", NonZeroUsize::new(4096))];
        check(threads, &rows);
        check(threads, &[("0", None), ("4097", None), ("-1", None), ("all", None), ("", None)]);
    }

    #[test]
    fn error_bounds() {
        check(
            error_bound,
            &[("0", Some(0.0)), ("1e-5", Some(1e-5)), ("-1", None), ("nan", None), ("inf", None), ("x", None)],
        );
    }
}
