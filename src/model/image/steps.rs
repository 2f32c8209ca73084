//! What a convolutional network does, one step after the other.

use reweight_kernels::{Activation, Kernels};

use super::convolution::Convolution;
use super::maps::{Maps, Window};
use crate::model::linear::Linear;

/// One step from maps to maps.
pub(super) enum Step {
    /// A convolution, and `ReLU` where the network has one.
    Convolution(Convolution, Option<Activation>),
    /// Greatest values of windows.
    MaxPool(Window),
    /// Means over this many parts along a side.
    MeanPool(usize),
    /// `ReLU`(steps(x) + shortcut(x)).
    Residual {
        steps: Vec<Step>,
        /// `None` adds x itself.
        shortcut: Option<Convolution>,
    },
}

/// Convolutional steps, then linear layers with `ReLU` between them.
pub(super) struct Body {
    pub(super) steps: Vec<Step>,
    pub(super) layers: Vec<Linear>,
}

impl Body {
    /// Logits of an image, and what goes into the last layer.
    pub(super) fn run(&self, kernels: &Kernels, image: Maps) -> (Vec<f32>, Vec<f32>) {
        let mut features = run(kernels, &self.steps, image).flattened();
        let mut logits = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            layer.apply_to(kernels, &features, &mut logits);
            if index + 1 < self.layers.len() {
                kernels.activate(Activation::Relu, &mut logits);
                std::mem::swap(&mut features, &mut logits);
            }
        }
        (logits, features)
    }
}

fn run(kernels: &Kernels, steps: &[Step], image: Maps) -> Maps {
    steps.iter().fold(image, |maps, step| match step {
        Step::Convolution(convolution, then) => convolution.apply(kernels, &maps, *then),
        Step::MaxPool(window) => maps.max_pooled(*window),
        Step::MeanPool(side) => maps.mean_pooled(*side),
        Step::Residual { steps, shortcut } => {
            let short = shortcut.as_ref().map(|shortcut| shortcut.apply(kernels, &maps, None));
            let short = short.unwrap_or_else(|| maps.clone());
            let mut out = run(kernels, steps, maps);
            out.values.iter_mut().zip(&short.values).for_each(|(y, x)| *y += x);
            kernels.activate(Activation::Relu, &mut out.values);
            out
        }
    })
}

/// Rows and columns of the maps after all steps; `None` where a window has no place on the way.
pub(super) fn sides_after(steps: &[Step], sides: (usize, usize)) -> Option<(usize, usize)> {
    let slide = |window: Window, (height, width): (usize, usize)| Some((window.places(height)?, window.places(width)?));
    let after = steps.iter().try_fold(sides, |sides, step| match step {
        Step::Convolution(convolution, _) => slide(convolution.window(), sides),
        Step::MaxPool(window) => slide(*window, sides),
        Step::MeanPool(side) => Some((*side, *side)),
        Step::Residual { steps, .. } => sides_after(steps, sides),
    });
    after.filter(|(height, width)| *height > 0 && *width > 0)
}
