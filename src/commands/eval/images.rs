//! `eval` of a classifier: clean and corrupted images, calibration, images of another set.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use rayon::prelude::*;
use reweight::demo;
use reweight::eval::corruption::{Corruption, Corruptions};
use reweight::eval::{
    BINS, ImageScore, ImageSet, ImageSetError, Mahalanobis, agreement, area_under_curve, energies, score_images,
};
use reweight::model::{Classified, Classifier, ImageShape, Pixels};
use reweight_quant::kernels::Kernels;
use reweight_quant::memory;
use reweight_quant::store::Model;
use serde::Serialize;

use crate::args::Eval;
use crate::failure::{Problem, Status};
use crate::ui::{Align, Table, Ui};

#[derive(Serialize)]
struct Summary<'a> {
    images: usize,
    classes: usize,
    #[serde(flatten)]
    clean: Figures,
    calibration_bins: usize,
    corruptions: Vec<CorruptionDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mean_corruption_error: Option<f64>,
    /// Of errors over the reference's, corruption by corruption: as Hendrycks and Dietterich (2019) over those of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    mean_corruption_error_of_reference: Option<f64>,
    corruption_seed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ood: Option<OutsideDocument>,
    seconds: f64,
    images_per_s: f64,
    peak_rss_bytes: usize,
    kernels: &'a str,
    threads: usize,
}

/// What a model is worth on one version of the images, and how it compares with the reference there.
#[derive(Clone, Copy, Serialize)]
struct Figures {
    accuracy: f64,
    accuracy_standard_error: f64,
    nll: f64,
    calibration_error: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference_accuracy: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agreement: Option<f64>,
}

#[derive(Serialize)]
struct CorruptionDocument {
    name: &'static str,
    severity: usize,
    #[serde(flatten)]
    figures: Figures,
}

#[derive(Clone, Copy, Serialize)]
struct OutsideDocument {
    images: usize,
    energy_auroc: f64,
    /// `None` where features cannot be fitted.
    mahalanobis_auroc: Option<f64>,
}

/// Images, their classes, and who answers.
struct Bench<'a> {
    classifier: Classifier<'a>,
    reference: Option<Classifier<'a>>,
    shape: ImageShape,
    labels: &'a [u32],
    stop: &'a AtomicBool,
}

impl Bench<'_> {
    /// The answers, and what they are worth.
    fn score(&self, images: &[Pixels<'_>]) -> anyhow::Result<(Vec<Classified>, Figures)> {
        let answers = self.classifier.classify(self.shape, images, self.stop)?;
        let ImageScore { accuracy, accuracy_standard_error, nll, calibration_error, .. } =
            score_images(&answers, self.labels);
        let reference = self.reference.as_ref().map(|other| other.classify(self.shape, images, self.stop));
        let reference = reference.transpose()?;
        let figures = Figures {
            accuracy,
            accuracy_standard_error,
            nll,
            calibration_error,
            reference_accuracy: reference.as_deref().map(|theirs| score_images(theirs, self.labels).accuracy),
            agreement: reference.as_deref().map(|theirs| agreement(&answers, theirs)),
        };
        Ok((answers, figures))
    }
}

