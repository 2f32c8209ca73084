//! A model as everything downstream sees it: named weights, a configuration, side files. Opens any supported layout.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde_json::Value;

use crate::error::FileError;
use crate::pack::{self, Container};
use crate::store::disk::is_plain_name;
use crate::store::folder::Folder;
use crate::store::gguf::{GgufFile, is_later_file};
use crate::store::safetensors::SafetensorsFile;
use crate::store::weight::{PlainTensor, Storage, Weight};
use crate::store::{Bytes, GgmlRows, Scaling, natural};

/// The index of a sharded folder.
pub const INDEX_NAME: &str = "model.safetensors.index.json";
/// The weights of a folder that is not sharded.
pub const SINGLE_NAME: &str = "model.safetensors";
/// The configuration of a folder.
pub const CONFIG_NAME: &str = "config.json";
/// What this toolkit says about a folder it wrote.
pub const MANIFEST_NAME: &str = "reweight.json";
/// Statistics of the inputs of a folder's layers, kept with its weights so that others can be made from these.
pub const STATISTICS_NAME: &str = "statistics.reweight";
/// The sub-folder that says which patches a folder's weights hold and how to take them off. It speaks of these very
/// weights, so it is no side file of what is made from them.
pub const LEDGER_NAME: &str = "reweight-ledger";

/// An opened model. Weights are mapped, not read.
#[derive(Clone, Debug)]
pub struct Model {
    path: PathBuf,
    layout: ModelLayout,
    weights: Vec<Weight>,
    config: Option<Value>,
    side_files: SideFiles,
    left_behind: Vec<String>,
    gguf: Option<Arc<GgufFile>>,
}

/// Files that go with the weights. Those of a GGUF file are made of its metadata when they are asked for.
type SideFiles = OnceLock<Vec<SideFile>>;

/// Which layout a model came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelLayout {
    /// A Hugging Face folder, or the bundled one.
    Folder,
    /// One `.safetensors` file without configuration.
    Safetensors,
    /// One `.gguf` file, presented under Hugging Face names.
    Gguf,
}

/// A file carried over beside the weights: tokenizer, chat template, licence.
#[derive(Clone, Debug)]
pub struct SideFile {
    /// Path relative to the folder.
    pub name: String,
    /// Its bytes.
    pub bytes: Bytes,
}

