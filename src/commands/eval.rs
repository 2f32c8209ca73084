//! `eval`: what a model's predictions are worth on text, or on images.

mod images;

use std::path::{Path, PathBuf};
use std::time::Instant;

use reweight::demo;
use reweight::eval::{Beside, LogitsWriter, Reference, SavedLogits, Score, Scores, cosine, embed, score};
use reweight::model::{Classifier, Network};
use reweight::text::{Document, TextError, Tokenizer, documents, windows};
use reweight_quant::kernels::Kernels;
use reweight_quant::memory;
use reweight_quant::store::Model;
use reweight_quant::stream::check_output;
use serde::Serialize;

use crate::args::Eval;
use crate::failure::{Problem, Status};
use crate::ui::{Align, Table, Ui, bytes};

/// Tokens of a window where nobody says otherwise and the model has positions for them.
const CONTEXT: usize = 1024;

/// A text and what it is called.
struct Text {
    name: String,
    documents: Vec<Document>,
}

/// A reference, opened.
enum Opened {
    Model(Model),
    Logits(SavedLogits),
}

pub(super) fn run(arguments: &Eval, kernels: &'static Kernels, ui: &Ui) -> anyhow::Result<Status> {
    let model = super::open(&arguments.model, ui)?;
    if let Some(target) = &arguments.save_logits {
        check_output([&model], target, arguments.force)?;
    }
    if Classifier::is_one(&model) {
        let of_text = [
            (arguments.save_logits.is_some(), "--save-logits"),
            (arguments.max_tokens.is_some(), "--max-tokens"),
            (arguments.context.is_some(), "--context"),
        ];
        if let Some((_, option)) = of_text.into_iter().find(|(given, _)| *given) {
            let problem =
                format!("{option} is about text, and `{}` is a classifier of images", arguments.model.display());
            return Err(Problem::usage(problem).into());
        }
        return images::run(arguments, kernels, &model, ui);
    }
    if arguments.images.is_some() || arguments.ood.is_some() || !arguments.corruption.is_empty() {
        let problem = Problem::usage(format!("`{}` is no classifier of images", arguments.model.display()));
        let known = reweight::model::image_model_types().join(", ");
        return Err(problem.hint(format!("its config.json has another `model_type` than {known}")).into());
    }
    let opened = arguments.reference.as_deref().map(|path| open_reference(path, ui)).transpose()?;
    let network = Network::open(&model, kernels)?;
    let reference_network = match &opened {
        Some(Opened::Model(reference)) => Some(Network::open(reference, kernels)?),
        _ => None,
    };
    let texts = texts(&arguments.model, &arguments.text, &arguments.field)?;
    let logits_of = match (&opened, &arguments.save_logits) {
        (Some(Opened::Logits(saved)), _) => Some(saved.path()),
        (_, save) => save.as_deref(),
    };
    if network.is_decoder() {
        let reference = match (&opened, &reference_network) {
            (Some(Opened::Logits(saved)), _) => Some(Reference::Saved(saved)),
            (_, network) => network.as_ref().map(Reference::Network),
        };
        predictions(arguments, kernels, &model, &network, reference, &texts, ui)
    } else if let Some(path) = logits_of {
        let problem = format!("an encoder predicts no tokens: `{}` cannot hold its logits", path.display());
        Err(Problem::usage(problem).hint("name the original with `--reference MODEL`").into())
    } else {
        sentences(arguments, &model, &network, reference_network.as_ref(), &texts, ui)
    }
}

/// A file under any name but those of models is one of logits, and so is one that says it.
fn open_reference(path: &Path, ui: &Ui) -> anyhow::Result<Opened> {
    let named = |extension: &str| path.extension().is_some_and(|found| found == extension);
    let is_logits = path.is_file() && !named("gguf") && (!named("safetensors") || SavedLogits::is_file(path));
    Ok(if is_logits { Opened::Logits(SavedLogits::open(path)?) } else { Opened::Model(super::open(path, ui)?) })
}

