"""Reads model folders with the safetensors and compressed-tensors packages, nothing of ours."""

import json
import pathlib

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig
from compressed_tensors.utils.match import match_name
from safetensors.torch import load_file

PACKED = ".weight_packed"


def read(folder: pathlib.Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder; a sharded one must have exactly the files and names of its index."""
    files = sorted(folder.glob("*.safetensors"))
    shards = {file.name: load_file(file) for file in files}
    assert shards, f"{folder} has no safetensors file"
    index = folder / "model.safetensors.index.json"
    if index.exists():
        found = {name: file for file, tensors in shards.items() for name in tensors}
        assert json.loads(index.read_text())["weight_map"] == found
    else:
        assert list(shards) == ["model.safetensors"]
    return {name: tensor for tensors in shards.values() for name, tensor in tensors.items()}


def config(folder: pathlib.Path) -> QuantizationConfig:
    return QuantizationConfig.model_validate(json.loads((folder / "config.json").read_text())["quantization_config"])


def scheme_of(module: str, quantization: QuantizationConfig):
    """The one group that targets `module`, as the loaders choose it: by name, else by class."""
    groups = quantization.config_groups.values()
    named = [group for group in groups if any(match_name(module, target) for target in group.targets)]
    found = named or [group for group in groups if "Linear" in group.targets]
    assert len(found) == 1, f"{module} is targeted by {len(found)} groups"
    assert not any(match_name(module, name) for name in quantization.ignore), f"{module} is packed and ignored"
    return found[0]


def decompress(folder: pathlib.Path, dtype: torch.dtype | None = None):
    """The weights that compressed-tensors decompresses, and all tensors that are not quantized.

    The product of code and scale is rounded to the dtype of the scale. With `dtype`, the scales are
    converted first, as transformers does when it loads a model in that dtype.
    """
    stored, quantization = read(folder), config(folder)
    compressor = BaseCompressor.get_value_from_registry(quantization.format)
    weights = {}
    for module in [name.removesuffix(PACKED) for name in stored if name.endswith(PACKED)]:
        scheme = scheme_of(module, quantization)
        state = {name: stored.pop(f"{module}.{name}") for name in compressor.compression_param_names(scheme)}
        state["weight_scale"] = state["weight_scale"].to(dtype or state["weight_scale"].dtype)
        weights[f"{module}.weight"] = compressor.decompress(state, scheme)["weight"]
    return weights, stored


def differing(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> list[str]:
    """Names whose tensors are not the same bits, or are missing, told with the first difference."""
    return [f"{name}: {text}" for name in sorted(expected) if (text := difference(found.get(name), expected[name]))]


def difference(found: torch.Tensor | None, expected: torch.Tensor) -> str:
    if found is None:
        return "missing"
    if (found.dtype, found.shape) != (expected.dtype, expected.shape):
        return f"{found.dtype} {tuple(found.shape)}, expected {expected.dtype} {tuple(expected.shape)}"
    size = expected.element_size()
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[size]
    wrong = (found.contiguous().view(bits) != expected.contiguous().view(bits)).flatten().nonzero().flatten()
    if not len(wrong):
        return ""
    at = int(wrong[0])
    return f"{len(wrong)} values differ, at {at}: {found.flatten()[at]} instead of {expected.flatten()[at]}"
