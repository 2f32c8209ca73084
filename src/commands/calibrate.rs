//! `calibrate`: activation statistics of a model over text.

use std::path::{Path, PathBuf};
use std::time::Instant;

use reweight::calibrate::{Sample, calibrate, sample};
use reweight::chat::{ChatTemplate, Conversation, conversations};
use reweight::demo;
use reweight::model::Network;
use reweight::text::{Document, Tokenizer, documents};
use reweight_quant::error::FileError;
use reweight_quant::kernels::Kernels;
use reweight_quant::memory;
use reweight_quant::stats::{Statistics, imatrix};
use reweight_quant::store::Model;
use reweight_quant::stream::check_output;
use serde::Serialize;

use crate::args::Calibrate;
use crate::failure::{Problem, Status};
use crate::ui::{Ui, bytes};

pub(super) fn run(arguments: &Calibrate, kernels: &'static Kernels, ui: &Ui) -> anyhow::Result<Status> {
    let kernels = kernels.with_split_products();
    let started = Instant::now();
    if !arguments.merge.is_empty() {
        let target = &arguments.model;
        if let Some(extra) = &arguments.stats {
            let problem = format!("--merge takes one path to write, found also `{}`", extra.display());
            return Err(Problem::usage(problem).into());
        }
        check_output([], target, arguments.force)?;
        let mut merged = read(&arguments.merge[0])?;
        for path in &arguments.merge[1..] {
            merged.merge(read(path)?).map_err(|error| {
                Problem::usage(format!(
                    "`{}` does not go with `{}`: {error}",
                    path.display(),
                    arguments.merge[0].display()
                ))
            })?;
        }
        write(&merged, target)?;
        return report(&merged, target, started, None, kernels, ui);
    }
    let Some(target) = &arguments.stats else {
        return Err(Problem::usage("no file to write statistics to")
            .hint("reweight calibrate MODEL STATS --text FILE")
            .into());
    };
    let model = super::open(&arguments.model, ui)?;
    check_output([&model], target, arguments.force)?;
    let network = Network::open(&model, kernels)?;
    let tokenizer = Tokenizer::of(&model)?;
    let texts = if arguments.chat { chats(arguments, &model, &tokenizer)? } else { tokens(arguments, &tokenizer)? };
    let over = Over {
        texts: &texts,
        tokens: arguments.tokens.get(),
        context: arguments.context.get(),
        seed: arguments.seed,
        with_gram: arguments.gram,
    };
    let (sample, statistics) = gather(&model, &network, &over, kernels, ui)?;
    warn_of_few_tokens(&statistics, ui);
    write(&statistics, target)?;
    report(&statistics, target, started, Some(&sample), kernels, ui)
}

/// What statistics are gathered over, and how much of it.
pub(super) struct Over<'a> {
    /// Tokens of each document of each text.
    pub(super) texts: &'a [Vec<Vec<u32>>],
    pub(super) tokens: usize,
    pub(super) context: usize,
    pub(super) seed: u64,
    pub(super) with_gram: bool,
}

/// Windows of tokens that are not none.
pub(super) fn sample_of(network: &Network<'_>, over: &Over<'_>) -> anyhow::Result<Sample> {
    let sample = sample(over.texts, over.tokens, over.context.min(network.positions()), over.seed);
    if sample.windows.is_empty() {
        return Err(Problem::usage("the text has no tokens").into());
    }
    Ok(sample)
}

/// Runs a model over a sample of texts with a progress bar.
pub(super) fn gather(
    model: &Model,
    network: &Network<'_>,
    over: &Over<'_>,
    kernels: &'static Kernels,
    ui: &Ui,
) -> anyhow::Result<(Sample, Statistics)> {
    let sample = sample_of(network, over)?;
    let progress = ui.progress_of_tokens(sample.n_tokens(), network.n_blocks());
    let advance = |name: &str, tokens: u64| progress.step(name, tokens);
    let statistics = calibrate(model, network, &sample, kernels, over.with_gram, ui.interrupted(), &advance)?;
    progress.finish();
    Ok((sample, statistics))
}

/// Tokens of each document.
pub(super) fn encode(tokenizer: &Tokenizer, documents: &[Document]) -> anyhow::Result<Vec<Vec<u32>>> {
    documents.iter().map(|document| Ok(tokenizer.encode_document(document)?)).collect()
}

/// The text that the bundled model is calibrated on.
pub(super) fn bundled_text() -> Vec<Document> {
    vec![Document::Text(demo::CALIBRATION_TEXT.to_owned())]
}

