//! A LoRA adapter in a GGUF file, under the names and in the order of rows that Hugging Face gives the weights it changes.
//!
//! Layout of llama.cpp (`convert_lora_to_gguf.py`, `src/llama-adapter.cpp`): `general.type` is `adapter`, `adapter.type` is `lora`, and tensor `T` has the
//! factors `T.lora_a`, rank by inputs, and `T.lora_b`, outputs by rank. `T` gains `alpha / rank * lora_b lora_a`, or the product alone where alpha is
//! 0 or not stated. The factors of token embeddings are tokens by rank and dimensions by rank: there the gain is `lora_a` times `lora_b` turned. How
//! many heads there are, on which the order of rows of queries and keys depends, only the model says.

use std::collections::BTreeMap;

use super::super::parse::quoted;
use super::super::{GgufFile, TensorInfo, Value};
use super::RowOrder;
use super::export::{self, Reader};
use super::tensors::{self, MAX_EXPERTS, Name};
use crate::error::FileError;
use crate::store::Model;
use crate::tensor::shape_text;

/// An adapter's layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// Divided by the rank it multiplies every product; without it products count as they are.
    pub alpha: Option<f64>,
    /// In the order of their names in the file, experts apart.
    pub layers: Vec<LoraLayer>,
}

/// The change of one weight: `outputs` by `rank` times `rank` by `inputs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoraLayer {
    /// The Hugging Face name of the weight.
    pub name: String,
    /// Rows of the weight.
    pub outputs: usize,
    /// Columns of the weight.
    pub inputs: usize,
    /// Between the factors.
    pub rank: usize,
    /// Where among the tensors of the file the factor with `outputs` is.
    pub left: usize,
    /// Where the factor with `inputs` is.
    pub right: usize,
    /// Which of the matrices of both, for experts, which share two tensors.
    pub expert: usize,
    /// How the left factor orders its rows.
    pub row_order: RowOrder,
    /// Whether the right factor is stored inputs by rank, as for token embeddings.
    pub right_is_turned: bool,
}

/// The factors of one tensor.
#[derive(Default)]
struct Pair {
    a: Option<usize>,
    b: Option<usize>,
}

impl GgufFile {
    /// Reads the file as a LoRA adapter for a model. No tensor data is read.
    ///
    /// # Errors
    /// `FileError::Unsupported` for a file that is no such adapter, or one of another architecture, and for tensors and keys that mean more than factors;
    /// `FileError::Malformed` where factors are missing or do not fit each other.
    pub fn lora(&self, base: &Model) -> Result<Lora, FileError> {
        let reader = Reader::of(base)?;
        let architecture = export::architecture(&reader)?;
        for (key, expected) in
            [("general.type", "adapter"), ("adapter.type", "lora"), ("general.architecture", architecture.name)]
        {
            let found = self.value(key).and_then(Value::as_str).unwrap_or("");
            if found != expected {
                return Err(self.refused(format!("an adapter with {key} {} (expected {expected:?})", quoted(found))));
            }
        }
        if self.value("adapter.alora.invocation_tokens").is_some() {
            return Err(self.refused("an adapter that only some tokens switch on".to_owned()));
        }
        let (heads, n_layers) = (reader.heads()?, reader.required("num_hidden_layers")? as usize);
        let mut layers = Vec::new();
        for (tensor, pair) in self.pairs()? {
            let known = tensors::name(architecture, n_layers, tensor).filter(|name| name.is_weight);
            let name = known.ok_or_else(|| {
                self.refused(format!("tensor {} of architecture {:?}", quoted(tensor), architecture.name))
            })?;
            let (Some(a), Some(b)) = (pair.a, pair.b) else {
                return Err(self.wrong(tensor, "expected lora_a and lora_b, found one of them"));
            };
            let order = |outputs: usize| {
                export::row_order(architecture, heads, name.stem, &[outputs])
                    .ok_or_else(|| self.wrong(tensor, &format!("{outputs} rows are not those of the model's heads")))
            };
            self.add(tensor, &name, (a, b), order, &mut layers)?;
        }
        Ok(Lora { alpha: self.alpha()?, layers })
    }

