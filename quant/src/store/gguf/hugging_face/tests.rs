//! The view of small models built by hand: names, row order, configuration, tokenizers, and what is refused.

use serde_json::{Value as Json, json};

use super::super::tests::{Draft, Random, damaged, key, parse, read_all, string, tensor};
use super::{HfView, RowOrder};

fn text(name: &str, value: &str) -> Vec<u8> {
    key(name, 8, &string(value.as_bytes()))
}

fn count(name: &str, value: u32) -> Vec<u8> {
    key(name, 4, &value.to_le_bytes())
}

fn float(name: &str, value: f32) -> Vec<u8> {
    key(name, 6, &value.to_le_bytes())
}

fn flag(name: &str, value: bool) -> Vec<u8> {
    key(name, 7, &[value.into()])
}

fn array(name: &str, ty: u32, n: usize, elements: &[u8]) -> Vec<u8> {
    key(name, 9, &[&ty.to_le_bytes()[..], &(n as u64).to_le_bytes(), elements].concat())
}

fn strings(name: &str, list: &[&str]) -> Vec<u8> {
    array(name, 8, list.len(), &list.iter().flat_map(|text| string(text.as_bytes())).collect::<Vec<u8>>())
}

fn types(list: &[i32]) -> Vec<u8> {
    let bytes: Vec<u8> = list.iter().flat_map(|ty| ty.to_le_bytes()).collect();
    array("tokenizer.ggml.token_type", 5, list.len(), &bytes)
}

fn scores(list: &[f32]) -> Vec<u8> {
    let bytes: Vec<u8> = list.iter().flat_map(|score| score.to_le_bytes()).collect();
    array("tokenizer.ggml.scores", 6, list.len(), &bytes)
}

/// A model of keys and F32 tensors, which lie one after the other.
struct Model {
    keys: Vec<Vec<u8>>,
    tensors: Vec<(String, Vec<u64>)>,
}

impl Model {
    /// One block of width 8 with two heads, three tokens, no tokenizer.
    fn llama() -> Self {
        let keys = vec![
            text("general.architecture", "llama"),
            count("llama.block_count", 1),
            count("llama.embedding_length", 8),
            count("llama.feed_forward_length", 6),
            count("llama.context_length", 128),
            count("llama.attention.head_count", 2),
            count("llama.attention.head_count_kv", 1),
            float("llama.attention.layer_norm_rms_epsilon", 1e-6),
        ];
        let tensors = [
            ("token_embd", vec![8, 3]),
            ("output_norm", vec![8]),
            ("blk.0.attn_norm", vec![8]),
            ("blk.0.attn_q", vec![8, 8]),
            ("blk.0.attn_k", vec![8, 4]),
            ("blk.0.attn_v", vec![8, 4]),
            ("blk.0.attn_output", vec![8, 8]),
            ("blk.0.ffn_norm", vec![8]),
            ("blk.0.ffn_gate", vec![8, 6]),
            ("blk.0.ffn_up", vec![8, 6]),
            ("blk.0.ffn_down", vec![6, 8]),
        ];
        let tensors = tensors.into_iter().map(|(name, dims)| (format!("{name}.weight"), dims)).collect();
        Self { keys, tensors }
    }

    /// Adds a key, or replaces the one of the same name.
    fn with(mut self, new: Vec<u8>) -> Self {
        let name = |key: &[u8]| key[..8 + usize::from(key[0])].to_vec();
        self.keys.retain(|key| name(key) != name(&new));
        self.keys.push(new);
        self
    }

    fn with_tensor(mut self, name: &str, dims: &[u64]) -> Self {
        self.tensors.retain(|(other, _)| other != name);
        self.tensors.push((name.to_owned(), dims.to_vec()));
        self
    }

    fn without_tensor(mut self, name: &str) -> Self {
        self.tensors.retain(|(other, _)| other != name);
        self
    }

    fn draft(&self) -> Draft {
        let mut draft = Draft::new();
        draft.keys.clone_from(&self.keys);
        let mut offset = 0;
        for (name, dims) in &self.tensors {
            draft.tensors.push(tensor(name, dims, 0, offset));
            offset = (offset + 4 * dims.iter().product::<u64>()).next_multiple_of(32);
        }
        draft.data(offset as usize)
    }