/// The files asked for; for the bundled model, where none is, its held-out text.
fn texts(model: &Path, files: &[PathBuf], field: &str) -> anyhow::Result<Vec<Text>> {
    if files.is_empty() && model == Path::new(demo::NAME) && !model.exists() {
        return Ok(vec![Text {
            name: "held-out".to_owned(),
            documents: vec![Document::Text(demo::HELDOUT_TEXT.to_owned())],
        }]);
    }
    if files.is_empty() {
        return Err(Problem::usage("no text to evaluate on").hint("name files with `--text FILE...`").into());
    }
    let read = |path: &PathBuf| Ok(Text { name: path.display().to_string(), documents: documents(path, field)? });
    files.iter().map(read).collect()
}

#[derive(Serialize)]
struct Summary<'a> {
    tokens: usize,
    nll: f64,
    nll_standard_error: f64,
    perplexity: f64,
    perplexity_standard_error: f64,
    #[serde(flatten)]
    against: Option<AgainstDocument>,
    context: usize,
    windows: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    logits_bytes: Option<usize>,
    texts: Vec<TextDocument>,
    seconds: f64,
    tokens_per_s: f64,
    peak_rss_bytes: usize,
    peak_anonymous_bytes: usize,
    kernels: &'a str,
    threads: usize,
}

#[derive(Serialize)]
struct TextDocument {
    text: String,
    tokens: usize,
    nll: f64,
    nll_standard_error: f64,
    perplexity: f64,
    #[serde(flatten)]
    against: Option<AgainstDocument>,
}

#[derive(Serialize)]
struct AgainstDocument {
    reference_nll: f64,
    kl_mean: f64,
    kl_p99: f64,
    kl_max: f64,
    top1_agreement: f64,
}

impl AgainstDocument {
    fn of(score: &Score) -> Option<Self> {
        score.against.as_ref().map(|against| Self {
            reference_nll: against.reference_nll,
            kl_mean: against.kl_mean,
            kl_p99: against.kl_p99,
            kl_max: against.kl_max,
            top1_agreement: against.top1_agreement,
        })
    }
}

fn predictions(
    arguments: &Eval,
    kernels: &'static Kernels,
    model: &Model,
    network: &Network<'_>,
    reference: Option<Reference<'_>>,
    texts: &[Text],
    ui: &Ui,
) -> anyhow::Result<Status> {
    let context = arguments.context.map_or(CONTEXT.min(network.positions()), std::num::NonZeroUsize::get);
    if context < 2 {
        return Err(Problem::usage("a window of one token predicts nothing").hint("`--context 2` or more").into());
    }
    let tokenizer = Tokenizer::of(model)?;
    let tokens: Vec<Vec<u32>> =
        texts.iter().map(|text| tokens(&tokenizer, &text.documents)).collect::<Result<_, _>>()?;
    let mut cut: Vec<Vec<&[u32]>> = tokens.iter().map(|tokens| windows(tokens, context)).collect();
    for ((text, tokens), windows) in texts.iter().zip(&tokens).zip(&cut) {
        if windows.is_empty() {
            let (path, found) = (PathBuf::from(&text.name), tokens.len());
            return Err(TextError::TooShort { path, expected: context, found }.into());
        }
    }
    if let Some(max) = arguments.max_tokens {
        spread(&mut cut, max.get() / context);
    }
    let started = Instant::now();
    let n_tokens: usize = cut.iter().flatten().map(|window| window.len()).sum();
    let save = arguments.save_logits.as_deref().map(|path| save_logits(path, model, network, &cut, ui)).transpose()?;
    let reference_blocks = match reference {
        Some(Reference::Network(reference)) => reference.n_blocks(),
        _ => 0,
    };
    let passes = network.n_blocks() + reference_blocks;
    let progress = ui.progress_of_tokens(n_tokens, passes);
    let advance = |name: &str, tokens: u64| progress.step(name, tokens);
    let beside = Beside { reference, save: save.as_ref() };
    let scores = score(kernels, network, beside, &cut, ui.interrupted(), &advance)?;
    let logits_bytes = save.as_ref().map(LogitsWriter::file_bytes);
    save.map(LogitsWriter::finish).transpose()?;
    progress.finish();
    let seconds = started.elapsed().as_secs_f64();
    let run = Ran { context, windows: cut.iter().map(Vec::len).sum(), n_tokens, seconds, logits_bytes };
    report(&scores, texts, &run, kernels, ui)?;
    Ok(judge(arguments.fail_above, &scores.all, ui))
}

