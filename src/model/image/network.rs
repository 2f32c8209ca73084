//! A classifier, whatever it is made of.

use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;
use reweight_kernels::Kernels;
use reweight_quant::store::Model;

use super::input::{ImageShape, Normalization, Pixels};
use super::resnet::{self, SPELLINGS};
use super::steps::{Body, sides_after};
use super::{model_types, vgg};
use crate::model::config::Config;
use crate::model::error::ModelError;
use crate::model::linear::Linear;
use crate::model::network::{Network, Run};
use crate::model::observe::Nobody;
use crate::model::tensors::Tensors;

/// Images that a transformer takes together: their hidden states are in memory.
const TOGETHER: usize = 64;

/// A model that gives images classes.
pub struct Classifier<'a> {
    model: &'a Model,
    kernels: &'static Kernels,
    normalization: Normalization,
    channels: usize,
    /// Rows and columns, where the model takes no other.
    side: Option<usize>,
    body: Kind<'a>,
}

enum Kind<'a> {
    Convolutional(Body),
    Transformer(Box<Network<'a>>),
}

/// What a classifier says of one image.
#[derive(Clone, Debug, PartialEq)]
pub struct Classified {
    /// A number for each class.
    pub logits: Vec<f32>,
    /// What goes into the last layer.
    pub features: Vec<f32>,
}

impl Classified {
    /// The class with the greatest logit; the first of several, and 0 where none is a number.
    #[must_use]
    pub fn class(&self) -> usize {
        let better = |best: usize, (class, logit): (usize, &f32)| {
            if *logit > self.logits[best] || self.logits[best].is_nan() { class } else { best }
        };
        self.logits.iter().enumerate().fold(0, better)
    }
}

impl<'a> Classifier<'a> {
    /// Whether the configuration is that of a classifier of images.
    #[must_use]
    pub fn is_one(model: &Model) -> bool {
        let found = model.config_text("model_type");
        found.is_some_and(|found| model_types().contains(&found))
    }

    /// Reads the configuration and every tensor of a convolutional network; a transformer's blocks are read as they are run.
    ///
    /// # Errors
    /// `ModelError`, with the key or the tensor.
    pub fn open(model: &'a Model, kernels: &'static Kernels) -> Result<Self, ModelError> {
        let path = model.path();
        let json = model.config().ok_or_else(|| ModelError::NoConfig { path: path.to_owned() })?;
        let config = Config { path, json };
        let kind = config.text_if("model_type")?.unwrap_or_default();
        let channels = config.size_or("num_channels", 3)?;
        if channels > 1024 {
            return Err(config.wrong("num_channels", "a number from 1 to 1024"));
        }
        let mut side = config.size_if("image_size")?;
        let body = match kind {
            vgg::MODEL_TYPE => {
                let tensors = Tensors::of(model, &[""], vgg::ANCHOR)?;
                Kind::Convolutional(vgg::load(&tensors, kernels, config, channels)?)
            }
            resnet::MODEL_TYPE => {
                let found = SPELLINGS.iter().find(|(prefix, anchor, _)| {
                    model.weights().iter().any(|weight| weight.name.strip_prefix(prefix) == Some(anchor))
                });
                let (prefix, anchor, spelling) = found.unwrap_or(&SPELLINGS[0]);
                let tensors = Tensors::of(model, &[prefix], anchor)?;
                Kind::Convolutional(resnet::load(&tensors, kernels, config, *spelling, channels)?)
            }
            _ => {
                side = side.or(Some(224));
                Kind::Transformer(Box::new(Network::open(model, kernels)?))
            }
        };
        let normalization = Normalization::of(config, channels)?;
        Ok(Self { model, kernels, normalization, channels, side, body })
    }

    /// How many classes there are.
    ///
    /// # Errors
    /// `ModelError` where a transformer has no classifier.
    pub fn n_classes(&self) -> Result<usize, ModelError> {
        match &self.body {
            Kind::Convolutional(body) => Ok(body.layers.last().map_or(0, Linear::outputs)),
            Kind::Transformer(network) => network.n_classes(),
        }
    }

    /// Classes of the images, in order. Images go through on all threads.
    ///
    /// # Errors
    /// `ModelError` for images that the model does not take, and as [`Network::classify`]; `stop` ends the run.
    ///
    /// # Panics
    /// Unless every image has `shape.len()` bytes.
    pub fn classify(
        &self,
        shape: ImageShape,
        images: &[Pixels<'_>],
        stop: &AtomicBool,
    ) -> Result<Vec<Classified>, ModelError> {
        self.check(shape)?;
        match &self.body {
            Kind::Convolutional(body) => {
                let images = images.par_iter().map(|pixels| {
                    if stop.load(Ordering::Relaxed) {
                        return Err(ModelError::Interrupted);
                    }
                    let (logits, features) = body.run(self.kernels, self.normalization.maps(shape, pixels));
                    Ok(Classified { logits, features })
                });
                images.collect()
            }
            Kind::Transformer(network) => {
                let run = Run { stop, progress: &|_, _| (), observe: &Nobody };
                let mut all = Vec::with_capacity(images.len());
                for part in images.chunks(TOGETHER) {
                    let planes: Vec<Vec<f32>> =
                        part.iter().map(|pixels| self.normalization.planes(shape, pixels)).collect();
                    let planes: Vec<&[f32]> = planes.iter().map(Vec::as_slice).collect();
                    all.extend(network.classify_with_features(&planes, &run)?);
                }
                Ok(all)
            }
        }
    }

    fn check(&self, shape: ImageShape) -> Result<(), ModelError> {
        let wrong_side = self.side.is_some_and(|side| (shape.height, shape.width) != (side, side));
        if shape.channels != self.channels || wrong_side {
            let side = self.side.map_or("any size".to_owned(), |side| format!("{side}x{side}"));
            let expected = format!("{} channels of {side}", self.channels);
            return Err(ModelError::Images { path: self.model.path().to_owned(), expected, found: shape.to_string() });
        }
        match &self.body {
            Kind::Convolutional(body) if sides_after(&body.steps, (shape.height, shape.width)).is_none() => {
                let expected = "larger images: a window of a layer has no place".to_owned();
                Err(ModelError::Images { path: self.model.path().to_owned(), expected, found: shape.to_string() })
            }
            _ => Ok(()),
        }
    }
}