    fn view(&self) -> Result<HfView, String> {
        self.draft().parse()?.hugging_face().map_err(|error| error.to_string())
    }

    /// One of the JSON files of the view.
    fn file(&self, name: &str) -> Json {
        let view = self.view().expect("a model that can be viewed");
        let (_, bytes) = view.files.iter().find(|(other, _)| other == name).expect("the file is there");
        serde_json::from_slice(bytes).expect("JSON")
    }

    fn byte_level(self, pre: &str) -> Self {
        self.with(text("tokenizer.ggml.model", "gpt2"))
            .with(text("tokenizer.ggml.pre", pre))
            .with(strings("tokenizer.ggml.tokens", &["a", "b", "ab", "<s>", "<think>", "[PAD5]"]))
            .with(types(&[1, 1, 1, 3, 4, 5]))
            .with(strings("tokenizer.ggml.merges", &["a b"]))
            .with(count("tokenizer.ggml.bos_token_id", 3))
            .with(count("tokenizer.ggml.eos_token_id", 3))
    }

    fn sentence_piece(self) -> Self {
        self.with(text("tokenizer.ggml.model", "llama"))
            .with(strings("tokenizer.ggml.tokens", &["<unk>", "<s>", "</s>", "a", "aa", "aaa", "\u{2581}", "  "]))
            .with(types(&[2, 3, 3, 1, 1, 1, 1, 4]))
            .with(scores(&[0.0, 0.0, 0.0, -5.0, -2.0, -1.0, -4.0, -3.0]))
    }
}

#[test]
fn interleaved_rows_are_the_inverse_of_what_the_converter_does() {
    // The converter: reshape(heads, 2, D/2), swap the last two, flatten; here for 3 heads of 6 rows.
    let (n_heads, head_rows) = (3, 6);
    let mut stored = Vec::new();
    for head in 0..n_heads {
        for i in 0..head_rows / 2 {
            stored.extend([0, 1].map(|half| head * head_rows + half * head_rows / 2 + i));
        }
    }
    let order = RowOrder::Interleaved { head_rows };
    for hf_row in 0..n_heads * head_rows {
        assert_eq!(stored[order.source_row(hf_row)], hf_row);
    }
}

#[test]
fn names_shapes_and_flags_of_a_llama() -> Result<(), String> {
    let view = Model::llama().view()?;
    let names: Vec<&str> = view.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(
        names[..4],
        [
            "model.embed_tokens.weight",
            "model.norm.weight",
            "model.layers.0.input_layernorm.weight",
            "model.layers.0.self_attn.q_proj.weight",
        ]
    );
    assert_eq!(view.tensors[3].row_order, RowOrder::Interleaved { head_rows: 4 });
    assert_eq!(view.tensors[5].row_order, RowOrder::Natural);
    assert_eq!(view.config["vocab_size"], 3);
    assert_eq!(view.config["tie_word_embeddings"], true);
    assert_eq!(view.config["rms_norm_eps"], 1e-6);
    assert_eq!(view.config["rope_theta"], 10_000.0);
    assert_eq!(view.config["bos_token_id"], Json::Null);
    assert_eq!(view.files.len(), 1, "no tokenizer, no tokenizer files");

    let untied = Model::llama().with_tensor("output.weight", &[8, 3]).view()?;
    assert_eq!(untied.config["tie_word_embeddings"], false);
    assert!(untied.tensors.iter().any(|tensor| tensor.name == "lm_head.weight"));
    Ok(())
}

#[test]
fn rotary_scaling_is_carried_over() -> Result<(), String> {
    let kind =
        |kind| Model::llama().with(text("llama.rope.scaling.type", kind)).with(float("llama.rope.scaling.factor", 4.0));
    assert_eq!(kind("linear").view()?.config["rope_scaling"], json!({ "rope_type": "linear", "factor": 4.0 }));
    let yarn = kind("yarn").with(count("llama.rope.scaling.original_context_length", 32));
    let expected = json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32 });
    assert_eq!(yarn.view()?.config["rope_scaling"], expected);
    assert_eq!(kind("none").view()?.config["rope_scaling"], Json::Null);
    Ok(())
}

