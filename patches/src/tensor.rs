//! A tensor of a model, as patches see it: floating-point elements, or codes that stand for such.

use std::ops::Range;
use std::path::Path;

use reweight_quant::requantize;
use reweight_quant::store::{Bytes, Model, Storage, Weight};

use crate::PatchError;
use crate::values::Float;

/// Elements worked on at a time; whole groups of packed changes.
pub(crate) const PIECE: usize = 1 << 17;

/// A tensor that patches can change.
#[derive(Clone, Debug)]
pub(crate) enum Target<'a> {
    /// Every element by itself.
    Float(FloatTensor<'a>),
    /// Quantized: changed as a whole, row by row.
    Coded(&'a Weight),
}

impl<'a> Target<'a> {
    /// # Errors
    /// `PatchError::Storage` where it is of integers, scaled, or quantized in a way that is not written here.
    pub(crate) fn of(weight: &'a Weight, model: &Path) -> Result<Self, PatchError> {
        if let Some(float) = FloatTensor::if_float(weight) {
            return Ok(Self::Float(float));
        }
        let refused =
            |found: String| Err(PatchError::Storage { model: model.to_owned(), tensor: weight.name.clone(), found });
        let parts = weight.stored_parts();
        if weight.scaling.is_some() || matches!(weight.storage, Storage::Plain(_)) || !weight.is_float() {
            return refused(weight.stored_as());
        }
        if let Some(why) = requantize::limit(weight) {
            return refused(format!("{} ({why})", weight.stored_as()));
        }
        if parts.iter().any(|(bytes, _)| !bytes.is_same(parts[0].0)) {
            return refused(format!("{} in several files", weight.stored_as()));
        }
        Ok(Self::Coded(weight))
    }
}

/// Where a tensor's elements are and what they are.
#[derive(Clone, Debug)]
pub(crate) struct FloatTensor<'a> {
    pub(crate) weight: &'a Weight,
    source: &'a Bytes,
    range: Range<usize>,
    pub(crate) float: Float,
}

impl<'a> FloatTensor<'a> {
    /// # Errors
    /// `PatchError::NotFloat` where it is quantized, of integers, or scaled.
    pub(crate) fn of(weight: &'a Weight, model: &Path) -> Result<Self, PatchError> {
        Self::if_float(weight).ok_or_else(|| PatchError::NotFloat {
            model: model.to_owned(),
            tensor: weight.name.clone(),
            found: weight.stored_as(),
        })
    }

    /// The same, or nothing.
    pub(crate) fn if_float(weight: &'a Weight) -> Option<Self> {
        let (source, range, dtype) = match &weight.storage {
            Storage::Plain(plain) => (&plain.bytes, plain.range.clone(), plain.dtype),
            Storage::Ggml(rows) => (&rows.bytes, rows.range.clone(), rows.plain_dtype()?),
            Storage::Packed(_) => return None,
        };
        let float = Float::of(dtype).filter(|_| weight.scaling.is_none())?;
        Some(Self { weight, source, range, float })
    }

    pub(crate) fn n_elements(&self) -> usize {
        self.weight.n_elements()
    }

    /// Stored bytes of a range of elements.
    pub(crate) fn bytes(&self, start: usize, len: usize) -> &'a [u8] {
        let width = self.float.bytes();
        &self.source[self.range.clone()][start * width..(start + len) * width]
    }

    /// Where in its file its bytes begin.
    pub(crate) const fn place(&self) -> usize {
        self.range.start
    }

    /// Values of a range of elements.
    pub(crate) fn read(&self, start: usize, out: &mut [f64]) {
        self.float.read(self.bytes(start, out.len()), out);
    }

    /// BLAKE3 of its bytes, as 64 hexadecimal digits.
    pub(crate) fn digest(&self) -> String {
        self.weight.digest().to_string()
    }

    /// Says that the pages of some elements need not stay.
    pub(crate) fn release_elements(&self, start: usize, len: usize) {
        let width = self.float.bytes();
        let first = self.range.start + start * width;
        self.source.release(first..first + len * width);
    }

    /// Says that its pages need not stay.
    pub(crate) fn release(&self) {
        self.source.release(self.range.clone());
    }
}

/// Says that pages of a tensor need not stay.
pub(crate) fn release(weight: &Weight) {
    weight.stored_parts().into_iter().for_each(|(bytes, range)| bytes.release(range));
}

/// The weight of that name, which the model must have.
pub(crate) fn find<'a>(model: &'a Model, name: &str, patch: &str) -> Result<&'a Weight, PatchError> {
    model.weight(name).ok_or_else(|| PatchError::NoTensor {
        patch: patch.to_owned(),
        tensor: name.to_owned(),
        model: model.path().to_owned(),
    })
}
