//! Matrix-vector products with packed weights beside read bandwidth: the measurement of `reweight bench matvec`.
//!
//! `cargo bench --bench matvec -- [--json] [--smoke] [--shape ROWSxCOLUMNS] [--bits N] [--threads N] [--kernels NAME]
//! [--mib N] [--rounds N]`. `--mib 0` takes one matrix again and again, in whatever cache it fits.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a bench prints what it measured")]

#[path = "../src/commands/bench/matvec.rs"]
mod matvec;

use matvec::{Measured, Options};

fn main() {
    let (options, json) = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("error: {message}");
            std::process::exit(2);
        }
    };
    let results = matvec::measure(&options, |what| eprintln!("{what}"));
    if json { print_json(&results) } else { print_table(&results) }
}

fn options(arguments: impl Iterator<Item = String>) -> Result<(Options, bool), String> {
    let (mut options, mut json) = (Options::full(), false);
    let mut arguments = arguments.peekable();
    while let Some(argument) = arguments.next() {
        let mut text = || arguments.next().ok_or_else(|| format!("`{argument}` needs a value"));
        let number =
            |text: String| text.parse::<usize>().map_err(|_| format!("`{}` is not a number", text.escape_debug()));
        match argument.as_str() {
            "--json" => json = true,
            "--smoke" | "--test" => options = Options::quick(),
            "--bench" => {}
            "--shape" => options.shapes = vec![shape(&text()?)?],
            "--bits" => options.bits = vec![number(text()?)?.clamp(2, 8) as u8],
            "--threads" => options.threads = vec![number(text()?)?.max(1)],
            "--kernels" => options.kernels = vec![text()?],
            "--mib" => options.mib = number(text()?)?,
            "--rounds" => options.rounds = number(text()?)?.max(1),
            other => return Err(format!("unknown argument `{}`", other.escape_debug())),
        }
    }
    Ok((options, json))
}

fn shape(text: &str) -> Result<[usize; 2], String> {
    let sides = text.split_once('x').and_then(|(rows, columns)| Some([rows.parse().ok()?, columns.parse().ok()?]));
    sides.filter(|sides| !sides.contains(&0)).ok_or_else(|| format!("`{}` is not ROWSxCOLUMNS", text.escape_debug()))
}

fn print_table(results: &[Measured]) {
    println!(
        "shape        scheme     x     kernels          threads  us/product    GB/s   read  of read    b/w  error    total"
    );
    for m in results {
        let Measured { shape: [rows, columns], scheme, variant, kernels, dot, threads, .. } = m;
        println!(
            "{:<12} {scheme:<10} {variant:<5} {:<16} {threads:>7} {:>11.1} {:>7.2} {:>6.2} {:>8.2} {:>6.3}  {:.1e}  {:.1e}",
            format!("{rows}x{columns}"),
            format!("{kernels} {dot}"),
            m.seconds * 1e6,
            m.gb_per_s,
            m.read_gb_per_s,
            m.gb_per_s / m.read_gb_per_s,
            m.bits_per_weight,
            m.relative_error,
            m.relative_error_total,
        );
    }
}

fn print_json(results: &[Measured]) {
    let results: Vec<String> = results.iter().map(json).collect();
    println!("{{\"schema\":1,\"results\":[{}]}}", results.join(","));
}

fn json(m: &Measured) -> String {
    format!(
        "{{\"op\":\"matvec\",\"variant\":\"{}\",\"kernels\":\"{}\",\"dot\":\"{}\",\"scheme\":\"{}\",\"shape\":[{},{}],\
         \"threads\":{},\"seconds\":{:e},\"seconds_min\":{:e},\"gb_per_s\":{:.4},\"read_gb_per_s\":{:.4},\"bits_per_weight\":{:.4},\
         \"relative_error\":{:e},\"relative_error_total\":{:e}}}",
        m.variant,
        m.kernels,
        m.dot,
        m.scheme,
        m.shape[0],
        m.shape[1],
        m.threads,
        m.seconds,
        m.seconds_min,
        m.gb_per_s,
        m.read_gb_per_s,
        m.bits_per_weight,
        m.relative_error,
        m.relative_error_total,
    )
}