impl Model {
    /// Opens a folder, a `.safetensors` file or a `.gguf` file.
    ///
    /// Cost: reads headers and JSON files, no weights.
    ///
    /// # Errors
    /// `FileError`, with the file, what was expected and what was found.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let metadata = std::fs::metadata(path).map_err(FileError::io(path, "open"))?;
        if metadata.is_dir() {
            return Self::open_folder(&Folder::on_disk(path));
        }
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("gguf") => Self::open_gguf(path, path),
            Some("safetensors") => {
                let file = SafetensorsFile::open(path)?;
                let weights = join_quantized(weights_of(&file, |_| true), None)?;
                Ok(Self::new(path, ModelLayout::Safetensors, weights))
            }
            _ => Err(FileError::NoModel {
                path: path.to_owned(),
                what: "expected a folder, or a file named .safetensors or .gguf".into(),
            }),
        }
    }

    /// Opens a folder in the Hugging Face layout.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn open_folder(folder: &Folder) -> Result<Self, FileError> {
        let names = folder.names()?;
        let weights = match (folder.contains(INDEX_NAME), find_single(folder, &names)?) {
            (true, _) => sharded(folder)?,
            (false, Single::Safetensors(name)) => weights_of(&open_file(folder, &name)?, |_| true),
            (false, Single::Gguf(name)) => return Self::open_gguf(&folder.root().join(name), folder.root()),
        };
        let config = folder.contains(CONFIG_NAME).then(|| read_config(folder)).transpose()?;
        let weights = join_quantized(weights, config.as_ref())?;
        let mut model = Self::new(folder.root(), ModelLayout::Folder, weights);
        model.config = config;
        let mut side_files = Vec::new();
        for name in names {
            if is_side_file(&name) {
                side_files.push(SideFile { bytes: folder.bytes(&name)?, name });
            } else if !is_weights_of_folder(&name) {
                model.left_behind.push(name);
            }
        }
        model.side_files = side_files.into();
        Ok(model)
    }

    fn open_gguf(file: &Path, path: &Path) -> Result<Self, FileError> {
        let gguf = GgufFile::open(file)?;
        let (tensors, config) = gguf.hugging_face_model()?;
        let mut weights: Vec<Weight> = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            let rows = GgmlRows::of(&gguf, &tensor)?;
            let path = gguf.file_of(&gguf.tensors()[tensor.source]).0;
            let same = weights.last().filter(|weight| weight.file.as_path() == path);
            let file = same.map_or_else(|| Arc::new(path.to_owned()), |weight| Arc::clone(&weight.file));
            weights.push(Weight {
                name: tensor.name,
                shape: tensor.shape,
                file,
                storage: Storage::Ggml(rows),
                scaling: None,
            });
        }
        let mut model = Self::new(path, ModelLayout::Gguf, weights);
        model.config = Some(config);
        model.side_files = SideFiles::new();
        model.gguf = Some(Arc::new(gguf));
        Ok(model)
    }

    fn new(path: &Path, layout: ModelLayout, mut weights: Vec<Weight>) -> Self {
        weights.sort_by(|a, b| natural::compare(&a.name, &b.name));
        let (config, left_behind, gguf) = (None, Vec::new(), None);
        Self { path: path.to_owned(), layout, weights, config, side_files: Vec::new().into(), left_behind, gguf }
    }

    /// Where it is, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The layout it came in.
    #[must_use]
    pub const fn layout(&self) -> ModelLayout {
        self.layout
    }

    /// Every weight, in natural order of names: `layers.2` before `layers.10`.
    #[must_use]
    pub fn weights(&self) -> &[Weight] {
        &self.weights
    }

    /// Bytes of all weights as they are stored.
    #[must_use]
    pub fn stored_bytes(&self) -> usize {
        self.weights.iter().map(Weight::stored_bytes).sum()
    }

    /// Where among [`Model::weights`] one of this name is.
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        self.weights.binary_search_by(|weight| natural::compare(&weight.name, name)).ok()
    }

    /// The weight of this name.
    #[must_use]
    pub fn weight(&self, name: &str) -> Option<&Weight> {
        self.position(name).map(|index| &self.weights[index])
    }

    /// The same model with one more file that goes with its weights.
    ///
    /// # Errors
    /// As [`Model::side_files`].
    pub fn with_side_file(&self, name: &str, bytes: Vec<u8>) -> Result<Self, FileError> {
        let mut files = self.side_files()?.to_vec();
        files.push(SideFile { name: name.to_owned(), bytes: Bytes::from_vec(bytes) });
        let mut model = self.clone();
        model.side_files = files.into();
        Ok(model)
    }

    /// The file of statistics that goes with a folder's weights, where there is one.
    #[must_use]
    pub fn statistics_file(&self) -> Option<PathBuf> {
        let path = self.path.join(STATISTICS_NAME);
        (self.layout == ModelLayout::Folder && path.is_file()).then_some(path)
    }

    /// The same model with some weights scaled, by name, each on top of what is done to it already.
    #[must_use]
    pub fn scaled<'a>(&self, scalings: impl IntoIterator<Item = (&'a String, &'a Scaling)>) -> Self {
        let mut model = self.clone();
        for (name, new) in scalings {
            let Some(index) = model.position(name) else { continue };
            let scaling = &mut model.weights[index].scaling;
            *scaling = Some(Box::new(scaling.as_ref().map_or_else(|| new.clone(), |old| old.then(new))));
        }
        model
    }

    /// The same model with some weights replaced by others of their names.
    #[must_use]
    pub fn with_weights(&self, weights: impl IntoIterator<Item = Weight>) -> Self {
        let mut model = self.clone();
        for weight in weights {
            if let Some(index) = model.position(&weight.name) {
                model.weights[index] = weight;
            }
        }
        model
    }

    /// Some tensors of one `.safetensors` file, quantized ones joined as the configuration says, whatever else it holds.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub(crate) fn open_tensors(
        path: &Path,
        config: Option<&Value>,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<Weight>, FileError> {
        join_quantized(weights_of(&SafetensorsFile::open(path)?, wanted), config)
    }

    /// The configuration, where there is one.
    #[must_use]
    pub const fn config(&self) -> Option<&Value> {
        self.config.as_ref()
    }

    /// A string of the configuration.
    #[must_use]
    pub fn config_text(&self, key: &str) -> Option<&str> {
        self.config.as_ref()?.get(key)?.as_str()
    }

    /// Files that go with the weights; `config.json` is not among them.
    ///
    /// Cost: rebuilds the tokenizer of a GGUF file, once.
    ///
    /// # Errors
    /// `FileError::Unsupported` and `FileError::Malformed` for a tokenizer of a GGUF file that has no counterpart.
    pub fn side_files(&self) -> Result<&[SideFile], FileError> {
        if let (Some(gguf), None) = (&self.gguf, self.side_files.get()) {
            let file = |(name, bytes)| SideFile { name, bytes: Bytes::from_vec(bytes) };
            let files = gguf.hugging_face_files()?.into_iter().map(file).collect();
            return Ok(self.side_files.get_or_init(|| files));
        }
        Ok(self.side_files.get().map_or(&[], Vec::as_slice))
    }

    /// The GGUF file that it was read from.
    #[must_use]
    pub fn gguf(&self) -> Option<&GgufFile> {
        self.gguf.as_deref()
    }

    /// Files of the folder that are neither weights in use nor carried over.
    #[must_use]
    pub fn left_behind(&self) -> &[String] {
        &self.left_behind
    }

    /// How it is quantized already, or `None`.
    #[must_use]
    pub fn quant_method(&self) -> Option<String> {
        let named = self.config.as_ref().and_then(pack::quant_method).map(ToOwned::to_owned);
        named.or_else(|| Some(self.container()?.quant_method().to_owned()))
    }

    /// The container of its quantized weights, or `None` where none is in one.
    #[must_use]
    pub fn container(&self) -> Option<Container> {
        self.weights.iter().find_map(|weight| match &weight.storage {
            Storage::Packed(packed) => Some(packed.container()),
            Storage::Plain(_) | Storage::Ggml(_) => None,
        })
    }
}

