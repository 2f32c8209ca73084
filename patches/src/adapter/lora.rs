//! LoRA and DoRA layers of a PEFT adapter: linear, convolution and embedding.

use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};
use reweight_quant::store::safetensors::TensorEntry;
use reweight_quant::tensor::{n_elements, shape_text};
use serde_json::Value;

use super::peft::{Adapter, Imported};
use crate::PatchError;
use crate::patch::{Change, Entry};
use crate::values::Float;

/// Most bytes of a compiled pattern of `alpha_pattern`.
const PATTERN_BYTES: usize = 1 << 20;

/// The scale of each module: alpha / r, or alpha / sqrt(r).
pub(super) struct Scaling {
    alpha: f64,
    patterns: Vec<(Regex, f64)>,
    by_root: bool,
}

impl Scaling {
    pub(super) fn read(adapter: &Adapter<'_>) -> Result<Self, PatchError> {
        let number = |value: &Value| value.as_f64().filter(|value| value.is_finite());
        let alpha = adapter.config.get("lora_alpha").and_then(number);
        let alpha = alpha.ok_or_else(|| adapter.refuse("an adapter without a number lora_alpha".to_owned()))?;
        let mut patterns = Vec::new();
        for (key, value) in adapter.config.get("alpha_pattern").and_then(Value::as_object).into_iter().flatten() {
            // As peft matches them: a whole name, or what follows a dot in it.
            let regex = RegexBuilder::new(&format!(r"^(?:.*\.)?(?:{key})$")).size_limit(PATTERN_BYTES).build();
            let pair = regex.ok().zip(number(value));
            patterns.push(pair.ok_or_else(|| adapter.refuse(format!("alpha_pattern {key:?} = {value}")))?);
        }
        Ok(Self { alpha, patterns, by_root: adapter.flag("use_rslora") })
    }

    fn of(&self, module: &str, rank: usize) -> f64 {
        let found = self.patterns.iter().find(|(pattern, _)| pattern.is_match(module));
        let alpha = found.map_or(self.alpha, |(_, alpha)| *alpha);
        alpha / if self.by_root { (rank as f64).sqrt() } else { rank as f64 }
    }
}

/// What an adapter holds of one module.
#[derive(Default)]
struct Layer<'a> {
    a: Option<&'a TensorEntry>,
    b: Option<&'a TensorEntry>,
    bias: Option<&'a TensorEntry>,
    magnitude: Option<&'a TensorEntry>,
    embedding: bool,
}

/// Every change of the adapter, by name.
pub(super) fn import(adapter: &Adapter<'_>) -> Result<Vec<Imported>, PatchError> {
    let scaling = adapter.scaling()?;
    let mut layers: BTreeMap<&str, Layer<'_>> = BTreeMap::new();
    let mut imported = Vec::new();
    for (name, tensor) in adapter.tensors() {
        // DoRA magnitudes and embedding factors are saved with and without `.weight`.
        let bare = name.strip_suffix(".weight").unwrap_or(name);
        if let Some(module) = bare.strip_suffix(".lora_A") {
            layers.entry(module).or_default().a = Some(tensor);
        } else if let Some(module) = bare.strip_suffix(".lora_B") {
            layers.entry(module).or_default().b = Some(tensor);
        } else if let Some(module) = name.strip_suffix(".lora_B.bias") {
            layers.entry(module).or_default().bias = Some(tensor);
        } else if let Some(module) = bare.strip_suffix(".lora_magnitude_vector") {
            layers.entry(module).or_default().magnitude = Some(tensor);
        } else if let Some(module) = bare.strip_suffix(".lora_embedding_A") {
            let layer = layers.entry(module).or_default();
            (layer.a, layer.embedding) = (Some(tensor), true);
        } else if let Some(module) = bare.strip_suffix(".lora_embedding_B") {
            let layer = layers.entry(module).or_default();
            (layer.b, layer.embedding) = (Some(tensor), true);
        } else if name.contains(".lora_") {
            return Err(adapter.refuse(format!("tensor {name:?}")));
        } else {
            // `base_layer` is how peft names the weights that an adapter stands beside.
            let name = name.replace(".base_layer.", ".").replace(".modules_to_save.", ".");
            imported.push(adapter.replacement(&name, tensor)?);
        }
    }
    for (module, layer) in layers {
        layer.import(adapter, &scaling, module, &mut imported)?;
    }
    imported.sort_by(|a, b| a.entry.name.cmp(&b.entry.name));
    Ok(imported)
}

impl Layer<'_> {
    fn import(
        &self,
        adapter: &Adapter<'_>,
        scaling: &Scaling,
        module: &str,
        imported: &mut Vec<Imported>,
    ) -> Result<(), PatchError> {
        let (Some(a), Some(b)) = (self.a, self.b) else {
            return Err(adapter.malformed(format!("module {module:?}: expected lora_A and lora_B")));
        };
        let all = [Some(a), Some(b), self.bias, self.magnitude];
        if let Some(other) = all.into_iter().flatten().find(|tensor| Float::of(tensor.dtype).is_none()) {
            return Err(adapter.refuse(format!("tensor {:?} of {}", other.name, other.dtype)));
        }
        let transposed = self.embedding || adapter.flag("fan_in_fan_out");
        let (rank, shape) = shape(a, b, transposed).ok_or_else(|| adapter.malformed(factors(module, a, b)))?;
        if self.magnitude.is_some() && self.embedding {
            return Err(adapter.refuse(format!("DoRA on the embedding {module:?}")));
        }
        let scale = scaling.of(module, rank);
        let mut parts = vec![("a", a.clone()), ("b", b.clone())];
        parts.extend(self.magnitude.map(|magnitude| ("magnitude", magnitude.clone())));
        let change = Change::LowRank { rank, scale, transposed, magnitude: self.magnitude.is_some() };
        let entry = Entry { name: format!("{module}.weight"), shape, base_blake3: None, change };
        imported.push(Imported { entry, parts });
        if let Some(bias) = self.bias {
            let (name, shape) = (format!("{module}.bias"), bias.shape.clone());
            let entry = Entry { name, shape, base_blake3: None, change: Change::Plain { scale } };
            imported.push(Imported { entry, parts: vec![("delta", bias.clone())] });
        }
        Ok(())
    }
}

fn factors(module: &str, a: &TensorEntry, b: &TensorEntry) -> String {
    let (a, b) = (shape_text(&a.shape), shape_text(&b.shape));
    format!("module {module:?}: factors of shapes {a} and {b} do not make a product")
}

/// Rank and shape of the weight that two factors change: `a` has `rank` rows, `b` ends with `rank` (filters of one element a kernel).
fn shape(a: &TensorEntry, b: &TensorEntry, transposed: bool) -> Option<(usize, Vec<usize>)> {
    let (&rank, inputs) = a.shape.split_first()?;
    let (&outputs, inner) = b.shape.split_first()?;
    let (&first, kernel) = inner.split_first()?;
    let fits = rank > 0 && first == rank && kernel.iter().all(|&size| size == 1) && !inputs.is_empty();
    n_elements(&a.shape).zip(n_elements(&b.shape)).filter(|_| fits && a.shape.len() == b.shape.len())?;
    let mut shape = vec![outputs];
    shape.extend(inputs);
    if transposed {
        if shape.len() != 2 {
            return None;
        }
        shape.reverse();
    }
    Some((rank, shape))
}
