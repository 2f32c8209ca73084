//! Robust Weight Signatures: the part of a robust model's change that is orthogonal to the clean model's change.
//!
//! With u = clean - pretrained and v = robust - pretrained, flattened per tensor, the signature is v - (<u, v> / <u, u>) u
//! (Cai, Zhang and Wang, "Robust Weight Signatures", ICML 2023, arXiv 2302.12480; the authors' code is VITA-Group/Robust_Weight_Signatures).
//! Their code multiplies by the strength twice, before the projection and at the sum, so that strength a has the effect of a squared; here
//! it counts once. A tensor that the clean model did not change has no direction u, and v stays whole.
//!
//! Dot products are summed in f64 in one order: eight lanes a piece, pieces in order.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;
use reweight_quant::store::Model;
use reweight_quant::store::safetensors::NewTensor;
use reweight_quant::tensor::{Dtype, shape_text};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::PatchError;
use crate::layers::{Layers, Treatment, module, treatments};
use crate::packed::{Bits, GROUP, Packed, pack};
use crate::patch::{self, Change, Entry, Header, Kind};
use crate::tensor::{FloatTensor, PIECE};
use crate::values::Float;

/// What is projected out of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Projection {
    /// Each tensor as one vector, as the authors do.
    #[default]
    Tensor,
    /// Each row (output channel) as a vector.
    Row,
    /// Nothing: the plain difference of robust and clean.
    None,
}

/// How the elements of a change are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// Codes of few bits in groups of 64.
    Packed(Bits),
    /// Floating point: F16 or F32.
    Float(Float),
}

impl Store {
    /// Bits of an element, scales not counted.
    #[must_use]
    pub const fn bits(self) -> usize {
        match self {
            Self::Packed(bits) => bits.get() as usize,
            Self::Float(float) => 8 * float.bytes(),
        }
    }
}

/// How a signature is extracted.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name it goes by.
    pub name: String,
    /// Which layers.
    pub layers: Layers,
    /// What is projected out.
    pub projection: Projection,
    /// How elements are stored.
    pub store: Store,
}

/// The checkpoints of a signature.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// What both were tuned from; without it the plain difference is taken.
    pub pretrained: Option<&'a Model>,
    /// The clean model, on which the signature goes.
    pub clean: &'a Model,
    /// The robust model.
    pub robust: &'a Model,
}

/// Figures of one tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorFigures {
    /// The tensor.
    pub name: String,
    /// Its module, in the model's order.
    pub module: String,
    /// Whether it is in the signature, and how: `add`, `replace` or `keep`.
    pub treatment: String,
    /// Elements.
    pub n_elements: usize,
    /// Sum of squares of clean - pretrained.
    pub energy_clean: f64,
    /// Sum of squares of robust - clean.
    pub energy_difference: f64,
    /// Sum of squares of the signature.
    pub energy_signature: f64,
    /// Cosine of the two changes; 0 where one of them is nothing.
    pub cosine: f64,
    /// Sum of squares of what storing in few bits loses, where it was stored.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub energy_lost: Option<f64>,
}

/// Three tensors of the same name and shape.
struct Triple<'a> {
    pretrained: Option<FloatTensor<'a>>,
    clean: FloatTensor<'a>,
    robust: FloatTensor<'a>,
}

/// Sums over elements of u and v.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    uu: f64,
    uv: f64,
    vv: f64,
}

impl std::ops::Add for Sums {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { uu: self.uu + other.uu, uv: self.uv + other.uv, vv: self.vv + other.vv }
    }
}

impl Sums {
    /// How much of u is in v.
    fn coefficient(self) -> f64 {
        if self.uu > 0.0 { self.uv / self.uu } else { 0.0 }
    }
}

