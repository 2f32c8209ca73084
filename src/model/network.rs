//! A model ready to run, and the run over all windows.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;
use reweight_kernels::Kernels;
use reweight_quant::store::Model;

use super::architecture::{self, Architecture, Kind};
use super::block::{Block, Scratch};
use super::config::Config;
use super::embedding::Embedding;
use super::error::ModelError;
use super::head::{self, Head};
use super::hidden::HiddenStates;
use super::image::Classified;
use super::norm::Norm;
use super::observe::Observe;
use super::plan::NetworkPlan;
use super::rope::Turns;
use super::tensors::Tensors;

/// A model whose wiring is known and whose tensors have the shapes it needs.
pub struct Network<'a> {
    pub(super) tensors: Tensors<'a>,
    pub(super) plan: NetworkPlan,
    embedding: Embedding<'a>,
    final_norm: Option<Norm>,
    pub(super) kernels: &'static Kernels,
}

/// What goes along with a run.
pub struct Run<'r> {
    /// Ends the run early where it is set.
    pub stop: &'r AtomicBool,
    /// Called with the name of a block and the tokens that passed it.
    pub progress: &'r (dyn Fn(&str, u64) + Sync),
    /// Sees the inputs of linear layers.
    pub observe: &'r dyn Observe,
}

impl<'a> Network<'a> {
    /// Reads the configuration and finds every tensor that is not part of a block. Blocks are read as they are run.
    ///
    /// # Errors
    /// `ModelError`, with the key or the tensor.
    pub fn open(model: &'a Model, kernels: &'static Kernels) -> Result<Self, ModelError> {
        let path = model.path();
        let json = model.config().ok_or_else(|| ModelError::NoConfig { path: path.to_owned() })?;
        let config = Config { path, json };
        let whole = config;
        let (config, architecture) = find_architecture(whole)?;
        let tensors = Tensors::of(model, architecture.prefixes, architecture.embedding)?;
        let mut plan = NetworkPlan::of(config, &architecture)?;
        // A multimodal model says it of all of itself.
        plan.tied = whole.flag_or("tie_word_embeddings", plan.tied)?;
        let embedding = Embedding::open(&tensors, kernels, &plan, config)?;
        let final_norm = architecture
            .final_norm
            .map(|name| Norm::load(&tensors, kernels, &tensors.full(name), plan.width, plan.norm()))
            .transpose()?;
        Ok(Self { tensors, plan, embedding, final_norm, kernels })
    }

