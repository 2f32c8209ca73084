//! What a command line becomes. Help and messages are snapshots under `tests/cli`.

use super::*;

/// Reads words that follow the program's name.
fn read(words: &[&str]) -> Result<Args, ErrorKind> {
    let argv: Vec<OsString> = std::iter::once("reweight").chain(words.iter().copied()).map(OsString::from).collect();
    Args::read(&argv).map_err(|error| error.kind())
}

/// The global options when none is given.
fn no_global() -> Global {
    Global {
        json: false,
        threads: None,
        kernels: KernelChoice::Auto,
        color: ColorChoice::Auto,
        quiet: false,
        verbose: 0,
    }
}

/// The writing options when none is given.
fn plain_writing() -> Writing {
    Writing { max_shard_size: ShardSize(5_000_000_000), dry_run: false, force: false, resume: false, fsync: false }
}

/// How statistics are had when none of its options is given.
fn no_guidance() -> Guidance {
    Guidance {
        stats: None,
        text: Vec::new(),
        tokens: NonZeroUsize::new(65_536).expect("not zero"),
        propagate: None,
        context: NonZeroUsize::new(512).expect("not zero"),
        only_fold: false,
        objective: Objective::Moments,
        paper: false,
        keep_stats: false,
        scales: Scales::Plain,
        scales_out: None,
    }
}

/// No budget.
fn no_budget() -> Budget {
    Budget { target_bpw: None, target_size: None, schemes: Vec::new(), probe_tokens: 2048 }
}

#[test]
fn the_definition_is_consistent() {
    Args::command().debug_assert();
}

#[test]
fn quantize_alone_has_the_documented_defaults() {
    let expected = Quantize {
        engine: None,
        model: "m".into(),
        target: "t".into(),
        scheme: None,
        method: None,
        guidance: no_guidance(),
        budget: no_budget(),
        recipe: None,
        to: None,
        keep: vec![],
        tensor: vec![],
        scale_dtype: AutoDtype::Auto,
        dtype: AutoDtype::Auto,
        writing: plain_writing(),
        strict: false,
        band: None,
        report: None,
    };
    assert_eq!(read(&["quantize", "m", "t"]), Ok(Args { global: no_global(), verb: Verb::Quantize(expected) }));
}

#[test]
fn quantize_takes_every_option() {
    let line = "quantize m t --scheme int3-g64 --method rtn --to compressed-tensors --keep a --keep b.* \
                --tensor c=int8-g64 --tensor d=e=int2-g32 --scale-dtype f32 --dtype bf16 --max-shard-size 1GiB \
                --dry-run --force --resume --fsync --strict --band 0.01 --report r.md";
    let pair = |pattern: &str, scheme: &str| TensorScheme { pattern: pattern.to_owned(), scheme: scheme.to_owned() };
    let expected = Quantize {
        engine: None,
        model: "m".into(),
        target: "t".into(),
        scheme: Some("int3-g64".to_owned()),
        method: Some(Method::Rtn),
        guidance: no_guidance(),
        budget: no_budget(),
        recipe: None,
        to: Some(Container::CompressedTensors),
        keep: vec!["a".to_owned(), "b.*".to_owned()],
        tensor: vec![pair("c", "int8-g64"), pair("d=e", "int2-g32")],
        scale_dtype: AutoDtype::F32,
        dtype: AutoDtype::Bf16,
        writing: Writing { max_shard_size: ShardSize(1 << 30), dry_run: true, force: true, resume: true, fsync: true },
        strict: true,
        band: Some(0.01),
        report: Some(ReportFile { path: "r.md".into(), format: ReportFormat::Markdown }),
    };
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(read(&words), Ok(Args { global: no_global(), verb: Verb::Quantize(expected) }));
}

#[test]
fn other_verbs() {
    let tensors = Some("*.q".to_owned());
    let inspect = Inspect { model: "m".into(), tensors, stats: false, scheme: None, band: None, engine: None };
    let convert = Convert {
        model: "m".into(),
        target: "t".into(),
        to: ConvertTo::Floats(FloatDtype::Bf16),
        requantize: false,
        scheme: None,
        writing: plain_writing(),
    };
    let diff = Diff { a: "x".into(), b: "y".into(), fail_above: Some(1e-5), tensors: None };
    let rows = [
        (vec!["inspect", "m", "--tensors", "*.q"], Verb::Inspect(inspect)),
        (vec!["convert", "m", "t", "--to", "bf16"], Verb::Convert(convert)),
        (vec!["diff", "x", "y", "--fail-above", "1e-5"], Verb::Diff(diff)),
        (vec!["verify", "t"], Verb::Verify(Verify { target: "t".into() })),
    ];
    for (words, verb) in rows {
        assert_eq!(read(&words), Ok(Args { global: no_global(), verb }), "{words:?}");
    }
}

#[test]
fn global_options_stand_before_or_after_the_verb() {
    let options = ["--json", "--threads", "3", "--kernels", "scalar", "--color", "never", "-vv"];
    let before: Vec<&str> = options.iter().chain(&["verify", "t"]).copied().collect();
    let after: Vec<&str> = ["verify", "t"].iter().chain(&options).copied().collect();
    let expected = Global {
        json: true,
        threads: NonZeroUsize::new(3),
        kernels: KernelChoice::Scalar,
        color: ColorChoice::Never,
        quiet: false,
        verbose: 2,
    };
    assert_eq!(read(&before).map(|args| args.global), Ok(expected));
    assert_eq!(read(&before), read(&after));
}

#[test]
fn what_is_refused() {
    let rows: [(&[&str], ErrorKind); 10] = [
        (&[], ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
        (&["frobnicate"], ErrorKind::InvalidSubcommand),
        (&["verify", "t", "--threads", "0"], ErrorKind::ValueValidation),
        (&["verify", "t", "--kernels", "sse2"], ErrorKind::InvalidValue),
        (&["verify", "t", "-q", "-v"], ErrorKind::ArgumentConflict),
        (&["-q", "verify", "t", "-v"], ErrorKind::ArgumentConflict),
        (&["convert", "m", "t"], ErrorKind::MissingRequiredArgument),
        (&["convert", "m", "t", "--to", "int4"], ErrorKind::InvalidValue),
        (&["quantize", "m", "t", "--tensor", "int4-g128"], ErrorKind::ValueValidation),
        (&["diff", "a", "b", "--fail-above", "-1"], ErrorKind::ValueValidation),
    ];
    for (words, expected) in rows {
        assert_eq!(read(words).err(), Some(expected), "{words:?}");
    }
}

#[test]
fn color_is_found_in_a_line_that_does_not_parse() {
    let rows: [(&[&str], ColorChoice); 6] = [
        (&["frobnicate", "--color", "never"], ColorChoice::Never),
        (&["--color=always", "frobnicate"], ColorChoice::Always),
        (&["--color", "purple"], ColorChoice::Auto),
        (&["--color"], ColorChoice::Auto),
        (&["inspect", "--", "--color=never"], ColorChoice::Auto),
        (&[], ColorChoice::Auto),
    ];
    for (words, expected) in rows {
        let argv: Vec<OsString> =
            std::iter::once("reweight").chain(words.iter().copied()).map(OsString::from).collect();
        assert_eq!(ColorChoice::scan(&argv), expected, "{words:?}");
    }
}