/// The figures of every tensor that could be part of a signature, in the model's order.
///
/// Cost: reads the three checkpoints once.
///
/// # Errors
/// `PatchError::Mismatch`, `PatchError::NonFinite`, `PlanError`.
pub fn figures(sources: Sources<'_>, options: &Options) -> Result<Vec<TensorFigures>, PatchError> {
    let treatments = treatments(sources.clean, &options.layers)?;
    let mut figures = Vec::new();
    for (weight, treatment) in sources.clean.weights().iter().zip(treatments) {
        let Some(triple) = Triple::find(sources, &weight.name)? else { continue };
        let sums = triple.sums(sources)?;
        let projection = if treatment == Treatment::Add { options.projection } else { Projection::None };
        let total = sums.iter().copied().fold(Sums::default(), |a, b| a + b);
        let difference = (total.vv - 2.0 * total.uv + total.uu).max(0.0);
        let (difference, signature) = match (projection, triple.pretrained.is_some()) {
            (_, false) => (total.vv, total.vv),
            (Projection::None, true) => (difference, difference),
            (Projection::Tensor, true) => (difference, (total.vv - total.coefficient() * total.uv).max(0.0)),
            (Projection::Row, true) => {
                let rest = |sums: &Sums| (sums.vv - sums.coefficient() * sums.uv).max(0.0);
                (difference, sums.iter().map(rest).sum())
            }
        };
        let norms = (total.uu * total.vv).sqrt();
        figures.push(TensorFigures {
            name: weight.name.clone(),
            module: module(&weight.name).to_owned(),
            treatment: match treatment {
                Treatment::Add => "add",
                Treatment::Replace => "replace",
                Treatment::Keep => "keep",
            }
            .to_owned(),
            n_elements: weight.n_elements(),
            energy_clean: total.uu,
            energy_difference: difference,
            energy_signature: signature,
            cosine: if norms > 0.0 { total.uv / norms } else { 0.0 },
            energy_lost: None,
        });
        triple.release();
    }
    Ok(figures)
}

/// Writes a signature file and returns the figures of every tensor.
///
/// Cost: reads the three checkpoints once and those tensors that are taken three times; memory for one tensor in f64.
///
/// # Errors
/// As [`figures`]; `PatchError::NoChange`; `FileError::Io`.
pub fn extract(sources: Sources<'_>, options: &Options, path: &Path) -> Result<Vec<TensorFigures>, PatchError> {
    let mut figures = figures(sources, options)?;
    let taken: Vec<usize> = figures
        .iter()
        .enumerate()
        .filter(|(_, tensor)| tensor.treatment != "keep" && tensor.energy_difference > 0.0)
        .map(|(index, _)| index)
        .collect();
    if taken.is_empty() {
        return Err(PatchError::NoChange);
    }
    let mut entries = Vec::with_capacity(taken.len());
    let mut parts: Vec<NewTensor> = Vec::new();
    let mut origin: Vec<(usize, usize)> = Vec::new();
    for &index in &taken {
        let tensor = &figures[index];
        let triple = Triple::require(sources, &tensor.name)?;
        let (shape, n) = (&triple.clean.weight.shape, tensor.n_elements);
        let replaced = tensor.treatment == "replace";
        let new: Vec<NewTensor> = match options.store {
            _ if replaced => vec![patch::part(&tensor.name, "value", triple.robust.float.dtype(), shape)],
            Store::Packed(bits) => vec![
                patch::part(&tensor.name, "codes", Dtype::U8, &[bits.code_bytes(n)]),
                patch::part(&tensor.name, "scales", Dtype::Bf16, &[n.div_ceil(GROUP)]),
            ],
            Store::Float(float) => vec![patch::part(&tensor.name, "delta", float.dtype(), shape)],
        };
        let change = match options.store {
            _ if replaced => Change::Replace,
            Store::Packed(bits) => Change::Packed { bits: bits.get() },
            Store::Float(_) => Change::Plain { scale: 1.0 },
        };
        origin.extend((0..new.len()).map(|part| (index, part)));
        parts.extend(new);
        entries.push(Entry {
            name: tensor.name.clone(),
            shape: shape.clone(),
            base_blake3: Some(triple.clean.digest()),
            change,
        });
    }
    let header = Header {
        kind: Kind::Signature,
        name: options.name.clone(),
        notes: notes(sources, options, &figures, &taken),
        tensors: entries,
    };
    let mut made: Option<(usize, Vec<Vec<u8>>)> = None;
    patch::write(path, &header, &parts, |part| {
        let (index, within) = origin[part];
        let bytes = match made.take() {
            Some((of, bytes)) if of == index => bytes,
            _ => {
                let triple = Triple::require(sources, &figures[index].name)?;
                let (bytes, lost) = triple.parts(sources, options, figures[index].treatment == "replace")?;
                figures[index].energy_lost = Some(lost);
                triple.release();
                bytes
            }
        };
        let part = bytes[within].clone();
        made = Some((index, bytes));
        Ok(Cow::Owned(part))
    })?;
    Ok(figures)
}