/// The tokens of a text: documents one after the other, a line break between texts.
fn tokens(tokenizer: &Tokenizer, documents: &[Document]) -> Result<Vec<u32>, TextError> {
    let mut tokens = Vec::new();
    for group in documents.chunk_by(|a, b| matches!((a, b), (Document::Text(_), Document::Text(_)))) {
        let texts: Vec<&str> = group.iter().filter_map(Document::text).collect();
        match group {
            [Document::Tokens(ids)] => tokens.extend(ids),
            _ => tokens.extend(tokenizer.encode(&texts.join("\n"))?),
        }
    }
    Ok(tokens)
}

/// What was run.
struct Ran {
    context: usize,
    windows: usize,
    n_tokens: usize,
    seconds: f64,
    logits_bytes: Option<usize>,
}

/// Starts the file of logits, and says how large it will be.
fn save_logits(
    path: &Path,
    model: &Model,
    network: &Network<'_>,
    texts: &[Vec<&[u32]>],
    ui: &Ui,
) -> anyhow::Result<LogitsWriter> {
    let file = LogitsWriter::create(path, model, network, &texts.concat())?;
    ui.note(&format!("{} will take {}", crate::ui::escape_path(path), bytes(file.file_bytes() as u64)));
    Ok(file)
}

/// Keeps `n` windows in all, at least one, as many of each text as there can be.
fn spread(texts: &mut [Vec<&[u32]>], n: usize) {
    let mut kept = vec![0; texts.len()];
    let mut left = n.max(1);
    while left > 0 {
        let before = left;
        for (kept, text) in kept.iter_mut().zip(&*texts) {
            if left > 0 && *kept < text.len() {
                *kept += 1;
                left -= 1;
            }
        }
        if left == before {
            break;
        }
    }
    for (text, kept) in texts.iter_mut().zip(kept) {
        text.truncate(kept);
    }
}

fn report(scores: &Scores, texts: &[Text], run: &Ran, kernels: &Kernels, ui: &Ui) -> anyhow::Result<()> {
    let all = &scores.all;
    if ui.json() {
        let of_text = |(text, score): (&Text, &Score)| TextDocument {
            text: text.name.clone(),
            tokens: score.tokens,
            nll: score.nll,
            nll_standard_error: score.nll_standard_error,
            perplexity: score.perplexity(),
            against: AgainstDocument::of(score),
        };
        return ui.document(&Summary {
            tokens: all.tokens,
            nll: all.nll,
            nll_standard_error: all.nll_standard_error,
            perplexity: all.perplexity(),
            perplexity_standard_error: all.perplexity_standard_error(),
            against: AgainstDocument::of(all),
            context: run.context,
            windows: run.windows,
            logits_bytes: run.logits_bytes,
            texts: texts.iter().zip(&scores.texts).map(of_text).collect(),
            seconds: run.seconds,
            tokens_per_s: run.n_tokens as f64 / run.seconds,
            peak_rss_bytes: memory::peak_rss_bytes(),
            peak_anonymous_bytes: memory::anonymous_bytes(),
            kernels: kernels.name,
            threads: rayon::current_num_threads(),
        });
    }
    let mut table = Table::new([
        ("text", Align::Left),
        ("tokens", Align::Right),
        ("nll", Align::Right),
        ("perplexity", Align::Right),
        ("kl mean", Align::Right),
        ("kl 99 %", Align::Right),
        ("same top", Align::Right),
    ]);
    let mut row = |name: &str, score: &Score| {
        let of = |value: fn(&AgainstDocument) -> String| {
            AgainstDocument::of(score).map_or_else(|| "-".to_owned(), |against| value(&against))
        };
        table.row([
            name.to_owned(),
            score.tokens.to_string(),
            format!("{:.4} +- {:.4}", score.nll, score.nll_standard_error),
            format!("{:.3} +- {:.3}", score.perplexity(), score.perplexity_standard_error()),
            of(|against| format!("{:.4}", against.kl_mean)),
            of(|against| format!("{:.4}", against.kl_p99)),
            of(|against| format!("{:.1} %", 100.0 * against.top1_agreement)),
        ]);
    };
    for (text, score) in texts.iter().zip(&scores.texts) {
        row(&text.name, score);
    }
    if texts.len() > 1 {
        row("all", all);
    }
    ui.table(&table)?;
    let (windows, context) = (run.windows, run.context);
    let speed = run.n_tokens as f64 / run.seconds;
    ui.print(&format!("\n{windows} windows of {context} tokens in {:.2} s, {speed:.0} tokens/s", run.seconds))
}