#[test]
fn what_has_no_counterpart_is_refused_by_name() {
    let llama = Model::llama;
    let bpe = || llama().byte_level("smollm");
    let spm = || llama().sentence_piece();
    let cases: Vec<(Model, &str)> = vec![
        (
            llama().with(text("general.architecture", "mamba")),
            "architecture \"mamba\" without experts (known: llama, qwen2",
        ),
        (llama().with(text("general.type", "adapter")), "a GGUF of type \"adapter\" is not supported"),
        (llama().with(count("split.count", 2)), "one of several files that a model was split over, without the others"),
        (llama().with(text("llama.block_count", "x")), "key \"llama.block_count\" is string, expected a number"),
        (llama().with(count("llama.block_count", u32::MAX)), "4294967295 blocks, but only 11 tensors"),
        (llama().with(count("llama.block_count", 2)), "tensor \"blk.1.attn_norm.weight\" is missing"),
        (llama().with(count("llama.attention.head_count", 0)), "attention of 0 heads"),
        (llama().with(count("llama.attention.head_count", 4)), "has shape [4, 8], expected 1 heads of 2 rows"),
        (llama().with(count("llama.attention.value_length", 3)), "keys and values of different lengths"),
        (llama().with(count("llama.rope.dimension_count", 2)), "rotation of 2 of 4 elements of a head"),
        (llama().with(text("llama.rope.scaling.type", "odd")), "rotary scaling \"odd\""),
        (llama().with(count("llama.embedding_length", 10)), "expected 2 heads of 5 rows"),
        (llama().with_tensor("token_embd.weight", &[4, 3]), "has shape [3, 4], expected [tokens, 8]"),
        (llama().with_tensor("rope_freqs.weight", &[2]), "rotary scaling by factors other than Llama 3's"),
        (llama().with_tensor("rope_freqs.weight", &[3]), "has shape [3], expected [2]"),
        (llama().with_tensor("output.weight", &[8, 0]), "weight \"output.weight\" has shape [0, 8], expected elements"),
        (llama().with_tensor("blk.0.ssm_a.weight", &[8]), "tensor \"blk.0.ssm_a.weight\" of architecture `llama`"),
        (llama().with_tensor("blk.00.attn_q.weight", &[8, 8]), "tensor \"blk.00.attn_q.weight\" of architecture"),
        (llama().without_tensor("blk.0.ffn_up.weight"), "tensor \"blk.0.ffn_up.weight\" is missing"),
        (llama().with(text("tokenizer.ggml.model", "t5")), "tokenizer model \"t5\" (known: gpt2, llama)"),
        (llama().byte_level("new"), "a byte-level tokenizer with pre-tokenizer \"new\" (known: gpt-2"),
        (bpe().with(strings("tokenizer.ggml.merges", &["a b", "b a"])), "merge 1 is \"b a\", expected two tokens"),
        (bpe().with(strings("tokenizer.ggml.merges", &["ab"])), "merge 0 is \"ab\""),
        (bpe().with(types(&[1])), "1 token types, expected 6"),
        (bpe().with(types(&[1, 1, 1, 1, 1, 9])), "token type 9, expected 0 to 6"),
        (bpe().with(count("tokenizer.ggml.eos_token_id", 6)), "special token 6 of 6 tokens"),
        (spm().with(scores(&[1.0])), "1 token scores, expected 8"),
        (
            spm().with(strings("tokenizer.ggml.tokens", &["<u>", "x", "y", "x", "a", "b", "c", "d"])),
            "token \"x\" has ids 1 and 3",
        ),
        (spm().with(flag("tokenizer.ggml.remove_extra_whitespaces", true)), "removes extra spaces"),
    ];
    let mut failures = Vec::new();
    for (model, expected) in &cases {
        match model.view() {
            Ok(_) => failures.push(format!("accepted, expected: {expected}")),
            Err(found) if found.contains(expected) => {}
            Err(found) => failures.push(format!("found: {found}\n expected: {expected}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_byte_level_tokenizer_is_rebuilt() {
    let plain = Model::llama().byte_level("smollm").file("tokenizer.json");
    assert_eq!(plain["model"]["vocab"], json!({ "a": 0, "b": 1, "ab": 2, "<s>": 3, "<think>": 4 }), "no padding token");
    assert_eq!(plain["model"]["merges"], json!(["a b"]));
    assert_eq!(plain["model"]["ignore_merges"], false);
    assert_eq!(plain["pre_tokenizer"]["pretokenizers"][0]["type"], "Digits");
    assert_eq!(plain["post_processor"]["type"], "ByteLevel");
    let added: Vec<_> = plain["added_tokens"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|t| (&t["id"], &t["content"], &t["special"]))
        .collect();
    assert_eq!(added, [(&json!(3), &json!("<s>"), &json!(true)), (&json!(4), &json!("<think>"), &json!(false))]);

    let llama3 = Model::llama().byte_level("llama-bpe");
    assert_eq!(llama3.file("tokenizer.json")["model"]["ignore_merges"], true);
    let template = &llama3.file("tokenizer.json")["post_processor"]["processors"][1];
    assert_eq!(template["single"][0]["SpecialToken"]["id"], "<s>");
    assert_eq!(template["special_tokens"]["<s>"]["ids"], json!([3]));
    assert_eq!(llama3.file("tokenizer_config.json")["add_bos_token"], true);
    let silent = llama3.with(flag("tokenizer.ggml.add_bos_token", false));
    assert_eq!(silent.file("tokenizer.json")["post_processor"]["type"], "ByteLevel");
}

#[test]
fn a_sentence_piece_tokenizer_is_rebuilt() {
    let model = Model::llama().sentence_piece();
    let tokenizer = model.file("tokenizer.json");
    // "aaa" has the best score; of its two splits the longer left part comes first.
    assert_eq!(tokenizer["model"]["merges"], json!(["aa a", "a aa", "a a", "\u{2581} \u{2581}"]));
    assert_eq!(tokenizer["model"]["vocab"]["\u{2581}\u{2581}"], 7, "a user-defined run of spaces is a piece");
    assert_eq!(tokenizer["model"]["unk_token"], "<unk>");
    assert_eq!(tokenizer["model"]["byte_fallback"], false, "no byte tokens");
    assert_eq!(tokenizer["normalizer"]["normalizers"][0]["type"], "Prepend");
    assert_eq!(tokenizer["post_processor"]["single"][0]["SpecialToken"]["id"], "<s>");
    let bare = model.with(flag("tokenizer.ggml.add_space_prefix", false));
    assert_eq!(bare.file("tokenizer.json")["normalizer"]["type"], "Replace");
}

#[test]
fn the_end_of_a_turn_ends_generation() {
    let model = Model::llama().byte_level("qwen2").with(count("tokenizer.ggml.eot_token_id", 1));
    assert_eq!(model.file("generation_config.json")["eos_token_id"], json!([1, 3]));
    assert_eq!(model.view().expect("a model").config["eos_token_id"], 3);
}

#[test]
fn random_damage_gives_a_view_or_an_error() {
    let originals = [Model::llama().byte_level("llama-bpe"), Model::llama().sentence_piece()];
    let mut random = Random(2);
    let mut n_viewed = 0;
    for original in originals.map(|model| model.draft().bytes()) {
        for _ in 0..20_000 {
            let Ok(file) = parse(damaged(&original, &mut random)) else { continue };
            let Ok(view) = file.hugging_face() else { continue };
            read_all(&file);
            for tensor in &view.tensors {
                let mut values = vec![0.0; tensor.n_rows() * tensor.row_elements()];
                file.dequantize_hf_rows(tensor, 0..tensor.n_rows(), &mut values);
            }
            n_viewed += 1;
        }
    }
    assert!((4_000..36_000).contains(&n_viewed), "{n_viewed} viewed");
}
