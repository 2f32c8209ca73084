//! Patched weights as one function of the base and the set of (patch, strength).
//!
//! Each element is (1 - r) base + sum of strength * change, in f64, rounded once to the tensor's type. The sum is formed first, in the
//! order of the patches' digests, so the order in which patches came does not matter; what depends on the base is added last. Every change is that of the *base*: what other
//! patches did to it in between enters nowhere, not even for DoRA and `bat`, whose changes depend on the weight. Replacements count with their
//! strengths: r is their sum, and where that is above 1 each counts as its share of r, so that two patches that both replace a tensor
//! give their weighted mean (the authors of signatures take the plain mean). An element of the base that is no number stays.

use reweight_quant::kernels::vectorized;

use crate::affine::Affine;
use crate::low_rank::{Magnitudes, Product};
use crate::packed::Packed;
use crate::shards::Shards;
use crate::values::Float;

/// The change of one tensor by one patch.
#[derive(Debug)]
pub enum Term<'a> {
    /// Stored elements times a scale.
    Plain {
        /// Their type.
        float: Float,
        /// Their bytes.
        data: &'a [u8],
        /// The scale.
        scale: f64,
    },
    /// Codes in groups.
    Packed(Packed<'a>),
    /// A product, with outputs brought to a magnitude for DoRA.
    LowRank {
        /// The product.
        product: Product,
        /// The magnitudes.
        magnitudes: Option<Magnitudes>,
    },
    /// A repeated block.
    Shards(Shards),
    /// The base times squares.
    Affine(Affine),
}

/// A tensor in another's place.
#[derive(Clone, Copy, Debug)]
pub struct Replacement<'a> {
    /// Its type.
    pub float: Float,
    /// Its bytes.
    pub data: &'a [u8],
}

impl Term<'_> {
    fn depends_on_base(&self) -> bool {
        matches!(self, Self::LowRank { magnitudes: Some(_), .. } | Self::Affine(_))
    }

    fn learn(&mut self, start: usize, base: &[f64], sums: &mut [f64]) {
        if let Self::LowRank { product, magnitudes: Some(magnitudes) } = self {
            product.read(start, sums);
            add(sums, 1.0, base);
            magnitudes.learn(start, sums);
        }
        if let Self::Affine(affine) = self {
            affine.learn(base);
        }
    }

    pub(crate) fn change(&self, start: usize, base: &[f64], out: &mut [f64]) {
        match self {
            Self::Plain { float, data, scale } => {
                let width = float.bytes();
                float.read(&data[start * width..(start + out.len()) * width], out);
                for value in out {
                    *value *= scale;
                }
            }
            Self::Packed(packed) => packed.read(start, out),
            Self::LowRank { product, magnitudes } => {
                product.read(start, out);
                if let Some(magnitudes) = magnitudes {
                    add(out, 1.0, base);
                    magnitudes.finish(start, base, out);
                }
            }
            Self::Shards(shards) => shards.read(start, out),
            Self::Affine(affine) => affine.read(start, out),
        }
    }
}

/// The same on sums that are nothing yet, so that none is a negative zero.
fn scale(sums: &mut [f64], factor: f64, values: &[f64]) {
    vectorized(|| {
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum = 0.0 + factor * value;
        }
    });
}

fn shift(out: &mut [f64], from: &[f64], factor: f64, values: &[f64]) {
    vectorized(|| {
        for ((out, from), value) in out.iter_mut().zip(from).zip(values) {
            *out = from + factor * value;
        }
    });
}

fn add(sums: &mut [f64], factor: f64, values: &[f64]) {
    vectorized(|| {
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += factor * value;
        }
    });
}

/// What a set of patches makes of one tensor.
#[derive(Debug, Default)]
pub struct Function<'a> {
    terms: Vec<(f64, Term<'a>)>,
    replacements: Vec<(f64, Replacement<'a>)>,
}

impl<'a> Function<'a> {
    /// Adds the change of a patch; patches come in the order of their digests.
    pub(crate) fn push(&mut self, strength: f64, term: Result<Term<'a>, Replacement<'a>>) {
        match term {
            Ok(term) => self.terms.push((strength, term)),
            Err(replacement) => self.replacements.push((strength, replacement)),
        }
    }

    /// Whether it must see the whole base before it can be computed.
    #[must_use]
    pub fn depends_on_base(&self) -> bool {
        self.terms.iter().any(|(_, term)| term.depends_on_base())
    }

    /// Takes in elements of the base, in order; only needed where [`Function::depends_on_base`].
    pub fn learn(&mut self, start: usize, base: &[f64]) {
        let mut sums = vec![0.0; base.len()];
        self.terms.iter_mut().for_each(|(_, term)| term.learn(start, base, &mut sums));
    }

    /// The sum of strength * change over what can be told without the base, from element `start` on. `buffer` is memory to use.
    ///
    /// # Panics
    /// Where the lengths differ, or `start` begins within a group of packed changes.
    pub fn sum(&self, start: usize, sum: &mut [f64], buffer: &mut [f64]) {
        let mut is_first = true;
        for (strength, term) in self.terms.iter().filter(|(_, term)| !term.depends_on_base()) {
            term.change(start, &[], buffer);
            if std::mem::take(&mut is_first) {
                scale(sum, *strength, buffer);
            } else {
                add(sum, *strength, buffer);
            }
        }
        if is_first {
            sum.fill(0.0);
        }
    }

    /// Patched elements from `start` on, before rounding; `sum` is what [`Function::sum`] gave.
    ///
    /// # Panics
    /// As there.
    pub fn apply(&self, start: usize, base: &[f64], sum: &[f64], out: &mut [f64], buffer: &mut [f64]) {
        let total: f64 = self.replacements.iter().map(|(strength, _)| strength).sum();
        let whole = if total > 1.0 { total } else { 1.0 };
        if self.replacements.is_empty() {
            shift(out, base, 1.0, sum);
        } else {
            out.copy_from_slice(base);
            for value in out.iter_mut() {
                *value *= 1.0 - total / whole;
            }
            for (strength, Replacement { float, data }) in &self.replacements {
                let width = float.bytes();
                float.read(&data[start * width..(start + base.len()) * width], buffer);
                add(out, strength / whole, buffer);
            }
            add(out, 1.0, sum);
        }
        for (strength, term) in self.terms.iter().filter(|(_, term)| term.depends_on_base()) {
            term.change(start, base, buffer);
            add(out, *strength, buffer);
        }
    }

    /// A guess at the base from patched elements: what can be told without the base taken off, or 0 where a tensor
    /// was replaced. Undo records say how far the guess is off.
    ///
    /// # Panics
    /// Where the lengths differ.
    pub fn predict(&self, patched: &[f64], sum: &[f64], out: &mut [f64]) {
        if self.replacements.is_empty() {
            shift(out, patched, -1.0, sum);
        } else {
            out.fill(0.0);
        }
    }
}
