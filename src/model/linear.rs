//! A linear layer, laid out for products.

use reweight_kernels::{Dense, Kernels, Rows, RowsMut};

use super::error::ModelError;
use super::tensors::{Tensors, lay_out, lay_out_transposed};

/// y = W x + b. The memory of one is used again for the next block's.
#[derive(Debug, Default)]
pub(super) struct Linear {
    /// The whole name of the weight.
    pub(super) name: String,
    dense: Dense,
    bias: Option<Vec<f32>>,
}

impl Linear {
    /// Reads `NAME.weight`, of `outputs` rows and `inputs` columns (the other way round where `transposed`), and `NAME.bias`, where there
    /// is one.
    pub(super) fn load(
        &mut self,
        tensors: &Tensors<'_>,
        kernels: &Kernels,
        name: &str,
        (outputs, inputs): (usize, usize),
        transposed: bool,
    ) -> Result<(), ModelError> {
        self.name = format!("{name}.weight");
        if transposed {
            lay_out_transposed(kernels, tensors.get(&self.name, &[inputs, outputs])?, &mut self.dense);
        } else {
            lay_out(tensors, kernels, tensors.get(&self.name, &[outputs, inputs])?, 0..outputs, &mut self.dense);
        }
        self.bias = tensors.vector_if(kernels, &format!("{name}.bias"), outputs)?;
        Ok(())
    }

    /// Outputs of the layer.
    pub(super) fn outputs(&self) -> usize {
        self.dense.outputs()
    }

    /// Applies the layer to rows that follow one after the other; results are `out.stride` apart.
    pub(super) fn apply(&self, kernels: &Kernels, x: &[f32], out: RowsMut<'_>) {
        let (inputs, outputs) = (self.dense.inputs(), self.outputs());
        let n_rows = x.len() / inputs;
        let RowsMut { values, stride } = out;
        self.dense.product(
            kernels,
            Rows { values: x, stride: inputs },
            n_rows,
            RowsMut { values: &mut *values, stride },
        );
        if let Some(bias) = &self.bias {
            for row in values.chunks_mut(stride).take(n_rows) {
                for (value, bias) in row[..outputs].iter_mut().zip(bias) {
                    *value += bias;
                }
            }
        }
    }

    /// Applies the layer; results follow one after the other in `out`, whose memory is used again.
    pub(super) fn apply_to(&self, kernels: &Kernels, x: &[f32], out: &mut Vec<f32>) {
        let n_rows = x.len() / self.dense.inputs();
        out.resize(n_rows * self.outputs(), 0.0);
        self.apply(kernels, x, RowsMut { values: out, stride: self.outputs() });
    }
}