    /// The kernel table it runs on.
    #[must_use]
    pub fn kernels(&self) -> &'static Kernels {
        self.kernels
    }

    /// Values of a hidden state.
    #[must_use]
    pub fn width(&self) -> usize {
        self.plan.width
    }

    /// How many blocks there are.
    #[must_use]
    pub fn n_blocks(&self) -> usize {
        self.plan.blocks.len()
    }

    /// Positions the model was made with.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.plan.positions
    }

    /// Whether tokens go in and the next token comes out.
    #[must_use]
    pub fn is_decoder(&self) -> bool {
        self.plan.architecture.kind == Kind::Decoder
    }

    /// Whether an image goes in and classes come out.
    #[must_use]
    pub fn is_image_encoder(&self) -> bool {
        self.plan.architecture.kind == Kind::ImageEncoder
    }

    /// The output layer of a decoder.
    ///
    /// # Errors
    /// `ModelError` where the model has none, or it has another shape.
    pub fn head(&self) -> Result<Head<'a>, ModelError> {
        let architecture = &self.plan.architecture;
        let present = architecture.heads.iter().find(|name| head::exists(&self.tensors, name));
        let name = present.or(architecture.heads.first()).filter(|_| self.is_decoder()).ok_or_else(|| {
            ModelError::Unsupported {
                path: self.tensors.model.path().to_owned(),
                what: "the next token of an encoder".to_owned(),
            }
        })?;
        let tied = self.tensors.full(architecture.embedding);
        Head::open(&self.tensors, self.kernels, &self.plan, name, Some(&tied))
    }

    /// Takes windows of tokens through every block and the last norm.
    ///
    /// Cost: reads each block once, and does its arithmetic for every window; memory for one block in f32, the hidden states
    /// up to [`MEMORY_BUDGET`](super::MEMORY_BUDGET), and one window's intermediate values a thread.
    ///
    /// # Errors
    /// `ModelError`: a token outside the vocabulary, windows beyond learned positions, a tensor that is missing or of
    /// another shape, an interruption.
    pub fn hidden_states(&self, windows: &[&[u32]], run: &Run<'_>) -> Result<HiddenStates, ModelError> {
        self.hidden_states_of_kinds(windows, None, run)
    }

    /// [`Network::hidden_states`] with the kind of every token (`token_type_ids`), for encoders that tell a pair of texts apart.
    ///
    /// # Errors
    /// As there; and a kind that the model does not have, or as many kinds as tokens are not given.
    pub fn hidden_states_of_kinds(
        &self,
        windows: &[&[u32]],
        kinds: Option<&[&[u32]]>,
        run: &Run<'_>,
    ) -> Result<HiddenStates, ModelError> {
        let mut hidden = self.embed(windows, kinds)?;
        self.run_blocks(&mut hidden, run)?;
        Ok(hidden)
    }

    /// The hidden states that go into the first block.
    ///
    /// # Errors
    /// As [`Network::hidden_states_of_kinds`], but for what blocks lack.
    pub fn embed(&self, windows: &[&[u32]], kinds: Option<&[&[u32]]>) -> Result<HiddenStates, ModelError> {
        let Embedding::Tokens(embedding) = &self.embedding else {
            return Err(self.unsupported("tokens for a model of images"));
        };
        self.check_tokens(windows, embedding.vocabulary())?;
        if let Some(kinds) = kinds {
            let lengths = |windows: &[&[u32]]| windows.iter().map(|window| window.len()).collect::<Vec<_>>();
            let known = kinds.iter().copied().flatten().all(|kind| (*kind as usize) < embedding.n_kinds());
            if !known || lengths(kinds) != lengths(windows) {
                return Err(self.unsupported(&format!("anything but one of {} kinds a token", embedding.n_kinds())));
            }
        }
        let mut hidden = HiddenStates::new(self.width(), windows.iter().map(|window| window.len()))?;
        let rows = hidden.windows_mut().into_par_iter().zip(windows).enumerate();
        rows.for_each(|(index, (rows, tokens))| {
            embedding.write(self.kernels, tokens, kinds.map(|kinds| kinds[index]), rows);
        });
        Ok(hidden)
    }

    /// Takes hidden states through one block, in place.
    ///
    /// # Errors
    /// `ModelError`: a tensor that is missing or of another shape, an interruption.
    ///
    /// # Panics
    /// Where the model has no such block.
    pub fn run_block(&self, index: usize, hidden: &mut HiddenStates, run: &Run<'_>) -> Result<(), ModelError> {
        let windows = hidden.windows_mut();
        let turns = self.turns(windows.iter().map(|rows| rows.len() / self.width()));
        self.pass(&mut Block::default(), index, &turns, windows, run)
    }

    /// Takes what the last block gives through the last norm, in place.
    pub fn finish(&self, hidden: &mut HiddenStates) {
        if let Some(norm) = &self.final_norm {
            hidden.windows_mut().into_par_iter().for_each(|rows| norm.apply(rows));
        }
    }

    /// Shows what goes into the layers of one block; the hidden states stay what they are.
    ///
    /// # Errors
    /// As [`Network::run_block`].
    ///
    /// # Panics
    /// As there.
    pub fn observe_block(&self, index: usize, hidden: &HiddenStates, run: &Run<'_>) -> Result<(), ModelError> {
        let windows: Vec<&[f32]> = (0..hidden.n_windows()).map(|window| hidden.window(window)).collect();
        let turns = self.turns(windows.iter().map(|rows| rows.len() / self.width()));
        self.pass(&mut Block::default(), index, &turns, windows, run)
    }

    /// The beginning of the names of one block's tensors.
    #[must_use]
    pub fn block_prefix(&self, index: usize) -> String {
        self.tensors.full(&format!("{}{index}.", self.plan.architecture.layers))
    }

    /// Class logits of images, each of channels, rows and columns as the configuration has them.
    ///
    /// # Errors
    /// As [`Network::hidden_states`].
    pub fn classify(&self, images: &[&[f32]], run: &Run<'_>) -> Result<Vec<Vec<f32>>, ModelError> {
        Ok(self.classify_with_features(images, run)?.into_iter().map(|answer| answer.logits).collect())
    }

    /// [`Network::classify`] with the first class token's last hidden state beside the logits.
    ///
    /// # Errors
    /// As there.
    pub fn classify_with_features(&self, images: &[&[f32]], run: &Run<'_>) -> Result<Vec<Classified>, ModelError> {
        let Embedding::Patches(embedding) = &self.embedding else {
            return Err(self.unsupported("images for a model of tokens"));
        };
        if let Some(image) = images.iter().find(|image| image.len() != embedding.image_len()) {
            let (found, expected) = (image.len(), embedding.image_len());
            return Err(self.unsupported(&format!("an image of {found} values, where {expected} are expected,")));
        }
        let mut hidden = HiddenStates::new(self.width(), images.iter().map(|_| embedding.n_tokens()))?;
        let rows = hidden.windows_mut().into_par_iter().zip(images);
        rows.for_each(|(rows, image)| embedding.write(self.kernels, image, rows));
        self.run_blocks(&mut hidden, run)?;
        let logits = head::classify(self.kernels, &self.classifiers()?, &hidden);
        let features = (0..hidden.n_windows()).map(|window| hidden.window(window)[..self.width()].to_vec());
        Ok(logits.into_iter().zip(features).map(|(logits, features)| Classified { logits, features }).collect())
    }

    /// Classes of an image classifier.
    ///
    /// # Errors
    /// `ModelError` where the model has no output layer for them.
    pub fn n_classes(&self) -> Result<usize, ModelError> {
        Ok(self.classifiers()?.first().map_or(0, |(head, _)| head.n_outputs()))
    }

    /// Output layers of an image classifier, and the token each looks at.
    fn classifiers(&self) -> Result<Vec<(Head<'a>, usize)>, ModelError> {
        let names = self.plan.architecture.heads.iter().chain(["classifier"].iter());
        let found = names.enumerate().filter(|(_, name)| head::exists(&self.tensors, name));
        let mut heads = Vec::new();
        for (index, name) in found {
            let token = index % self.plan.architecture.heads.len();
            heads.push((Head::open(&self.tensors, self.kernels, &self.plan, name, None)?, token));
        }
        heads.dedup_by_key(|(_, token)| *token);
        if heads.is_empty() {
            return Err(self.unsupported("classes of a model without a classifier"));
        }
        Ok(heads)
    }

    fn check_tokens(&self, windows: &[&[u32]], vocabulary: usize) -> Result<(), ModelError> {
        let path = || self.tensors.model.path().to_owned();
        let outside = |token: &&u32| **token as usize >= vocabulary;
        if let Some(token) = windows.iter().find_map(|window| window.iter().find(outside)) {
            return Err(ModelError::Token { path: path(), token: *token, vocabulary });
        }
        let tokens = windows.iter().map(|window| window.len()).max().unwrap_or(0);
        let positions = self.plan.positions;
        if self.plan.architecture.positions.is_some() && tokens > positions {
            return Err(ModelError::TooLong { path: path(), tokens, positions });
        }
        Ok(())
    }

    fn run_blocks(&self, hidden: &mut HiddenStates, run: &Run<'_>) -> Result<(), ModelError> {
        let width = self.width();
        let mut windows = hidden.windows_mut();
        let turns = self.turns(windows.iter().map(|rows| rows.len() / width));
        let mut block = Block::default();
        for index in 0..self.n_blocks() {
            self.pass(&mut block, index, &turns, windows.iter_mut().map(|rows| &mut **rows).collect(), run)?;
            run.observe.block_done();
        }
        self.finish(hidden);
        Ok(())
    }

    /// Loads one block and takes every window through it.
    fn pass<W: Window + Send>(
        &self,
        block: &mut Block,
        index: usize,
        turns: &BTreeMap<(usize, usize), Turns>,
        windows: Vec<W>,
        run: &Run<'_>,
    ) -> Result<(), ModelError> {
        let (width, plan) = (self.width(), &self.plan.blocks[index]);
        block.load(&self.tensors, self.kernels, &self.plan, index)?;
        let name = format!("{}{index}", self.plan.architecture.layers);
        windows.into_par_iter().try_for_each_init(Scratch::default, |scratch, mut rows| {
            if run.stop.load(Ordering::Relaxed) {
                return Err(ModelError::Interrupted);
            }
            rows.with(scratch, |rows, scratch| {
                let n_tokens = rows.len() / width;
                let turns = plan.rope.and_then(|rope| turns.get(&(rope, n_tokens)));
                block.apply(self.kernels, plan, turns, rows, scratch, run.observe);
                (run.progress)(&name, n_tokens as u64);
            });
            Ok(())
        })
    }

    /// The rotations of every length there is.
    pub(super) fn turns(&self, lengths: impl Iterator<Item = usize>) -> BTreeMap<(usize, usize), Turns> {
        let mut turns = BTreeMap::new();
        for length in lengths {
            for (index, rope) in self.plan.ropes.iter().enumerate() {
                turns.entry((index, length)).or_insert_with(|| rope.turns(length));
            }
        }
        turns
    }

    pub(crate) fn vocabulary_differs(&self, found: usize, expected: usize) -> ModelError {
        self.unsupported(&format!("a reference with a vocabulary of {found} beside a model with one of {expected}"))
    }

    fn unsupported(&self, what: &str) -> ModelError {
        ModelError::Unsupported { path: self.tensors.model.path().to_owned(), what: what.to_owned() }
    }
}

