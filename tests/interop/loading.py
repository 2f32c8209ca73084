"""Loads folders the way their users do, and measures what comes out."""

import pathlib

import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer


def language_model(folder: pathlib.Path, **options):
    """A language model, with the loader's own account of missing and unexpected tensors checked."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    complaints = {key: sorted(names) for key, names in info.items() if names}
    assert not complaints, complaints
    with torch.no_grad():  # the first forward pass decompresses
        model(torch.tensor([[1, 2, 3]]))
    return model.eval()


@torch.no_grad()
def continues(model, tokenizer, prompt: str, tokens: int = 12) -> str:
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    out = model.generate(ids, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0)
    assert out.shape[1] == ids.shape[1] + tokens
    return tokenizer.decode(out[0, ids.shape[1] :])


@torch.no_grad()
def loss(model, tokenizer, text: str, tokens: int = 512) -> float:
    """Mean nats per predicted token, in f32, over the first `tokens` tokens of `text`."""
    ids = tokenizer(text[: tokens * 8], add_special_tokens=False, return_tensors="pt").input_ids[:, :tokens]
    assert ids.shape[1] == tokens
    torch.nn.Module.float(model)  # its own `float` refuses quantized models, also decompressed ones
    return model(ids, labels=ids).loss.item()


@torch.no_grad()
def embeddings(folder: pathlib.Path, sentences: list[str]) -> torch.Tensor:
    """Mean-pooled sentence embeddings of a BERT folder, one unit row each."""
    model, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    complaints = {key: sorted(names) for key, names in info.items() if names}
    assert not complaints, complaints
    batch = AutoTokenizer.from_pretrained(folder)(sentences, padding=True, truncation=True, return_tensors="pt")
    hidden, mask = model.eval()(**batch).last_hidden_state, batch.attention_mask[..., None]
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