pub(super) fn run(arguments: &Eval, kernels: &'static Kernels, model: &Model, ui: &Ui) -> anyhow::Result<Status> {
    if !arguments.text.is_empty() {
        let problem = Problem::usage(format!("`{}` is a classifier of images", arguments.model.display()));
        return Err(problem.hint("name images with `--images SET`").into());
    }
    let set = images(arguments)?;
    let corruptions = corruptions(&arguments.corruption, set.shape())?;
    let reference_model = arguments.reference.as_deref().map(|path| super::super::open(path, ui)).transpose()?;
    if let Some(other) = reference_model.as_ref().filter(|model| !Classifier::is_one(model)) {
        let path = other.path().display();
        return Err(Problem::usage(format!("the reference `{path}` is no classifier of images")).into());
    }
    let classifier = Classifier::open(model, kernels)?;
    let n_classes = classifier.n_classes()?;
    let reference = reference_model.as_ref().map(|model| Classifier::open(model, kernels)).transpose()?;
    if let Some(found) = reference.as_ref().map(Classifier::n_classes).transpose()?.filter(|n| *n != n_classes) {
        return Err(Problem::usage(format!("a reference of {found} classes beside a model of {n_classes}")).into());
    }
    let bench =
        Bench { classifier, reference, shape: set.shape(), labels: set.labels(n_classes)?, stop: ui.interrupted() };
    let outside = arguments.ood.as_deref().map(open).transpose()?;
    let started = Instant::now();
    let clean_images = set.images();
    let (answers, clean) = bench.score(&clean_images)?;
    let mut documents = Vec::with_capacity(corruptions.len());
    for corruption in corruptions {
        let size = (set.shape().height, set.shape().width);
        let spoiled = clean_images.par_iter().enumerate();
        let spoiled: Vec<Vec<u8>> =
            spoiled.map(|(index, pixels)| corruption.apply(size, pixels, index, arguments.corruption_seed)).collect();
        let spoiled: Vec<Pixels<'_>> = spoiled.iter().map(Vec::as_slice).collect();
        let (_, figures) = bench.score(&spoiled)?;
        documents.push(CorruptionDocument { name: corruption.name(), severity: corruption.severity(), figures });
    }
    let ood = outside.as_ref().map(|other| tell_apart(&bench, &answers, other)).transpose()?;
    let seconds = started.elapsed().as_secs_f64();
    let passes = set.n_images() * (1 + documents.len());
    let summary = Summary {
        images: set.n_images(),
        classes: n_classes,
        clean,
        calibration_bins: BINS,
        mean_corruption_error: mean_error(&documents, |figures| 1.0 - figures.accuracy),
        mean_corruption_error_of_reference: mean_relative_error(&documents),
        corruptions: documents,
        corruption_seed: arguments.corruption_seed,
        ood,
        seconds,
        images_per_s: passes as f64 / seconds,
        peak_rss_bytes: memory::peak_rss_bytes(),
        kernels: kernels.name,
        threads: rayon::current_num_threads(),
    };
    report(&summary, ui)?;
    Ok(judge(arguments.fail_above, 1.0 - clean.accuracy, ui))
}

/// The set asked for; for the bundled classifier, where none is, its own.
fn images(arguments: &Eval) -> anyhow::Result<ImageSet> {
    match &arguments.images {
        Some(path) => Ok(open(path)?),
        None if arguments.model == Path::new(demo::VISION) && !arguments.model.exists() => {
            Ok(open(Path::new(demo::VISION))?)
        }
        None => Err(Problem::usage("no images to evaluate on").hint("name a set with `--images SET`").into()),
    }
}

/// A set by its path; one of the bundled classifier, unless something of that name exists.
fn open(path: &Path) -> Result<ImageSet, ImageSetError> {
    match demo::vision_file(path).filter(|_| !path.exists()) {
        Some(bytes) => ImageSet::of_safetensors(path, bytes),
        None => ImageSet::open(path),
    }
}

/// What was asked for, each once, in the order of the table.
fn corruptions(asked: &[Corruptions], shape: ImageShape) -> anyhow::Result<Vec<Corruption>> {
    let mut all: Vec<Corruption> = asked.iter().flat_map(|Corruptions(some)| some.iter().copied()).collect();
    all.sort_unstable();
    all.dedup();
    if !all.is_empty() && shape.channels != 1 {
        return Err(Problem::usage(format!("corruptions are of grey images, found images of {shape}")).into());
    }
    Ok(all)
}

/// Scores of the set's images against those of another.
fn tell_apart(bench: &Bench<'_>, answers: &[Classified], other: &ImageSet) -> anyhow::Result<OutsideDocument> {
    let outside = bench.classifier.classify(other.shape(), &other.images(), bench.stop)?;
    let fitted: Vec<&[f32]> = answers.iter().step_by(2).map(|answer| answer.features.as_slice()).collect();
    let labels: Vec<u32> = bench.labels.iter().step_by(2).copied().collect();
    let mahalanobis = Mahalanobis::fit(&fitted, &labels).map(|fitted| {
        let score = |answer: &Classified| fitted.score(&answer.features);
        let inside: Vec<f64> = answers.iter().skip(1).step_by(2).map(score).collect();
        area_under_curve(&inside, &outside.iter().map(score).collect::<Vec<_>>())
    });
    Ok(OutsideDocument {
        images: other.n_images(),
        energy_auroc: area_under_curve(&energies(answers), &energies(&outside)),
        mahalanobis_auroc: mahalanobis,
    })
}