fn read_config(folder: &Folder) -> Result<Value, FileError> {
    let config = folder.json(CONFIG_NAME)?;
    if config.is_object() {
        return Ok(config);
    }
    let what = "expected an object at the top".to_owned();
    Err(FileError::Malformed { path: folder.root().join(CONFIG_NAME), format: "JSON", what })
}

enum Single {
    Safetensors(String),
    Gguf(String),
}

fn find_single(folder: &Folder, names: &[String]) -> Result<Single, FileError> {
    if folder.contains(INDEX_NAME) || folder.contains(SINGLE_NAME) {
        return Ok(Single::Safetensors(SINGLE_NAME.to_owned()));
    }
    let with = |extension: &str| -> Vec<&String> {
        names.iter().filter(|name| !name.contains('/') && name.ends_with(extension) && !is_later_file(name)).collect()
    };
    match (with(".safetensors")[..].as_ref(), with(".gguf")[..].as_ref()) {
        ([one], _) => Ok(Single::Safetensors((*one).clone())),
        ([], [one]) => Ok(Single::Gguf((*one).clone())),
        (safetensors, gguf) => Err(FileError::NoModel {
            path: folder.root().to_owned(),
            what: format!(
                "expected {SINGLE_NAME}, {INDEX_NAME} or one .gguf file, found {} .safetensors and {} .gguf files",
                safetensors.len(),
                gguf.len()
            ),
        }),
    }
}

