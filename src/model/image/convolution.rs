//! A convolution with its bias or batch norm, as products of gathered pixels with the kernel laid out as a matrix.

use reweight_kernels::{Activation, Dense, Kernels, Rows, RowsMut};
use reweight_quant::store::Weight;

use super::maps::{Maps, Window, inside};
use crate::model::error::ModelError;
use crate::model::tensors::{Tensors, values_as_held};

/// Places that are gathered together: enough for the product to be in blocks, and a few megabytes at most.
const PLACES: usize = 240;

/// What a convolution is called and what it looks like.
pub(super) struct ConvolutionPlan {
    /// The whole name, without `.weight`.
    pub(super) name: String,
    /// The whole name of the batch norm after it, and its epsilon.
    pub(super) norm: Option<(String, f64)>,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) window: Window,
}

/// y = scale * (W x) + shift for every place, over all channels in the window.
#[derive(Debug)]
pub(super) struct Convolution {
    dense: Dense,
    window: Window,
    inputs: usize,
    /// Of each output; empty where it is one.
    scales: Vec<f32>,
    /// Of each output; empty where it is zero.
    shifts: Vec<f32>,
}

impl Convolution {
    /// Reads the kernel, `[outputs, inputs, size, size]` or the same as a matrix `[outputs, inputs * size * size]`, and what is added.
    ///
    /// # Errors
    /// `ModelError` for a tensor that is missing or of another shape.
    pub(super) fn load(tensors: &Tensors<'_>, kernels: &Kernels, plan: &ConvolutionPlan) -> Result<Self, ModelError> {
        let (inputs, outputs, size) = (plan.inputs, plan.outputs, plan.window.size);
        let name = format!("{}.weight", plan.name);
        // A quantized kernel is a matrix.
        let matrix = [outputs, inputs * size * size];
        let found = tensors.find(&name).filter(|weight| weight.shape == matrix);
        let weight = found.map_or_else(|| tensors.get(&name, &[outputs, inputs, size, size]), Ok)?;
        let mut dense = Dense::default();
        dense.reset(outputs, matrix[1]);
        let values = channels_last(tensors, kernels, weight, (inputs, size));
        dense.set_rows(Rows { values: &values, stride: matrix[1] });
        weight.release_rows(0..weight.rows());
        let shifts = tensors.vector_if(kernels, &format!("{}.bias", plan.name), outputs)?.unwrap_or_default();
        let mut convolution = Self { dense, window: plan.window, inputs, scales: Vec::new(), shifts };
        if let Some((norm, epsilon)) = &plan.norm {
            convolution.normalize(tensors, kernels, norm, *epsilon)?;
        }
        Ok(convolution)
    }

    pub(super) fn window(&self) -> Window {
        self.window
    }

    /// Batch norm at rest: `(y - mean) / sqrt(variance + epsilon) * weight + bias`.
    fn normalize(
        &mut self,
        tensors: &Tensors<'_>,
        kernels: &Kernels,
        name: &str,
        epsilon: f64,
    ) -> Result<(), ModelError> {
        let n = self.dense.outputs();
        let read = |part: &str| tensors.vector(kernels, &format!("{name}.{part}"), n);
        let (mean, variance) = (read("running_mean")?, read("running_var")?);
        let (weight, bias) = (read("weight")?, read("bias")?);
        self.scales = (0..n)
            .map(|channel| (f64::from(weight[channel]) / (f64::from(variance[channel]) + epsilon).sqrt()) as f32)
            .collect();
        let own = std::mem::take(&mut self.shifts);
        self.shifts = (0..n)
            .map(|channel| {
                let before = f64::from(own.get(channel).copied().unwrap_or(0.0)) - f64::from(mean[channel]);
                (before * f64::from(self.scales[channel]) + f64::from(bias[channel])) as f32
            })
            .collect();
        Ok(())
    }

    /// Applies it to maps of its number of inputs.
    pub(super) fn apply(&self, kernels: &Kernels, maps: &Maps, then: Option<Activation>) -> Maps {
        let places = |n: usize| self.window.places(n).unwrap_or(0);
        let (height, width, outputs) = (places(maps.height), places(maps.width), self.dense.outputs());
        let mut values = vec![0.0; height * width * outputs];
        let n_inputs = self.dense.inputs();
        let mut gathered = Vec::new();
        for (index, out) in values.chunks_mut(PLACES * outputs).enumerate() {
            let n = out.len() / outputs;
            gathered.clear();
            gathered.resize(n * n_inputs, 0.0);
            for (place, row) in (index * PLACES..).zip(gathered.chunks_exact_mut(n_inputs)) {
                self.gather(maps, (place / width, place % width), row);
            }
            let x = Rows { values: &gathered, stride: n_inputs };
            self.dense.product(kernels, x, n, RowsMut { values: &mut *out, stride: outputs });
            for row in out.chunks_exact_mut(outputs) {
                row.iter_mut().zip(&self.scales).for_each(|(y, scale)| *y *= scale);
                row.iter_mut().zip(&self.shifts).for_each(|(y, shift)| *y += shift);
            }
        }
        if let Some(activation) = then {
            kernels.activate(activation, &mut values);
        }
        Maps { channels: outputs, height, width, values }
    }

    /// What the window sees at a place: rows, columns, channels. `out` holds zeros, which stay where there is nothing.
    fn gather(&self, maps: &Maps, (row, column): (usize, usize), out: &mut [f32]) {
        let window = self.window;
        let (top, left) = (row * window.stride, column * window.stride);
        let columns = inside(left, window, maps.width);
        let run = columns.len() * self.inputs;
        for from in inside(top, window, maps.height) {
            let line = from + window.padding - top;
            let first = columns.start + window.padding - left;
            let start = (from * maps.width + columns.start) * self.inputs;
            let to = (line * window.size + first) * self.inputs;
            out[to..to + run].copy_from_slice(&maps.values[start..start + run]);
        }
    }
}

/// A kernel's values with rows, columns, channels as the inner order, from channels, rows, columns.
fn channels_last(
    tensors: &Tensors<'_>,
    kernels: &Kernels,
    weight: &Weight,
    (inputs, size): (usize, usize),
) -> Vec<f32> {
    let values = values_as_held(tensors, kernels, weight);
    let mut turned = vec![0.0; values.len()];
    let area = size * size;
    for (from, to) in values.chunks_exact(inputs * area).zip(turned.chunks_exact_mut(inputs * area)) {
        for (index, value) in from.iter().enumerate() {
            to[index % area * inputs + index / area] = *value;
        }
    }
    turned
}
