"""Import of a GGUF file, against transformers' own reading of the same file."""

import json

import pytest
import torch
from folders import differing, read
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXTS = [
    "Hello, world!",
    "It's 2024; naïve café — 12345 émigré, 3.14159 and 1,000,000",
    "\n\n  tabs\tand   spaces \n",
    "<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n",
    "你好，世界 🙂👩‍👩‍👧 Привет мир שלום",
    "fn main() { println!(\"{:?}\", vec![1u8; 4]); }",
    "don't they'll I'VE we'd",
    "",
]  # fmt: skip


@pytest.fixture(scope="module")
def theirs(gguf):
    """transformers dequantizes the file to f32; the slowest step of the suite."""
    return AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)


@pytest.fixture(scope="module")
def ours(reweight, gguf, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf") / "f32"
    reweight("convert", gguf, folder, "--to", "f32")
    return folder


def test_every_tensor_is_what_transformers_dequantizes(theirs, ours):
    expected = theirs.state_dict()
    expected.pop("lm_head.weight")  # tied to the embedding
    found = read(ours)
    assert found.keys() == expected.keys()
    assert differing(found, expected) == []


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_narrower_floats_are_rounded_once(reweight, theirs, gguf, tmp_path, dtype):
    reweight("convert", gguf, tmp_path / "t", "--to", dtype)
    torch_dtype = {"bf16": torch.bfloat16, "f16": torch.float16}[dtype]
    expected = {name: tensor.to(torch_dtype) for name, tensor in theirs.state_dict().items()}
    expected.pop("lm_head.weight")
    assert differing(read(tmp_path / "t"), expected) == []


def test_the_config_makes_the_same_model(theirs, ours):
    model = AutoModelForCausalLM.from_pretrained(ours)
    assert type(model) is type(theirs)
    same = [
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
        "head_dim", "hidden_act", "max_position_embeddings", "rope_parameters", "tie_word_embeddings", "bos_token_id", "eos_token_id",
    ]  # fmt: skip
    assert {key: getattr(model.config, key) for key in same} == {key: getattr(theirs.config, key) for key in same}
    assert model.config.rms_norm_eps == pytest.approx(theirs.config.rms_norm_eps, rel=1e-6)
    ids = torch.arange(100, 164)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, theirs(ids).logits)


def test_token_ids_are_the_same(gguf, ours, heldout):
    their_tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    our_tokenizer = AutoTokenizer.from_pretrained(ours)
    wrong = []
    for text in [*TEXTS, heldout[:20_000]]:
        expected, found = their_tokenizer(text).input_ids, our_tokenizer(text).input_ids
        if found != expected or our_tokenizer.decode(found) != text:
            wrong.append((text[:60], expected[:40], found[:40]))
    assert wrong == []
    assert our_tokenizer.eos_token == their_tokenizer.eos_token


def test_shards_hold_the_same_tensors_as_one_file(reweight, gguf, ours, tmp_path):
    reweight("convert", gguf, tmp_path / "t", "--to", "f32", "--max-shard-size", "150MB")
    names = sorted(file.name for file in (tmp_path / "t").glob("*.safetensors"))
    assert names == [f"model-{index + 1:05}-of-{len(names):05}.safetensors" for index in range(len(names))]
    assert len(names) >= 4
    assert read(tmp_path / "t").keys() == read(ours).keys()
    assert differing(read(tmp_path / "t"), read(ours)) == []
    index = json.loads((tmp_path / "t/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in read(ours).values())
    assert reweight("diff", ours, tmp_path / "t", "--json")["identical"] is True