/// The mean over corruptions of the mean error over their severities.
fn mean_error(documents: &[CorruptionDocument], error: impl Fn(&Figures) -> f64) -> Option<f64> {
    let mean = |values: &mut dyn Iterator<Item = f64>| {
        let (sum, n) = values.fold((0.0, 0usize), |(sum, n), value| (sum + value, n + 1));
        (n > 0).then(|| sum / n as f64)
    };
    let by_name = documents.chunk_by(|a, b| a.name == b.name);
    mean(&mut by_name.filter_map(|some| mean(&mut some.iter().map(|document| error(&document.figures)))))
}

/// The mean over corruptions of the sum of errors over the sum of the reference's.
fn mean_relative_error(documents: &[CorruptionDocument]) -> Option<f64> {
    let mut ratios = Vec::new();
    for some in documents.chunk_by(|a, b| a.name == b.name) {
        let ours: f64 = some.iter().map(|document| 1.0 - document.figures.accuracy).sum();
        let theirs: Option<f64> = some.iter().map(|document| Some(1.0 - document.figures.reference_accuracy?)).sum();
        ratios.push(ours / theirs.filter(|theirs| *theirs > 0.0)?);
    }
    (!ratios.is_empty()).then(|| ratios.iter().sum::<f64>() / ratios.len() as f64)
}

fn report(summary: &Summary<'_>, ui: &Ui) -> anyhow::Result<()> {
    if ui.json() {
        return ui.document(summary);
    }
    let mut table = Table::new([
        ("images", Align::Left),
        ("accuracy", Align::Right),
        ("nll", Align::Right),
        ("calibration error", Align::Right),
        ("reference", Align::Right),
        ("same class", Align::Right),
    ]);
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let mut row = |name: String, figures: &Figures| {
        let of = |share: Option<f64>| share.map_or_else(|| "-".to_owned(), percent);
        table.row([
            name,
            format!("{:.1} +- {:.1} %", 100.0 * figures.accuracy, 100.0 * figures.accuracy_standard_error),
            format!("{:.4}", figures.nll),
            percent(figures.calibration_error),
            of(figures.reference_accuracy),
            of(figures.agreement),
        ]);
    };
    row("clean".to_owned(), &summary.clean);
    for CorruptionDocument { name, severity, figures } in &summary.corruptions {
        row(format!("{name}:{severity}"), figures);
    }
    ui.table(&table)?;
    if let Some(error) = summary.mean_corruption_error {
        let beside = summary.mean_corruption_error_of_reference;
        let beside = beside.map_or_else(String::new, |ratio| format!(", {} of the reference's", percent(ratio)));
        ui.print(&format!("\nmean corruption error {}{beside}", percent(error)))?;
    }
    if let Some(ood) = &summary.ood {
        let mahalanobis = ood.mahalanobis_auroc.map_or_else(|| "-".to_owned(), percent);
        let energy = percent(ood.energy_auroc);
        let n = ood.images;
        ui.print(&format!("\ntold from {n} other images (AUROC): energy {energy}, Mahalanobis {mahalanobis}"))?;
    }
    let (n, seconds) = (summary.images, summary.seconds);
    ui.print(&format!("\n{n} images in {seconds:.2} s, {:.0} images/s", summary.images_per_s))
}

/// Whether the share of errors is within what was asked.
fn judge(bound: Option<f64>, found: f64, ui: &Ui) -> Status {
    match bound {
        Some(bound) if found > bound => {
            ui.note(&format!("share of errors {found:.6} is above {bound}"));
            Status::CheckFailed
        }
        _ => Status::Done,
    }
}
