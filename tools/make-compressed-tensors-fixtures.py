#!/usr/bin/env python3
"""Makes tests/fixtures/compressed-tensors-0.17: weights as compressed-tensors packed them before its dense layout.

    python3 -m venv old && old/bin/pip install compressed-tensors==0.17.1
    old/bin/python tools/make-compressed-tensors-fixtures.py tests/fixtures/compressed-tensors-0.17

Every width from 2 to 8 bits, symmetric and not, in groups and by row, also with columns in the order of activations
(`weight_g_idx`) and with a `weight_g_idx` that was never set. `expected.safetensors` beside the folder's weights is what the library
itself decompresses them to, in f32. Sizes are those at which the two layouts are hard to tell apart: 40 columns take four words
of 3 bits either way.
"""

import json
import pathlib
import sys

import compressed_tensors
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import save_file

ROWS = 12


def arguments(bits: int, symmetric: bool, group: int | None, actorder: str | None) -> QuantizationArgs:
    strategy = "group" if group else "channel"
    return QuantizationArgs(num_bits=bits, symmetric=symmetric, strategy=strategy, group_size=group, actorder=actorder)


def module(bits: int, symmetric: bool, columns: int, group: int | None, order: str | None, random: torch.Generator):
    """What is stored of a matrix of small numbers, and what it means."""
    groups = columns // group if group else 1
    scale = torch.rand(ROWS, groups, generator=random) * 0.1 + 0.01
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    codes = torch.randint(low, high + 1, (ROWS, columns), generator=random)
    zero = torch.zeros_like(codes[:, :groups]) if symmetric else torch.randint(low, high + 1, (ROWS, groups), generator=random)
    index = torch.arange(columns) // (columns // groups)
    if order == "ordered":
        index = index[torch.randperm(columns, generator=random)]
    state = {
        "weight": (codes - zero[:, index]).float() * scale[:, index],
        "weight_scale": scale,
        "weight_zero_point": zero.to(torch.int8),
    }
    if order:
        state["weight_g_idx"] = (index if order == "ordered" else torch.full((columns,), -1)).to(torch.int32)
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments(bits, symmetric, group, "group" if order else None))
    compressor = BaseCompressor.get_value_from_registry("pack-quantized")
    stored = compressor.compress(state, scheme)
    return stored, compressor.decompress(stored, scheme)["weight"], scheme


def main(folder: pathlib.Path) -> None:
    random = torch.Generator().manual_seed(17)
    tensors, expected, groups = {}, {}, {}
    for bits in range(2, 9):
        for symmetric in (True, False):
            for columns, group, order in ((40, None, None), (40, 8, None), (96, 32, None), (64, 16, "ordered"), (64, 16, "unset")):
                name = f"model.layers.{len(groups)}.mlp.down_proj"
                stored, weight, scheme = module(bits, symmetric, columns, group, order, random)
                tensors |= {f"{name}.{part}": tensor.contiguous() for part, tensor in stored.items()}
                expected[f"{name}.weight"] = weight
                weights = scheme.weights.model_dump(mode="json")
                groups[f"group_{len(groups)}"] = {"targets": [name], "weights": weights, "format": "pack-quantized"}
    version = compressed_tensors.__version__
    config = {
        "model_type": "llama",
        "quantization_config": {
            "quant_method": "compressed-tensors", "version": version, "format": "pack-quantized",
            "quantization_status": "compressed", "ignore": ["lm_head"], "config_groups": groups,
        },
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    made_by = {"made_by": f"compressed-tensors {version}, tools/make-compressed-tensors-fixtures.py"}
    save_file(tensors, folder / "model.safetensors", made_by)
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    save_file(expected, folder.parent / f"{folder.name}-expected.safetensors", made_by)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
