"""A second, plain writer of pack-quantized folders: min/max ranges, round to nearest, numpy packing.

The interop tests check folders; this writer makes folders whose every weight is known, so that
the checks themselves can be tested, also where they must fail.
"""

import json
import pathlib
from typing import NamedTuple

import numpy as np
import torch
from folders import read
from safetensors.torch import save_file


class Scheme(NamedTuple):
    bits: int
    group: int | None  # None: one group per row
    symmetric: bool

    def arguments(self) -> dict:
        size = {"strategy": "group", "group_size": self.group} if self.group else {"strategy": "channel"}
        return {"num_bits": self.bits, "type": "int", "symmetric": self.symmetric, **size}


def pack(codes: np.ndarray, bits: int) -> torch.Tensor:
    """Each row of unsigned codes as one string of bits, least significant first, in 32-bit words."""
    rows, columns = codes.shape
    string = (codes[:, :, None] >> np.arange(bits) & 1).astype(np.uint8).reshape(rows, -1)
    string = np.pad(string, ((0, 0), (0, -string.shape[1] % 32)))
    return torch.from_numpy(np.ascontiguousarray(np.packbits(string, axis=1, bitorder="little")).view("<i4"))


def quantize(weight: torch.Tensor, scheme: Scheme, dtype: torch.dtype) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The stored tensors of one weight with scales of `dtype`, and the weight they stand for."""
    (rows, columns), half = weight.shape, 1 << (scheme.bits - 1)
    groups = weight.float().reshape(rows, -1, scheme.group or columns)
    low, high = groups.amin(2).clamp(max=0), groups.amax(2).clamp(min=0)
    span = 2 * torch.maximum(-low, high) if scheme.symmetric else high - low
    scale = (span / (2 * half - 1)).clamp(min=1e-7).to(dtype)
    zero = 0 * low if scheme.symmetric else -half - low / scale.float()
    zero = zero.round().clamp(-half, half - 1).long()
    codes = (groups / scale.float()[..., None] + zero[..., None]).round().clamp(-half, half - 1).long()
    stored = {
        "weight_packed": pack((codes + half).reshape(rows, columns).numpy(), scheme.bits),
        "weight_scale": scale,
        "weight_shape": torch.tensor([rows, columns]),
    }
    if not scheme.symmetric:
        stored["weight_zero_point"] = pack((zero + half).T.numpy(), scheme.bits).T.contiguous()
    meant = (codes - zero[..., None]).double() * scale.double()[..., None]  # exact: then one rounding
    return stored, meant.reshape(rows, columns).to(dtype)


def write(source: pathlib.Path, target: pathlib.Path, schemes: dict[str, Scheme], ignore: list[str], **keys):
    """Quantizes the modules named in `schemes`; gives the weights that the folder stands for."""
    target.mkdir()
    settings = json.loads((source / "config.json").read_text())
    dtype = getattr(torch, settings.get("dtype") or settings["torch_dtype"])
    tensors, meant = read(source), {}
    for module, scheme in schemes.items():
        stored, meant[f"{module}.weight"] = quantize(tensors.pop(f"{module}.weight"), scheme, dtype)
        tensors |= {f"{module}.{name}": tensor for name, tensor in stored.items()}
    targets: dict[Scheme, list[str]] = {}
    for module, scheme in schemes.items():
        targets.setdefault(scheme, []).append(module)
    settings["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": ignore,
        "config_groups": {
            f"group_{index}": {"targets": names, "weights": scheme.arguments()}
            for index, (scheme, names) in enumerate(targets.items())
        },
        **keys,
    }
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_text(json.dumps(settings, indent=2))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (source / name).exists():
            (target / name).write_bytes((source / name).read_bytes())
    return meant
