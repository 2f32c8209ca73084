"""SmolLM2-135M quantized into compressed-tensors folders, read by the packages that own the format.

Each case is quantized once. `loss_max` bounds the loss of the loaded model on 512 tokens of the
held-out text. It is the loss that plain min/max round-to-nearest with the same scheme gives
there (reference.py, transformers 5.23, f32 forward; the unquantized model: 2.153), plus 0.05.
"""

import json
import shutil
from functools import cached_property
from typing import NamedTuple

import pytest
import torch
from compressed_tensors.entrypoints.convert import CompressedTensorsDequantizer, convert_checkpoint
from folders import config, decompress, differing, read
from loading import continues, language_model, loss
from transformers import AutoTokenizer

LINEARS = 7 * 30


class Case(NamedTuple):
    words: list[str]
    widths: set[tuple[int, int | None, bool]]  # (bits, group size, symmetric) of the groups
    loss_max: float
    linears: int = LINEARS
    loads: bool = True  # transformers 5.23 loads no mixed folder with an asymmetric group


CASES = {
    "int4-g64": Case(["--scheme", "int4-g64", "--method", "search"], {(4, 64, False)}, 2.457),
    "int4-g64-rtn": Case(["--scheme", "int4-g64", "--method", "rtn"], {(4, 64, False)}, 2.457),
    "int3-g64": Case(["--scheme", "int3-g64", "--method", "search"], {(3, 64, False)}, 3.214),
    "int2-g32": Case(["--scheme", "int2-g32", "--method", "search"], {(2, 32, False)}, 9.538),
    "int8-channel-sym": Case(["--scheme", "int8-channel-sym", "--method", "rtn"], {(8, None, True)}, 2.209),
    "int4-g128-sym": Case(
        ["--scheme", "int4-g128-sym", "--method", "search"], {(4, 64, True), (4, 128, True)}, 2.519
    ),  # K is 576 in all but down_proj, so those fall back to 64
    "mixed-sym": Case(
        ["--scheme", "int4-g64-sym", "--tensor", "*.down_proj.*=int8-channel-sym", "--keep", "*.layers.0.*"],
        {(4, 64, True), (8, None, True)}, 2.416, linears=7 * 29,
    ),
    "mixed": Case(
        ["--scheme", "int4-g64", "--tensor", "*.self_attn.*=int3-g32", "--tensor", "*.down_proj.*=int8-channel-sym"],
        {(4, 64, False), (3, 32, False), (8, None, True)}, 2.589, loads=False,
    ),
}  # fmt: skip


class Quantized:
    """One case after its run: `told` is the JSON document, the rest is read when first needed."""

    def __init__(self, case: Case, folder, told):
        self.case, self.folder, self.told = case, folder, told

    @cached_property
    def stored(self):  # (weights in the dtype of the model, tensors that are not quantized)
        return decompress(self.folder)

    @cached_property
    def exact(self):  # weights as products in f32, not rounded to bf16
        return decompress(self.folder, torch.float32)[0]


@pytest.fixture(scope="module", params=CASES.items(), ids=CASES)
def quantized(request, reweight, smollm2, tmp_path_factory):
    name, case = request.param
    folder = tmp_path_factory.mktemp(name) / "t"
    told = reweight("quantize", smollm2, folder, "--to", "compressed-tensors", "--json", *case.words)
    yield Quantized(case, folder, told)
    shutil.rmtree(folder.parent)


@pytest.fixture(scope="module")
def source(smollm2):
    return read(smollm2)


@pytest.fixture(scope="module")
def tokenizer(smollm2):
    return AutoTokenizer.from_pretrained(smollm2)


def test_the_config_says_what_was_asked(quantized):
    groups = config(quantized.folder).config_groups.values()
    widths = {(group.weights.num_bits, group.weights.group_size, group.weights.symmetric) for group in groups}
    assert widths == quantized.case.widths
    assert len(quantized.stored[0]) == quantized.case.linears


