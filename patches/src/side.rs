//! Patches that stay beside the weights: the base's bytes are not touched, and whoever reads the weights adds the change.
//!
//! [`attach`] gives a model whose weights read as W + strength * change, for evaluation and everything else that reads weights in f32.
//! [`SideTerm`] is for inference code: the same change as the products of `reweight_kernels` take it beside a packed matrix,
//! y = W x + strength * D x, so that a patch is switched on and off from one product to the next.

use std::sync::Arc;

use reweight_quant::kernels::packed::{CodedMatrix, PackedMatrix, Side, Zeros};
use reweight_quant::store::{Addition, Model, Scaling, Weight};

use crate::patch::{Change, Entry};
use crate::{Applied, Patch, PatchError, State};

/// Requires that a change only adds, whatever it is added to.
///
/// # Errors
/// `PatchError::Side`.
pub(crate) fn check(applied: &Applied, entry: &Entry) -> Result<(), PatchError> {
    let what = match entry.change {
        Change::Replace => "replaces it",
        Change::Affine { .. } => "multiplies it (bat)",
        Change::LowRank { magnitude: true, .. } => "gives its outputs a length of its own (DoRA)",
        _ => return Ok(()),
    };
    Err(PatchError::Side { patch: applied.name.clone(), tensor: entry.name.clone(), what })
}

/// What side patches add to one weight.
#[derive(Debug)]
struct Added {
    tensor: String,
    shape: Vec<usize>,
    /// By digest.
    patches: Vec<(f64, Arc<Patch>)>,
}

impl Addition for Added {
    fn add(&self, first: usize, values: &mut [f32]) {
        let (mut sum, mut buffer) = (vec![0.0; values.len()], vec![0.0; values.len()]);
        for (strength, patch) in &self.patches {
            let Some(Ok(term)) = patch.entry(&self.tensor).map(|entry| patch.term(entry, &self.shape)) else {
                continue;
            };
            term.change(first, &[], &mut buffer);
            sum.iter_mut().zip(&buffer).for_each(|(sum, change)| *sum += strength * change);
        }
        for (value, sum) in values.iter_mut().zip(&sum) {
            *value = (f64::from(*value) + sum) as f32;
        }
    }

    fn digest(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for (strength, patch) in &self.patches {
            hasher.update(&strength.to_le_bytes()).update(patch.digest().as_bytes());
        }
        hasher.finalize()
    }
}

/// The model of a state with its side patches on the weights that they change.
///
/// Cost: reads no weights; each later read of a changed weight computes its change.
#[must_use]
pub fn attach(state: &State) -> Model {
    let mut order: Vec<&Applied> = state.patches().iter().filter(|applied| applied.side).collect();
    order.sort_by(|a, b| a.patch.digest().cmp(b.patch.digest()));
    let changed = state.model().weights().iter().filter_map(|weight| {
        let own = order.iter().filter(|applied| applied.patch.entry(&weight.name).is_some());
        let patches: Vec<(f64, Arc<Patch>)> = own.map(|on| (on.strength, Arc::clone(&on.patch))).collect();
        let added = Added { tensor: weight.name.clone(), shape: weight.shape.clone(), patches };
        let scaling = Scaling::Added { addition: Arc::new(added), then: None };
        (order.iter().any(|on| on.patch.entry(&weight.name).is_some()))
            .then(|| Weight { scaling: Some(Box::new(scaling)), ..weight.clone() })
    });
    let changed: Vec<Weight> = changed.collect();
    state.model().with_weights(changed)
}

/// A change of one matrix, ready for products beside a packed one.
#[derive(Clone, Debug)]
pub enum SideTerm {
    /// A matrix in few bits.
    Packed(PackedMatrix),
    /// `up * (down * x)`.
    LowRank {
        /// `rank` by columns.
        down: Vec<f32>,
        /// Rows by `rank`, the patch's own scale in it.
        up: Vec<f32>,
    },
}

impl SideTerm {
    /// What a patch adds to a matrix of `rows` by `columns`; `None` where it leaves that tensor alone.
    ///
    /// # Errors
    /// `PatchError::Shape` for another matrix than the patch is for; `PatchError::Side` where the change is no matrix that is added, is stored
    /// element by element, or in groups that are not parts of a row.
    pub fn of(patch: &Patch, tensor: &str, (rows, columns): (usize, usize)) -> Result<Option<Self>, PatchError> {
        let Some(entry) = patch.entry(tensor) else { return Ok(None) };
        patch.check_matrix(entry, (rows, columns))?;
        let refused = |what| PatchError::Side { patch: patch.header().name.clone(), tensor: tensor.to_owned(), what };
        match entry.change {
            Change::Packed { .. } => {
                let (codes, scales, bits) = patch.codes(entry);
                let group = crate::packed::GROUP;
                if !columns.is_multiple_of(group) {
                    return Err(refused("is stored in groups that go over the ends of rows"));
                }
                let zeros = Zeros::Shared(f32::from(1_u8 << (bits - 1)));
                let coded = CodedMatrix { rows, columns, bits, group, codes: &codes, scales: &scales, zeros };
                let matrix = PackedMatrix::new(&coded).map_err(|_| refused("is no matrix that products take"))?;
                Ok(Some(Self::Packed(matrix)))
            }
            Change::LowRank { magnitude: false, .. } | Change::Shards { .. } => {
                let (down, up) = patch.factors(entry, (rows, columns));
                Ok(Some(Self::LowRank { down, up }))
            }
            Change::LowRank { .. } => Err(refused("gives its outputs a length of its own (DoRA)")),
            Change::Replace => Err(refused("replaces it")),
            Change::Affine { .. } => Err(refused("multiplies it (bat)")),
            Change::Plain { .. } => Err(refused("is stored element by element; `--bits 8` makes it one for products")),
        }
    }

    /// The term of a product.
    #[must_use]
    pub fn side(&self, strength: f32) -> Side<'_> {
        match self {
            Self::Packed(matrix) => Side::Packed { matrix, strength },
            Self::LowRank { down, up } => Side::LowRank { down, up, strength },
        }
    }
}
