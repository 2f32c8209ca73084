//! Which linear layers inference engines compute as one product: their parts need one scheme.
//!
//! Engines stack the rows of layers that read the same vector, and store the stack by one scheme. Files keep the parts apart, so it is for
//! whoever chooses schemes to give all parts of a set the same. Source of the sets: `packed_modules_mapping` and the stacked parameters of
//! vLLM's models (`vllm/model_executor/models/{llama,bert,deepseek_v2,qwen3_5,internlm2}.py`); of the rule: `should_ignore_layer` and
//! `_match_fused_layer` in `vllm/model_executor/layers/quantization/compressed_tensors/utils.py`, and for experts
//! `compressed_tensors_moe.py` beside it.

use std::collections::BTreeMap;

use crate::pack::module_name;

/// The last part of the stacked layer's name, and of the layers that it is made of.
const STACKED: [(&str, &[&str]); 8] = [
    ("qkv_proj", &["q_proj", "k_proj", "v_proj"]),
    ("qkv_proj", &["query", "key", "value"]),
    ("wqkv", &["wq", "wk", "wv"]),
    ("gate_up_proj", &["gate_proj", "up_proj"]),
    ("gate_up_proj", &["w1", "w3"]),
    ("fused_qkv_a_proj", &["q_a_proj", "kv_a_proj_with_mqa"]),
    ("in_proj_qkvz", &["in_proj_qkv", "in_proj_z"]),
    ("in_proj_ba", &["in_proj_b", "in_proj_a"]),
];

/// The part of a name under which the experts of a layer stand, by number. All their matrices are one layer.
const EXPERTS: &str = ".experts.";

/// Weights that engines compute as one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FusedSet {
    /// The name of the layer they become: `model.layers.0.self_attn.qkv_proj`, `model.layers.0.mlp.experts`.
    pub layer: String,
    /// Positions of its parts among the names given, ascending; at least two.
    pub parts: Vec<usize>,
}

/// The layer that a weight is stacked into, or `None` where it stands alone in every engine.
#[must_use]
pub fn fused_layer(weight_name: &str) -> Option<String> {
    let module = module_name(weight_name);
    if module == weight_name {
        return None;
    }
    if let Some((layer, rest)) = module.rsplit_once(EXPERTS)
        && rest.split('.').next().is_some_and(|number| number.parse::<u32>().is_ok())
    {
        return Some(format!("{layer}{}", EXPERTS.trim_end_matches('.')));
    }
    let (parent, last) = module.rsplit_once('.').map_or(("", module), |(parent, last)| (parent, last));
    let (stacked, _) = STACKED.iter().find(|(_, parts)| parts.contains(&last))?;
    Some(if parent.is_empty() { (*stacked).to_owned() } else { format!("{parent}.{stacked}") })
}

/// The sets among some weights, by the name of the layer; a layer with one part among them is none.
///
/// Cost: looks at each name once.
#[must_use]
pub fn fused_sets<'a>(weight_names: impl IntoIterator<Item = &'a str>) -> Vec<FusedSet> {
    let mut sets: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, name) in weight_names.into_iter().enumerate() {
        if let Some(layer) = fused_layer(name) {
            sets.entry(layer).or_default().push(index);
        }
    }
    let sets = sets.into_iter().filter(|(_, parts)| parts.len() > 1);
    sets.map(|(layer, parts)| FusedSet { layer, parts }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_convention_is_known() {
        let rows = [
            ("model.layers.3.self_attn.q_proj.weight", Some("model.layers.3.self_attn.qkv_proj")),
            ("model.layers.3.self_attn.o_proj.weight", None),
            ("model.layers.3.mlp.up_proj.weight", Some("model.layers.3.mlp.gate_up_proj")),
            ("model.layers.3.mlp.down_proj.weight", None),
            ("model.layers.3.mlp.gate.weight", None),
            (
                "model.layers.3.mlp.shared_expert.gate_proj.weight",
                Some("model.layers.3.mlp.shared_expert.gate_up_proj"),
            ),
            ("model.layers.3.mlp.experts.7.down_proj.weight", Some("model.layers.3.mlp.experts")),
            ("model.layers.3.block_sparse_moe.experts.0.w2.weight", Some("model.layers.3.block_sparse_moe.experts")),
            ("model.layers.3.mlp.experts.gate_up_proj", None),
            ("model.layers.3.feed_forward.w3.weight", Some("model.layers.3.feed_forward.gate_up_proj")),
            ("model.layers.3.feed_forward.w2.weight", None),
            ("model.layers.3.self_attn.kv_a_proj_with_mqa.weight", Some("model.layers.3.self_attn.fused_qkv_a_proj")),
            ("model.layers.3.self_attn.q_b_proj.weight", None),
            ("bert.encoder.layer.0.attention.self.key.weight", Some("bert.encoder.layer.0.attention.self.qkv_proj")),
            ("model.layers.3.self_attn.q_proj.bias", None),
            ("q_proj.weight", Some("qkv_proj")),
            ("", None),
        ];
        for (name, layer) in rows {
            assert_eq!(fused_layer(name).as_deref(), layer, "{name:?}");
        }
    }

    #[test]
    fn a_part_alone_is_no_set() {
        let names =
            ["a.q_proj.weight", "a.k_proj.weight", "b.gate_proj.weight", "b.down_proj.weight", "b.experts.0.w1.weight"];
        assert_eq!(fused_sets(names), [FusedSet { layer: "a.qkv_proj".to_owned(), parts: vec![0, 1] }]);
    }
}
