"""MiniLM, an f32 BERT of 22M parameters: sentence embeddings before and after.

The floors of the cosine similarity over 40 sentences are those of plain min/max round-to-nearest
(reference.py, f32 scales: least 0.99925 and 0.9548), less a tenth of their distance to 1.
"""

import re

import pytest
import torch
from folders import decompress, differing, read
from loading import embeddings
from transformers import AutoModel

CASES = {
    "int8-channel-sym": (["--method", "rtn"], 0.9991),
    "int4-g32": (["--method", "search"], 0.950),
}


@pytest.fixture(scope="module", params=CASES.items(), ids=CASES)
def quantized(request, reweight, minilm, tmp_path_factory):
    scheme, (words, floor) = request.param
    folder = tmp_path_factory.mktemp(scheme) / "t"
    reweight("quantize", minilm, folder, "--scheme", scheme, "--to", "compressed-tensors", *words)
    return scheme, floor, folder


def test_weights_and_untouched_tensors(quantized, minilm, reweight, tmp_path):
    _, _, folder = quantized
    source, (weights, rest) = read(minilm), decompress(folder)
    assert len([name for name in weights if name.startswith("encoder.layer.")]) == 6 * 6
    assert weights.keys() | rest.keys() == source.keys()
    assert differing(source, rest) == []
    reweight("convert", folder, tmp_path / "f32", "--to", "f32")
    assert differing(read(tmp_path / "f32"), weights | rest) == []
    model = AutoModel.from_pretrained(folder)
    model(torch.tensor([[101, 102]]))
    rest.pop("embeddings.position_ids")  # a constant that the class no longer keeps
    assert model.dtype == torch.float32
    assert differing(model.state_dict(), weights | rest) == []


def test_sentence_embeddings_stay_close(quantized, minilm, heldout, measured):
    scheme, floor, folder = quantized
    sentences = re.findall(r"(?<=[.?!] )[A-Z][^.?!\n]{30,160}[.?!]", heldout)[:40]
    assert len(sentences) == 40
    cosine = (embeddings(minilm, sentences) * embeddings(folder, sentences)).sum(1)
    least, mean = cosine.min().item(), cosine.mean().item()
    measured(f"minilm {scheme}: cosine of 40 sentence embeddings: mean {mean:.5f}, least {least:.5f}")
    assert least >= floor