/// Tokens of each text.
fn tokens(arguments: &Calibrate, tokenizer: &Tokenizer) -> anyhow::Result<Vec<Vec<Vec<u32>>>> {
    if arguments.text.is_empty() && arguments.model == Path::new(demo::NAME) && !arguments.model.exists() {
        return Ok(vec![encode(tokenizer, &bundled_text())?]);
    }
    let field = arguments.field.as_deref().unwrap_or("text");
    texts(arguments)?.iter().map(|path| encode(tokenizer, &documents(path, field)?)).collect()
}

/// Tokens of each text's conversations.
fn chats(arguments: &Calibrate, model: &Model, tokenizer: &Tokenizer) -> anyhow::Result<Vec<Vec<Vec<u32>>>> {
    let template = ChatTemplate::of(model, arguments.chat_date)?;
    let field = arguments.field.as_deref().unwrap_or("messages");
    let encode = |path: &PathBuf| -> anyhow::Result<Vec<Vec<u32>>> {
        let (lines, conversations): (Vec<usize>, Vec<Conversation>) = conversations(path, field)?.into_iter().unzip();
        let rendered = template.render(&conversations);
        let rendered = rendered.map_err(|(index, error)| {
            anyhow::Error::new(error).context(format!("`{}`, line {}", path.display(), lines[index]))
        })?;
        rendered.iter().map(|text| Ok(tokenizer.encode(text)?)).collect()
    };
    texts(arguments)?.iter().map(encode).collect()
}

fn texts(arguments: &Calibrate) -> anyhow::Result<&[PathBuf]> {
    if arguments.text.is_empty() {
        return Err(Problem::usage("no text to calibrate on").hint("name files with `--text FILE...`").into());
    }
    Ok(&arguments.text)
}

fn is_imatrix(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gguf" || extension == "dat" || extension == "imatrix")
}

/// Reads a file of statistics, or an importance matrix.
pub(super) fn read(path: &Path) -> anyhow::Result<Statistics> {
    Ok(if is_imatrix(path) { imatrix::read(path)? } else { Statistics::read(path)? })
}

fn write(statistics: &Statistics, path: &Path) -> Result<(), FileError> {
    if is_imatrix(path) { imatrix::write(statistics, path) } else { statistics.write(path) }
}

/// Experts that saw too few tokens for their statistics to mean much.
fn warn_of_few_tokens(statistics: &Statistics, ui: &Ui) {
    const FEW: u64 = 128;
    let most = statistics.inputs.values().map(|input| input.tokens).max().unwrap_or(0);
    let few: Vec<String> = statistics
        .inputs
        .iter()
        .filter(|(_, input)| input.tokens < FEW && input.tokens < most)
        .map(|(key, input)| format!("{} ({})", key.0, input.tokens))
        .collect();
    if !few.is_empty() {
        let shown = few.iter().take(8).map(String::as_str).collect::<Vec<_>>().join(", ");
        ui.warn(&format!("{} inputs saw fewer than {FEW} tokens: {shown}", few.len()));
    }
}

#[derive(Serialize)]
struct Summary<'a> {
    tokens: u64,
    windows: Option<usize>,
    inputs: Vec<InputDocument<'a>>,
    layers: usize,
    bytes_out: u64,
    seconds: f64,
    tokens_per_s: Option<f64>,
    peak_rss_bytes: usize,
    kernels: &'a str,
    threads: usize,
}

#[derive(Serialize)]
struct InputDocument<'a> {
    name: &'a str,
    channels: usize,
    tokens: u64,
    gram: bool,
}

fn report(
    statistics: &Statistics,
    target: &Path,
    started: Instant,
    sample: Option<&Sample>,
    kernels: &Kernels,
    ui: &Ui,
) -> anyhow::Result<Status> {
    let seconds = started.elapsed().as_secs_f64();
    let bytes_out = std::fs::metadata(target)?.len();
    if ui.json() {
        let inputs = statistics.inputs.iter().map(|(key, input)| InputDocument {
            name: &key.0,
            channels: input.width(),
            tokens: input.tokens,
            gram: input.gram.is_some(),
        });
        ui.document(&Summary {
            tokens: statistics.tokens(),
            windows: sample.map(|sample| sample.windows.len()),
            inputs: inputs.collect(),
            layers: statistics.layers.len(),
            bytes_out,
            seconds,
            tokens_per_s: sample.map(|sample| sample.n_tokens() as f64 / seconds),
            peak_rss_bytes: memory::peak_rss_bytes(),
            kernels: kernels.name,
            threads: rayon::current_num_threads(),
        })?;
        return Ok(Status::Done);
    }
    let (layers, inputs) = (statistics.layers.len(), statistics.inputs.len());
    ui.print(&format!(
        "{}: {} tokens, {layers} layers with {inputs} inputs, {} in {seconds:.2} s",
        crate::ui::escape_path(target),
        statistics.tokens(),
        bytes(bytes_out),
    ))?;
    Ok(Status::Done)
}