/// The rows of one window, to be changed or only to be looked at.
trait Window {
    /// Hands rows to a block: themselves, or a copy.
    fn with(&mut self, scratch: &mut Scratch, pass: impl FnOnce(&mut [f32], &mut Scratch));
}

impl Window for &mut [f32] {
    fn with(&mut self, scratch: &mut Scratch, pass: impl FnOnce(&mut [f32], &mut Scratch)) {
        pass(self, scratch);
    }
}

impl Window for &[f32] {
    fn with(&mut self, scratch: &mut Scratch, pass: impl FnOnce(&mut [f32], &mut Scratch)) {
        let mut rows = std::mem::take(&mut scratch.rows);
        rows.clear();
        rows.extend_from_slice(self);
        pass(&mut rows, scratch);
        scratch.rows = rows;
    }
}

/// The row of the table, and the part of the configuration that it is about: a multimodal model's language tower.
fn find_architecture(config: Config<'_>) -> Result<(Config<'_>, Architecture), ModelError> {
    if let Some(text) = config.part("text_config")
        && let Some(row) = architecture::find(text.text_if("model_type")?.unwrap_or_default())
    {
        return Ok((text, row.as_tower()));
    }
    let found = config.text_if("model_type")?.unwrap_or_default();
    match architecture::find(found) {
        Some(row) => Ok((config, row)),
        None => Err(ModelError::UnknownArchitecture {
            path: config.path.to_owned(),
            found: found.chars().take(60).collect(),
            known: architecture::known(),
        }),
    }
}