fn notes(
    sources: Sources<'_>,
    options: &Options,
    figures: &[TensorFigures],
    taken: &[usize],
) -> BTreeMap<String, serde_json::Value> {
    let digest = |model: &Model| {
        let mut hasher = blake3::Hasher::new();
        for &index in taken {
            if let Some(weight) = model.weight(&figures[index].name) {
                hasher.update(&(weight.name.len() as u64).to_le_bytes());
                hasher.update(weight.name.as_bytes());
                hasher.update(weight.digest().as_bytes());
            }
        }
        hasher.finalize().to_string()
    };
    let sum = |energy: fn(&TensorFigures) -> f64| taken.iter().map(|&index| energy(&figures[index])).sum::<f64>();
    let mut notes = BTreeMap::from([
        ("layers".to_owned(), json!(options.layers.to_string())),
        ("projection".to_owned(), json!(options.projection)),
        ("bits".to_owned(), json!(options.store.bits())),
        ("clean_blake3".to_owned(), json!(digest(sources.clean))),
        ("robust_blake3".to_owned(), json!(digest(sources.robust))),
        ("energy_difference".to_owned(), json!(sum(|tensor| tensor.energy_difference))),
        ("energy_signature".to_owned(), json!(sum(|tensor| tensor.energy_signature))),
    ]);
    if let Some(pretrained) = sources.pretrained {
        notes.insert("pretrained_blake3".to_owned(), json!(digest(pretrained)));
    }
    notes
}