    fn refused(&self, what: String) -> FileError {
        FileError::Unsupported { path: self.path().to_owned(), what }
    }

    fn wrong(&self, tensor: &str, what: &str) -> FileError {
        let what = format!("factors of {}: {what}", quoted(tensor));
        FileError::Malformed { path: self.path().to_owned(), format: "GGUF", what }
    }

    fn alpha(&self) -> Result<Option<f64>, FileError> {
        let Some(value) = self.value("adapter.lora.alpha") else { return Ok(None) };
        let alpha = value.as_f64().filter(|alpha| alpha.is_finite());
        let alpha = alpha.ok_or_else(|| self.refused("an adapter whose adapter.lora.alpha is no number".to_owned()))?;
        Ok((alpha != 0.0).then_some(alpha))
    }

    /// Factors by the tensor that they change.
    fn pairs(&self) -> Result<BTreeMap<&str, Pair>, FileError> {
        let mut pairs: BTreeMap<&str, Pair> = BTreeMap::new();
        for (index, info) in self.tensors().iter().enumerate() {
            if let Some(tensor) = info.name.strip_suffix(".lora_a") {
                pairs.entry(tensor).or_default().a = Some(index);
            } else if let Some(tensor) = info.name.strip_suffix(".lora_b") {
                pairs.entry(tensor).or_default().b = Some(index);
            } else {
                return Err(self.refused(format!("tensor {} of an adapter", quoted(&info.name))));
            }
        }
        Ok(pairs)
    }

    /// Adds what one pair changes: one weight, or one for each expert.
    fn add(
        &self,
        tensor: &str,
        name: &Name,
        (a, b): (usize, usize),
        order: impl Fn(usize) -> Result<RowOrder, FileError>,
        layers: &mut Vec<LoraLayer>,
    ) -> Result<(), FileError> {
        let (a_info, b_info) = (&self.tensors()[a], &self.tensors()[b]);
        let factors = || {
            let (a, b) = (shape_text(&a_info.shape), shape_text(&b_info.shape));
            self.wrong(tensor, &format!("shapes {a} and {b} do not make a product"))
        };
        let embedding = name.stem == "token_embd";
        // Of embeddings `lora_a` has the rows of the weight.
        let (left, right) = if embedding { (a, b) } else { (b, a) };
        let experts = name.hf.split_once('*');
        let (n_left, [outputs, rank]) = matrices(&self.tensors()[left], experts.is_some()).ok_or_else(factors)?;
        let (n_right, of_right) = matrices(&self.tensors()[right], experts.is_some()).ok_or_else(factors)?;
        let [inputs, rank_right] = if embedding { of_right } else { [of_right[1], of_right[0]] };
        if rank != rank_right || n_left != n_right || n_left > MAX_EXPERTS {
            return Err(factors());
        }
        let row_order = order(outputs)?;
        let layer = |name: String, expert| {
            let right_is_turned = embedding;
            LoraLayer { name, outputs, inputs, rank, left, right, expert, row_order, right_is_turned }
        };
        match experts {
            None => layers.push(layer(name.hf.clone(), 0)),
            Some((before, after)) => {
                layers.extend((0..n_left).map(|expert| layer(format!("{before}{expert}{after}"), expert)));
            }
        }
        Ok(())
    }
}

/// How many matrices a factor holds, and the size of one.
fn matrices(info: &TensorInfo, stacked: bool) -> Option<(usize, [usize; 2])> {
    match info.shape[..] {
        [rows, columns] if !stacked && rows > 0 && columns > 0 => Some((1, [rows, columns])),
        [n, rows, columns] if stacked && n > 0 && rows > 0 && columns > 0 => Some((n, [rows, columns])),
        _ => None,
    }
}