@pytest.mark.parametrize("dtype", ["bf16", "f32"])
def test_every_weight_decompresses_to_what_convert_writes(quantized, reweight, tmp_path, dtype):
    weights, rest = quantized.stored
    if dtype == "f32":
        weights, rest = quantized.exact, {name: tensor.float() for name, tensor in rest.items()}
    reweight("convert", quantized.folder, tmp_path / "t", "--to", dtype)
    assert differing(read(tmp_path / "t"), weights | rest) == []
    shutil.rmtree(tmp_path / "t")


def test_what_is_not_quantized_is_untouched(quantized, source):
    weights, rest = quantized.stored
    assert rest.keys() | weights.keys() == source.keys()
    assert differing(source, rest) == []


def test_the_reported_errors_are_those_that_torch_computes(quantized, reweight, smollm2, source):
    rows = {row["name"]: row for row in reweight("diff", smollm2, quantized.folder, "--json")["tensors"]}
    written = {row["name"]: row for row in quantized.told["tensors"]}
    wrong = []
    for name, weight in quantized.exact.items():
        error = weight.double() - source[name].double()  # one f32 rounding away from the exact difference
        mse, largest = error.square().mean().item(), error.abs().max().item()
        expected = (pytest.approx(mse, rel=1e-5), pytest.approx(mse, rel=1e-5), pytest.approx(largest, rel=1e-6))
        found = (written[name]["error_mse"], rows[name]["mse"], rows[name]["max_abs"])
        if found != expected:
            wrong.append((name, found, expected))
    assert wrong[:3] == []


def test_verify_holds_until_a_byte_changes(quantized, reweight):
    folder = quantized.folder
    reweight("verify", folder)
    file = max(folder.glob("*.safetensors"))
    with file.open("r+b") as stream:
        stream.seek(-1000, 2)
        was = stream.read(1)
        stream.seek(-1000, 2)
        stream.write(bytes([was[0] ^ 1]))
        stream.flush()
        reweight("verify", folder, status=1)
        stream.seek(-1000, 2)
        stream.write(was)
    reweight("verify", folder)


def test_transformers_loads_it_with_the_same_weights_and_it_speaks(quantized, heldout, tokenizer, measured, tmp_path):
    case, folder, (weights, rest) = quantized.case, quantized.folder, quantized.stored
    if not case.loads:
        convert_checkpoint(folder, tmp_path / "float", CompressedTensorsDequantizer(folder), max_workers=1)
        folder = tmp_path / "float"
    model = language_model(folder)
    assert model.dtype == torch.bfloat16
    assert differing(model.state_dict(), weights | rest) == []
    said = continues(model, tokenizer, "The capital of France is")
    nats = loss(model, tokenizer, heldout)
    bits = quantized.told["bits_per_weight"]
    measured(f"smollm2 {' '.join(case.words)}: {nats:.4f} nats, {bits:.3f} bits per weight, says {said!r}")
    assert nats <= case.loss_max


def test_the_source_itself(smollm2, heldout, tokenizer, measured):
    model = language_model(smollm2)
    said = continues(model, tokenizer, "The capital of France is")
    assert "Paris" in said
    measured(f"smollm2 bf16: {loss(model, tokenizer, heldout):.4f} nats, says {said!r}")


def test_straight_from_the_gguf(reweight, gguf, tmp_path):
    reweight("quantize", gguf, tmp_path / "t", "--scheme", "int4-g64", "--max-shard-size", "30MB")
    assert len(list((tmp_path / "t").glob("*.safetensors"))) > 2
    weights, rest = decompress(tmp_path / "t")
    assert len(weights) == LINEARS
    dtype = getattr(torch, json.loads((tmp_path / "t/config.json").read_text())["torch_dtype"])
    model = language_model(tmp_path / "t")
    assert model.dtype == dtype
    assert differing(model.state_dict(), weights | {name: w.to(dtype) for name, w in rest.items()}) == []
