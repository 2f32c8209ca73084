//! What a patch file or an adapter holds, for `inspect` and `patch list`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use reweight::demo;
use reweight_patches::patch::Change;
use reweight_patches::{adapter, patch};
use reweight_quant::pattern::Pattern;
use reweight_quant::tensor::shape_text;
use serde::Serialize;
use serde_json::Value;

use super::open_patch;
use crate::failure::Status;
use crate::ui::{Align, Table, Ui, bytes, escape};

#[derive(Serialize)]
struct Document<'a> {
    layout: &'static str,
    name: &'a str,
    kind: &'static str,
    blake3: &'a str,
    bytes: usize,
    n_layers: usize,
    n_tensors: usize,
    notes: &'a BTreeMap<String, Value>,
    tensors: Vec<TensorDocument<'a>>,
}

#[derive(Serialize)]
struct TensorDocument<'a> {
    name: &'a str,
    shape: &'a [usize],
    change: String,
    bytes: usize,
    /// Digest of the tensor that it was made for, where it was made for one.
    base_blake3: Option<&'a str>,
}

/// Whether a path is that of a patch or of an adapter's folder, as far as headers tell.
pub(in crate::commands) fn is_one(path: &Path) -> bool {
    let bundled = demo::vision_file(path).is_some() && demo::folder_of(path).is_none() && !path.exists();
    bundled || if path.is_dir() { path.join(adapter::CONFIG).is_file() } else { patch::is_patch(path) }
}

/// Shows its kind, digest and size, and which tensors it changes how.
pub(in crate::commands) fn run(path: &Path, tensors: Option<&str>, ui: &Ui) -> anyhow::Result<Status> {
    let patch = open_patch(path, None)?;
    let pattern = tensors.map(Pattern::new).transpose()?;
    let header = patch.header();
    let shown = header.tensors.iter().filter(|entry| pattern.as_ref().is_none_or(|p| p.matches(&entry.name)));
    let tensors: Vec<TensorDocument<'_>> = shown
        .map(|entry| TensorDocument {
            name: &entry.name,
            shape: &entry.shape,
            change: text(entry.change),
            bytes: patch.bytes_of(&entry.name),
            base_blake3: entry.base_blake3.as_deref(),
        })
        .collect();
    // A layer is a module: its weight and its bias, or its statistics.
    let layers: BTreeSet<&str> =
        tensors.iter().map(|tensor| tensor.name.rsplit_once('.').map_or(tensor.name, |(layer, _)| layer)).collect();
    let document = Document {
        layout: "patch",
        name: &header.name,
        kind: header.kind.name(),
        blake3: patch.digest(),
        bytes: patch.bytes().len(),
        n_layers: layers.len(),
        n_tensors: tensors.len(),
        notes: &header.notes,
        tensors,
    };
    if ui.json() {
        ui.document(&document)?;
    } else {
        show(&document, ui)?;
    }
    Ok(Status::Done)
}

fn text(change: Change) -> String {
    match change {
        Change::Plain { scale: 1.0 } => "added".to_owned(),
        Change::Plain { scale } => format!("added, times {scale}"),
        Change::Packed { bits } => format!("added, {bits} bits"),
        Change::Replace => "replaced".to_owned(),
        Change::LowRank { rank, scale, magnitude, .. } => {
            format!("{} of rank {rank}, times {scale}", if magnitude { "DoRA" } else { "LoRA" })
        }
        Change::Shards { rank, .. } => format!("MiSS of rank {rank}"),
        Change::Affine { rank } => format!("bat of rank {rank}"),
    }
}

fn show(document: &Document<'_>, ui: &Ui) -> anyhow::Result<()> {
    let mut table = Table::new([
        ("tensor", Align::Left),
        ("shape", Align::Left),
        ("change", Align::Left),
        ("bytes", Align::Right),
        ("made for", Align::Left),
    ]);
    for tensor in &document.tensors {
        let base = tensor.base_blake3.unwrap_or("any base");
        table.row([
            tensor.name.to_owned(),
            shape_text(tensor.shape),
            tensor.change.clone(),
            bytes(tensor.bytes as u64),
            base.chars().take(16).collect(),
        ]);
    }
    ui.table(&table)?;
    let notes: Vec<String> =
        document.notes.iter().map(|(name, value)| escape(&format!("{name} {value}")).into_owned()).collect();
    ui.print(&format!(
        "\n{} {}: {} tensors of {} layers, {}\ndigest {}\n{}",
        document.kind,
        escape(document.name),
        document.n_tensors,
        document.n_layers,
        bytes(document.bytes as u64),
        document.blake3,
        notes.join("\n")
    ))
}