/// Whether the loss, or the divergence from the reference, is within what was asked.
fn judge(bound: Option<f64>, score: &Score, ui: &Ui) -> Status {
    let (what, found) = match &score.against {
        Some(against) => ("mean divergence", against.kl_mean),
        None => ("loss", score.nll),
    };
    match bound {
        Some(bound) if found.is_nan() || found > bound => {
            ui.note(&format!("{what} {found:.6} is above {bound}"));
            Status::CheckFailed
        }
        _ => Status::Done,
    }
}

#[derive(Serialize)]
struct SentencesDocument {
    sentences: usize,
    tokens: usize,
    cosine_mean: f64,
    cosine_min: f64,
    seconds: f64,
}

/// Encoders: cosines of pooled embeddings with the reference's, a sentence a line.
fn sentences(
    arguments: &Eval,
    model: &Model,
    network: &Network<'_>,
    reference: Option<&Network<'_>>,
    texts: &[Text],
    ui: &Ui,
) -> anyhow::Result<Status> {
    let Some(reference) = reference else {
        let problem = Problem::usage("an encoder predicts no tokens: it is compared with another");
        return Err(problem.hint("name the original with `--reference MODEL`").into());
    };
    let tokenizer = Tokenizer::of(model)?;
    let lines = texts.iter().flat_map(|text| &text.documents).filter_map(Document::text).flat_map(str::lines);
    let mut tokens = Vec::new();
    for line in lines.filter(|line| !line.trim().is_empty()) {
        let mut sentence = tokenizer.encode_with_special(line)?;
        sentence.truncate(arguments.context.map_or(network.positions(), std::num::NonZeroUsize::get));
        tokens.push(sentence);
    }
    if tokens.is_empty() {
        return Err(Problem::usage("the text has no lines").into());
    }
    let started = Instant::now();
    let tokens: Vec<&[u32]> = tokens.iter().map(Vec::as_slice).collect();
    let n_tokens: usize = tokens.iter().map(|tokens| tokens.len()).sum();
    let progress = ui.progress_of_tokens(n_tokens, network.n_blocks() + reference.n_blocks());
    let advance = |name: &str, tokens: u64| progress.step(name, tokens);
    let ours = embed(network, &tokens, ui.interrupted(), &advance)?;
    let theirs = embed(reference, &tokens, ui.interrupted(), &advance)?;
    progress.finish();
    let cosines: Vec<f64> = ours.iter().zip(&theirs).map(|(a, b)| cosine(a, b)).collect();
    let mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
    let min = cosines.iter().copied().fold(f64::INFINITY, f64::min);
    let seconds = started.elapsed().as_secs_f64();
    if ui.json() {
        let document = SentencesDocument {
            sentences: cosines.len(),
            tokens: n_tokens,
            cosine_mean: mean,
            cosine_min: min,
            seconds,
        };
        ui.document(&document)?;
    } else {
        let n = cosines.len();
        ui.print(&format!(
            "{n} sentences, cosine with the reference: mean {mean:.6}, least {min:.6}, in {seconds:.2} s"
        ))?;
    }
    match arguments.fail_above {
        Some(bound) if 1.0 - mean > bound => {
            ui.note(&format!("mean cosine distance {:.6} is above {bound}", 1.0 - mean));
            Ok(Status::CheckFailed)
        }
        _ => Ok(Status::Done),
    }
}