impl<'a> Triple<'a> {
    /// The tensors of a name; nothing where the clean one is no floating point.
    fn find(sources: Sources<'a>, name: &str) -> Result<Option<Self>, PatchError> {
        let weight = sources.clean.weight(name).filter(|weight| weight.is_float());
        let Some(weight) = weight else { return Ok(None) };
        let clean = FloatTensor::of(weight, sources.clean.path())?;
        let other = |model: &'a Model| {
            let found = model.weight(name).map(|weight| shape_text(&weight.shape));
            let mismatch = || PatchError::Mismatch {
                tensor: name.to_owned(),
                a: shape_text(&clean.weight.shape).into(),
                a_path: sources.clean.path().to_owned(),
                b: found.clone().unwrap_or_else(|| "absent".to_owned()).into(),
                b_path: model.path().to_owned(),
            };
            let weight = model.weight(name).filter(|other| other.shape == clean.weight.shape).ok_or_else(mismatch)?;
            FloatTensor::of(weight, model.path())
        };
        let robust = other(sources.robust);
        // A head of another number of classes is part of no signature, and the pretrained model has one of its own.
        let pretrained = sources.pretrained.map(other).transpose();
        match (robust, pretrained) {
            (Ok(robust), Ok(pretrained)) => Ok(Some(Self { pretrained, clean, robust })),
            (Err(PatchError::Mismatch { .. }), _) | (_, Err(PatchError::Mismatch { .. })) => Ok(None),
            (Err(error), _) | (_, Err(error)) => Err(error),
        }
    }

    fn require(sources: Sources<'a>, name: &str) -> Result<Self, PatchError> {
        Ok(Self::find(sources, name)?.expect("it was found when figures were made"))
    }

    fn release(&self) {
        self.clean.release();
        self.robust.release();
        self.pretrained.iter().for_each(FloatTensor::release);
    }

    /// u and v of a range; without a pretrained model u is nothing and v the plain difference.
    fn directions(&self, start: usize, u: &mut [f64], v: &mut [f64]) {
        self.robust.read(start, v);
        let Some(pretrained) = &self.pretrained else {
            self.clean.read(start, u);
            v.iter_mut().zip(&*u).for_each(|(v, clean)| *v -= clean);
            u.fill(0.0);
            return;
        };
        let mut origin = vec![0.0; u.len()];
        pretrained.read(start, &mut origin);
        self.clean.read(start, u);
        u.iter_mut().zip(&origin).for_each(|(u, origin)| *u -= origin);
        v.iter_mut().zip(&origin).for_each(|(v, origin)| *v -= origin);
    }

    /// Sums of each row (first dimension).
    fn sums(&self, sources: Sources<'_>) -> Result<Vec<Sums>, PatchError> {
        let n = self.clean.n_elements();
        let rows = self.rows();
        let row_len = n.checked_div(rows).unwrap_or(0);
        let of_row = |row: usize| {
            let mut sums = Sums::default();
            for start in (row * row_len..(row + 1) * row_len).step_by(PIECE) {
                let len = PIECE.min((row + 1) * row_len - start);
                let (mut u, mut v) = (vec![0.0; len], vec![0.0; len]);
                self.directions(start, &mut u, &mut v);
                let part = Sums { uu: dot(&u, &u), uv: dot(&u, &v), vv: dot(&v, &v) };
                if !(part.uu + part.vv).is_finite() {
                    let index = u.iter().zip(&v).position(|(u, v)| !(u + v).is_finite()).unwrap_or(0);
                    let (tensor, value) = (self.clean.weight.name.clone(), u[index] + v[index]);
                    let model = sources.robust.path().to_owned();
                    return Err(PatchError::NonFinite { model, tensor, index: start + index, value });
                }
                sums = sums + part;
            }
            Ok(sums)
        };
        (0..rows).into_par_iter().map(of_row).collect()
    }

    fn rows(&self) -> usize {
        self.clean.weight.shape.first().copied().unwrap_or(1).min(self.clean.n_elements())
    }

    /// The bytes of each part, and the energy that storing them loses.
    fn parts(&self, sources: Sources<'_>, options: &Options, replace: bool) -> Result<(Vec<Vec<u8>>, f64), PatchError> {
        if replace {
            return Ok((vec![self.robust.bytes(0, self.robust.n_elements()).to_vec()], 0.0));
        }
        let n = self.clean.n_elements();
        let sums = self.sums(sources)?;
        let row_len = n.checked_div(sums.len()).unwrap_or(0).max(1);
        let total = sums.iter().copied().fold(Sums::default(), |a, b| a + b).coefficient();
        let coefficient = |place: usize| match (options.projection, &self.pretrained) {
            (_, None) => 0.0,
            (Projection::None, _) => 1.0,
            (Projection::Tensor, _) => total,
            (Projection::Row, _) => sums[place / row_len].coefficient(),
        };
        let pieces: Vec<(Vec<Vec<u8>>, f64)> = (0..n.div_ceil(PIECE))
            .into_par_iter()
            .map(|piece| {
                let start = piece * PIECE;
                let len = PIECE.min(n - start);
                let (mut u, mut values) = (vec![0.0; len], vec![0.0; len]);
                self.directions(start, &mut u, &mut values);
                for (offset, (value, u)) in values.iter_mut().zip(&u).enumerate() {
                    *value -= coefficient(start + offset) * u;
                }
                let (bytes, stored) = store(&values, options.store);
                let lost = values.iter().zip(&stored).map(|(value, stored)| (value - stored).powi(2)).sum();
                (bytes, lost)
            })
            .collect();
        let mut bytes = vec![Vec::new(); pieces.first().map_or(0, |(bytes, _)| bytes.len())];
        let mut lost = 0.0;
        for (piece, lost_here) in pieces {
            bytes.iter_mut().zip(piece).for_each(|(all, new)| all.extend(new));
            lost += lost_here;
        }
        Ok((bytes, lost))
    }
}

/// The bytes of values as they are stored, and what comes back of them.
pub(crate) fn store(values: &[f64], store: Store) -> (Vec<Vec<u8>>, Vec<f64>) {
    match store {
        Store::Packed(bits) => {
            let (codes, scales) = pack(values, bits);
            let mut back = vec![0.0; values.len()];
            Packed { bits, codes: &codes, scales: &scales }.read(0, &mut back);
            (vec![codes, scales], back)
        }
        Store::Float(float) => {
            let mut bytes = vec![0; values.len() * float.bytes()];
            float.write(values, &mut bytes);
            let back = float.values(&bytes);
            (vec![bytes], back)
        }
    }
}

/// A dot product in eight lanes, added pairwise at the end.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    let (a_eights, a_rest) = a.as_chunks::<8>();
    let (b_eights, b_rest) = b.as_chunks::<8>();
    for (a, b) in a_eights.iter().zip(b_eights) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    for ((lane, a), b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane += a * b;
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (b + f)) + ((c + g) + (d + h))
}
