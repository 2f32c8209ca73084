"""Models of several towers: the language model is run, scaled and quantized under its prefix, everything else stays as it is."""

import json

import pytest
import tokenizers
import torch
import transformers
from transformers import AutoModelForImageTextToText
from transformers.models.siglip import modeling_siglip as siglip

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 256,
}
VISION = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
IDS = torch.randint(20, 128, (4, 64), generator=torch.Generator().manual_seed(3))


def llava():
    text, vision = {"model_type": "llama", **TEXT}, {"model_type": "clip_vision_model", "num_hidden_layers": 1, **VISION}
    return transformers.LlavaConfig(text_config=text, vision_config=vision, image_token_index=5)


def gemma3():
    vision = {"model_type": "siglip_vision_model", "num_hidden_layers": 1, **VISION}
    tokens = {"image_token_index": 5, "boi_token_index": 6, "eoi_token_index": 7}
    return transformers.Gemma3Config(text_config={"head_dim": 16, **TEXT}, vision_config=vision, mm_tokens_per_image=4, **tokens)


def qwen2_5_vl():
    rope = {"type": "mrope", "mrope_section": [2, 3, 3], "rope_type": "default"}
    vision = {"depth": 1, "hidden_size": 64, "intermediate_size": 96, "num_heads": 2, "out_hidden_size": 64}
    return transformers.Qwen2_5_VLConfig(text_config={"rope_scaling": rope, **TEXT}, vision_config=vision)


def smolvlm():
    vision = {"num_hidden_layers": 1, **VISION}
    return transformers.SmolVLMConfig(text_config={"model_type": "llama", **TEXT}, vision_config=vision)


@torch.no_grad()
def loss(model):
    logits = torch.cat([model(input_ids=window[None]).logits[0, :-1].double() for window in IDS])
    return torch.nn.functional.cross_entropy(logits, IDS[:, 1:].flatten()).item()


def tensors(model):
    return {name: value.detach().float() for name, value in model.state_dict().items()}


@pytest.fixture(scope="module", params=[llava, gemma3, qwen2_5_vl, smolvlm], ids=lambda make: make.__name__)
def made(request, tmp_path_factory):
    torch.manual_seed(5)
    model = AutoModelForImageTextToText.from_config(request.param()).eval()
    for parameter in model.parameters():  # noise that every part is seen by
        parameter.data += 0.05 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp(request.param.__name__)
    model.save_pretrained(folder / "m")
    tokenizers.Tokenizer(tokenizers.models.WordLevel({f"t{i}": i for i in range(128)})).save(str(folder / "m/tokenizer.json"))
    text = folder / "text.jsonl"
    text.write_text("".join(json.dumps({"text": window.tolist()}) + "\n" for window in IDS))
    return request.param.__name__, model, folder / "m", text


def test_the_language_model_is_run(made, reweight, measured):
    name, model, folder, text = made
    found, expected = reweight("eval", folder, "--text", text, "--context", 64, "--json")["nll"], loss(model)
    measured(f"{name}: loss {found:.6f}, transformers {expected:.6f}")
    assert abs(found - expected) < 1e-4


def test_it_is_scaled_and_quantized_alone_and_loads(made, reweight, measured, tmp_path):
    name, model, folder, text = made
    options = ["--scheme", "int4-g32-sym", "--method", "awq", "--text", text]
    document = reweight("quantize", folder, tmp_path / "t", *options, "--json")
    assert any(mapping["ratio"] > 0 for mapping in document["mappings"])
    kept = {tensor["name"] for tensor in document["tensors"] if tensor.get("reason") == "not the language model"}
    assert len(kept) > 4, document["tensors"]
    loaded, info = AutoModelForImageTextToText.from_pretrained(tmp_path / "t", output_loading_info=True)
    complaints = {key: sorted(names) for key, names in info.items() if names}
    assert not complaints, complaints
    loaded(input_ids=IDS[:1])  # the first forward pass decompresses
    torch.nn.Module.float(loaded.eval())
    before, after = tensors(model), tensors(loaded)
    towers = [key for key in before if not any(part in key for part in ("language_model", "text_model", "lm_head"))]
    assert len(towers) > 8
    for key in towers:
        assert torch.equal(before[key], after[key]), key
    found, expected = reweight("eval", tmp_path / "t", "--text", text, "--context", 64, "--json")["nll"], loss(loaded)
    measured(f"{name} int4-g32-sym awq: loss {found:.6f}, transformers {expected:.6f}")
    assert abs(found - expected) < 1e-3


def test_a_tower_that_is_named_is_quantized(made, reweight, tmp_path, monkeypatch):
    """transformers 5.23 starts SigLIP by filling `weight` of each linear layer before it reads the file, and a packed layer has none."""
    monkeypatch.setattr(siglip.SiglipPreTrainedModel, "_init_weights", lambda *_: None)
    _, _, folder, _ = made
    named = "*visual*up_proj.weight" if made[0] == "qwen2_5_vl" else "*vision*layers*fc1.weight"
    options = ["--scheme", "int4-g32-sym", "--method", "rtn", "--tensor", f"{named}=int4-g32-sym"]
    document = reweight("quantize", folder, tmp_path / "t", *options, "--json")
    ending = named.rsplit("*", 1)[1]
    found = [tensor for tensor in document["tensors"] if "vis" in tensor["name"] and tensor["name"].endswith(ending)]
    assert "int4-g32-sym" in {tensor["scheme"] for tensor in found}
    _, info = AutoModelForImageTextToText.from_pretrained(tmp_path / "t", output_loading_info=True)
    assert not any(info.values()), info