fn open_file(folder: &Folder, name: &str) -> Result<SafetensorsFile, FileError> {
    SafetensorsFile::parse(&folder.root().join(name), folder.bytes(name)?)
}

fn weights_of(file: &SafetensorsFile, wanted: impl Fn(&str) -> bool) -> Vec<Weight> {
    let path = Arc::new(file.path().to_owned());
    let wanted = file.tensors().iter().filter(|entry| wanted(&entry.name));
    wanted
        .map(|entry| Weight {
            name: entry.name.clone(),
            shape: entry.shape.clone(),
            file: Arc::clone(&path),
            storage: Storage::Plain(PlainTensor {
                dtype: entry.dtype,
                bytes: file.bytes().clone(),
                range: entry.range.clone(),
            }),
            scaling: None,
        })
        .collect()
}

fn join_quantized(weights: Vec<Weight>, config: Option<&Value>) -> Result<Vec<Weight>, FileError> {
    if pack::holds_codes(&weights) { pack::join(weights, config) } else { Ok(weights) }
}

/// Reads the index and requires that it and the shards agree on every name.
fn sharded(folder: &Folder) -> Result<Vec<Weight>, FileError> {
    let index_path = folder.root().join(INDEX_NAME);
    let malformed = |what: String| FileError::Malformed { path: index_path.clone(), format: "index", what };
    let index = folder.json(INDEX_NAME)?;
    let map = index
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(|| malformed("expected an object `weight_map`".into()))?;
    let mut shards: BTreeMap<&str, HashMap<&str, bool>> = BTreeMap::new();
    for (tensor, file) in map {
        let file = file.as_str().filter(|file| is_plain_name(file));
        let file =
            file.ok_or_else(|| malformed(format!("tensor {tensor:?}: expected the name of a file in this folder")))?;
        shards.entry(file).or_default().insert(tensor, false);
    }
    let mut weights = Vec::with_capacity(map.len());
    for (file, mut wanted) in shards {
        let shard = open_file(folder, file)?;
        for entry in shard.tensors() {
            match (wanted.get_mut(entry.name.as_str()), map.get(&entry.name)) {
                (Some(seen), _) => *seen = true,
                (None, Some(_)) => {} // The index takes this name from another shard.
                (None, None) => {
                    return Err(malformed(format!("tensor {:?} of shard {file:?} is not in the index", entry.name)));
                }
            }
        }
        let mut missing: Vec<_> = wanted.iter().filter(|(_, seen)| !**seen).map(|(name, _)| *name).collect();
        missing.sort_unstable();
        if let Some(name) = missing.first() {
            return Err(malformed(format!("tensor {name:?} is not in shard {file:?}, where the index places it")));
        }
        weights.extend(weights_of(&shard, |name| wanted.contains_key(name)));
    }
    Ok(weights)
}

fn extension(name: &str) -> &str {
    name.rsplit('/').next().and_then(|file| file.rsplit_once('.')).map_or("", |(_, extension)| extension)
}

fn is_side_file(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    let known = ["json", "jsonl", "txt", "model", "jinja", "md", "py", "tiktoken", "spm", "bpe", "vocab", "merges"];
    let settings = ["quantize_config.json", "quant_config.json"].contains(&name);
    let written_anew = settings || name == CONFIG_NAME || name == MANIFEST_NAME || file.ends_with(".index.json");
    let licence = ["LICENSE", "LICENCE", "NOTICE", "COPYING", "USE_POLICY"].iter().any(|start| file.starts_with(start));
    let of_ledger = name.split('/').next() == Some(LEDGER_NAME);
    !written_anew && !of_ledger && (known.contains(&extension(name)) || licence)
}

fn is_weights_of_folder(name: &str) -> bool {
    name == CONFIG_NAME
        || name == MANIFEST_NAME
        || name == STATISTICS_NAME
        || name == INDEX_NAME
        || (extension(name) == "safetensors" && !name.contains('/'))
}
