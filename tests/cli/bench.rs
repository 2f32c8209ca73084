//! `bench` in its quick form: that every kernel is measured, and what the document holds. Figures depend on the machine.

use crate::support::Cmd;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    schema: u32,
    read_gb_per_s: f64,
    copy_gb_per_s: f64,
    results: Vec<Measured>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Measured {
    op: String,
    variant: String,
    kernels: String,
    n: usize,
    rows: Option<usize>,
    input: Option<String>,
    store: Option<String>,
    in_place: Option<bool>,
    threads: usize,
    seconds: f64,
    gb_per_s: f64,
    seconds_min: f64,
}

#[test]
fn the_document_has_every_variant_of_the_asked_kernels() {
    let words = "bench softmax --quick --json --kernels scalar --threads 1 --sizes 100 --total 1000 --rounds 2";
    let ran = Cmd::new(words).run().expect_status(0);
    assert_eq!(ran.stderr, "");
    let document: Document = ran.document();
    assert_eq!(document.schema, 1);
    assert!(document.read_gb_per_s > 0.0 && document.copy_gb_per_s > 0.0);
    for variant in ["two-pass", "three-pass-recompute", "three-pass-reload", "online", "auto"] {
        for in_place in [false, true] {
            let of = |m: &&Measured| m.variant == variant && m.in_place == Some(in_place) && m.input.is_none();
            assert_eq!(document.results.iter().filter(of).count(), 1, "{variant}, in place {in_place}");
        }
    }
    for m in &document.results {
        assert_eq!(
            (m.op.as_str(), m.kernels.as_str(), m.n, m.rows, m.threads),
            ("softmax", "scalar", 100, Some(10), 1)
        );
        assert_eq!(m.store.as_deref(), Some(if m.variant == "auto" { "auto" } else { "plain" }));
        assert!(0.0 < m.seconds_min && m.seconds_min <= m.seconds);
        // Ten rows of a hundred floats, read and written.
        let bytes = if m.input.is_some() { 6000.0 } else { 8000.0 };
        assert!((m.gb_per_s * m.seconds * 1e9 - bytes).abs() < 1e-3);
    }
    for input in ["bf16", "f16"] {
        assert_eq!(document.results.iter().filter(|m| m.input.as_deref() == Some(input)).count(), 1, "{input}");
    }
}

#[test]
fn every_operation_has_its_variants() {
    let rows = [
        ("log-softmax", &["two-pass", "three-pass-recompute", "auto", "auto", "auto"][..], [6, 3]),
        ("stablemax", &["auto"; 3], [6, 3]),
        ("quantize", &["rtn", "search"], [6, 3]),
        ("dequantize", &["int4-g128"], [6, 3]),
    ];
    for (op, variants, [n, rows]) in rows {
        let words = format!(
            "bench {op} --quick --json --kernels scalar --threads 1 --sizes {n} --total {} --rounds 1",
            n * rows
        );
        let document: Document = Cmd::new(&words).run().expect_status(0).document();
        let found: Vec<&str> = document.results.iter().map(|m| m.variant.as_str()).collect();
        assert_eq!(found, variants, "{op}");
        for m in &document.results {
            assert!(m.op == op && m.n == n && m.seconds > 0.0 && m.gb_per_s > 0.0 && m.kernels == "scalar", "{op}");
        }
    }
}

#[test]
fn the_table_ends_with_bandwidth() {
    let printed = Cmd::new("bench --quick --threads 1 --sizes 64 --rounds 1").run().data();
    assert!(printed.starts_with("op "), "{printed}");
    assert!(printed.lines().last().is_some_and(|line| line.starts_with("one thread reads ")), "{printed}");
}

#[test]
fn unknown_operations_and_sizes_are_refused() {
    for words in ["bench frobnicate", "bench --sizes 0", "bench --sizes 5000000000", "bench --rounds 0"] {
        let ran = Cmd::new(words).run().expect_status(2);
        assert_eq!(ran.stdout, "", "{words}");
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Products {
    schema: u32,
    read_gb_per_s: f64,
    copy_gb_per_s: f64,
    results: Vec<Product>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Product {
    op: String,
    variant: String,
    kernels: String,
    dot: String,
    scheme: String,
    shape: [usize; 2],
    n: usize,
    rows: usize,
    threads: usize,
    seconds: f64,
    seconds_min: f64,
    gb_per_s: f64,
    read_gb_per_s: f64,
    bits_per_weight: f64,
    relative_error: f64,
    relative_error_total: f64,
}

#[test]
fn products_are_measured_at_every_width() {
    let words = "bench matvec --quick --json --kernels scalar --threads 1 --rounds 1";
    let document: Products = Cmd::new(words).run().expect_status(0).document();
    assert_eq!(document.schema, 1);
    assert!(document.read_gb_per_s > 0.0 && document.copy_gb_per_s > 0.0);
    let lines: Vec<_> = document.results.iter().map(|m| (m.scheme.as_str(), m.variant.as_str())).collect();
    let expected = ["int2-g128", "int3-g128", "int4-g128", "int8-g128"];
    assert_eq!(lines, expected.map(|scheme| [(scheme, "int8"), (scheme, "f32")]).concat());
    for m in &document.results {
        assert_eq!((m.op.as_str(), m.kernels.as_str(), m.dot.as_str(), m.threads), ("matvec", "scalar", "plain", 1));
        assert_eq!(m.shape, [m.rows, m.n]);
        assert!(0.0 < m.seconds_min && m.seconds_min <= m.seconds && m.read_gb_per_s > 0.0);
        // A group of 128 has an f16 scale and a zero of a byte.
        let bits: f64 = m.scheme[3..4].parse().expect("a digit");
        assert!((m.bits_per_weight - bits - 24.0 / 128.0).abs() < 1e-9, "{}", m.scheme);
        assert!((m.gb_per_s * m.seconds * 8e9 - m.bits_per_weight * (m.rows * m.n) as f64).abs() < 1.0);
        // Rounding activations to 255 levels errs by less than a hundredth; f32 by far less than n * eps.
        let bound = if m.variant == "int8" { 1e-2 } else { 1e-5 };
        assert!(m.relative_error < bound && m.relative_error_total > m.relative_error, "{} {}", m.scheme, m.variant);
    }
}
