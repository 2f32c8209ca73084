//! A plain floating-point tensor of a model, as patches see it.

use std::path::Path;

use reweight_quant::store::weight::PlainTensor;
use reweight_quant::store::{Model, Storage, Weight};

use crate::PatchError;
use crate::values::Float;

/// Elements worked on at a time; whole groups of packed changes.
pub(crate) const PIECE: usize = 1 << 17;

/// Where a tensor's elements are and what they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FloatTensor<'a> {
    pub(crate) weight: &'a Weight,
    pub(crate) plain: &'a PlainTensor,
    pub(crate) float: Float,
}

impl<'a> FloatTensor<'a> {
    /// # Errors
    /// `PatchError::Storage` where it is quantized, of integers, or scaled.
    pub(crate) fn of(weight: &'a Weight, model: &Path) -> Result<Self, PatchError> {
        Self::if_float(weight).ok_or_else(|| PatchError::Storage {
            model: model.to_owned(),
            tensor: weight.name.clone(),
            found: weight.stored_as(),
        })
    }

    /// The same, or nothing.
    pub(crate) fn if_float(weight: &'a Weight) -> Option<Self> {
        match &weight.storage {
            Storage::Plain(plain) if weight.scaling.is_none() => {
                Float::of(plain.dtype).map(|float| Self { weight, plain, float })
            }
            _ => None,
        }
    }

    pub(crate) fn n_elements(&self) -> usize {
        self.weight.n_elements()
    }

    /// Stored bytes of a range of elements.
    pub(crate) fn bytes(&self, start: usize, len: usize) -> &'a [u8] {
        let width = self.float.bytes();
        &self.plain.data()[start * width..(start + len) * width]
    }

    /// Values of a range of elements.
    pub(crate) fn read(&self, start: usize, out: &mut [f64]) {
        self.float.read(self.bytes(start, out.len()), out);
    }

    /// BLAKE3 of its bytes, as 64 hexadecimal digits.
    pub(crate) fn digest(&self) -> String {
        self.weight.digest().to_string()
    }

    /// Says that its pages need not stay.
    pub(crate) fn release(&self) {
        self.plain.bytes.release(self.plain.range.clone());
    }
}

/// The weight of that name, which the model must have.
pub(crate) fn find<'a>(model: &'a Model, name: &str, patch: &str) -> Result<&'a Weight, PatchError> {
    model.weight(name).ok_or_else(|| PatchError::NoTensor {
        patch: patch.to_owned(),
        tensor: name.to_owned(),
        model: model.path().to_owned(),
    })
}
