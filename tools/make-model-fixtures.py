#!/usr/bin/env python3
"""Makes tests/fixtures/models: tiny random models of every architecture, with the outputs transformers computes for them.

    pip install torch==2.15.0 transformers==5.23.0 safetensors==0.8.0
    tools/make-model-fixtures.py tests/fixtures/models [CASE ...]

Per case, a folder with

config.json           in the style of published checkpoints (`rope_theta` and `rope_scaling` apart, unless the case is about that)
model.safetensors     F32, under the names of published checkpoints
expected.safetensors  inputs and outputs without a batch dimension; the metadata entry `provenance` names versions and seed
    language models   input_ids I64 [T], logits F32 [T, vocab]
    encoders          input_ids, token_type_ids I64 [T], last_hidden_state F32 [T, hidden], mean_pooled F32 [hidden], pooler_output F32
                      [hidden] where the folder has a pooler
    image models      pixel_values F32 [channels, height, width], logits F32 [classes]

A folder is kept only if it can find mistakes: the script loads it back and asserts the same outputs, asserts that a change
of any one tensor shows in the outputs, that each setting named in `matters` does, and that each in `ignored` does not.
"""

import argparse
import json
import re
import sys
import tempfile
import zlib
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

from model_fixture_cases import CASES

SEED = 20261124
# Outputs must move by this much when one tensor is perturbed, and when one setting is changed.
TENSOR_SEEN, SETTING_SEEN = 1e-2, 1e-3
# Two ways to compute the same thing may differ by this much in f32; measured differences are around 1e-5.
SAME = 1e-4
SIZE_MAX = 200_000

Tensors = dict[str, torch.Tensor]


def seed_of(case: str, what: str) -> int:
    return SEED ^ zlib.crc32(f"{CASES[case].get('weights_of', case)}/{what}".encode())


def fill(model: torch.nn.Module, case: str) -> None:
    """Random parameters: norm weights around their neutral value, everything else around zero."""
    rng = torch.Generator().manual_seed(seed_of(case, "weights"))
    for name, parameter in sorted(model.named_parameters()):
        is_norm = bool(re.search(r"(norm|ln_\d|ln_f)\w*\.weight$", name.lower()))
        centre = CASES[case].get("norm_centre", 1.0) if is_norm else 0.0
        std = CASES[case].get("std", {}).get(name.rsplit(".", 2)[-2], 0.2)
        parameter.data.copy_(centre + std * torch.randn(parameter.shape, generator=rng))


def inputs_of(case: str, config: transformers.PretrainedConfig) -> Tensors:
    rng = torch.Generator().manual_seed(seed_of(case, "inputs"))
    if hasattr(config, "patch_size"):
        return {"pixel_values": torch.randn(config.num_channels, config.image_size, config.image_size, generator=rng)}
    length = CASES[case].get("tokens", 32)
    inputs = {"input_ids": torch.randint(3, config.vocab_size, (length,), generator=rng)}
    if hasattr(config, "type_vocab_size"):
        split = length if CASES[case].get("one_segment") else 2 * length // 3
        inputs["token_type_ids"] = (torch.arange(length) >= split).long()
    return inputs


def model_class(config: dict):
    return getattr(transformers, config["architectures"][0])


def load(folder: Path, case: str) -> torch.nn.Module:
    """The model as its users load it; a tensor that is missing, or unexpected and not announced by the case, is an error."""
    options = dict(attn_implementation="eager", dtype=torch.float32, output_loading_info=True, **CASES[case].get("load", {}))
    cls = CASES[case].get("load_as") or model_class(CASES[case]["config"]).__name__
    model, info = getattr(transformers, cls).from_pretrained(folder, **options)
    unexpected = [name for name in info["unexpected_keys"] if not re.fullmatch(CASES[case].get("unread", "-"), name)]
    complaints = {key: sorted(names) for key, names in info.items() if names and key != "unexpected_keys"}
    assert not complaints and not unexpected, (case, complaints, unexpected)
    return model.eval()


@torch.no_grad()
def outputs_of(model: torch.nn.Module, inputs: Tensors) -> Tensors:
    out = model(**{name: value[None] for name, value in inputs.items()})
    if getattr(out, "logits", None) is not None:
        return {"logits": out.logits[0].clone()}
    outputs = {"last_hidden_state": out.last_hidden_state[0].clone(), "mean_pooled": out.last_hidden_state[0].mean(0)}
    if out.pooler_output is not None:
        outputs["pooler_output"] = out.pooler_output[0].clone()
    return outputs


def distance(a: Tensors, b: Tensors) -> float:
    assert a.keys() == b.keys()
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a)


def starred(name: str) -> str:
    return re.sub(r"\.\d+\.", ".*.", name)


def on_disk(model: torch.nn.Module, case: str) -> Tensors:
    """The tensors as published checkpoints name them; the names are checked against the list in the case."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tensors = load_file(Path(folder) / "model.safetensors")
    for pattern, to in CASES[case].get("rename", []):
        tensors = {re.sub(pattern, to, name): tensor for name, tensor in tensors.items()}
    for name, make in CASES[case].get("extra", {}).items():
        tensors[name] = make(torch.Generator().manual_seed(seed_of(case, name)))
    found, published = {starred(name) for name in tensors}, set(CASES[case]["names"].split())
    assert found == published, (case, "not published:", found - published, "not saved:", published - found)
    return {name: tensors[name].contiguous() for name in sorted(tensors)}


def write_folder(folder: Path, config: dict, tensors: Tensors) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def check_tensors(case: str, tensors: Tensors, inputs: Tensors, expected: Tensors) -> None:
    """Each single tensor, perturbed on disk, shows in the outputs, but those that cannot by the mathematics."""
    rng = torch.Generator().manual_seed(SEED)
    unseen = re.compile(CASES[case].get("unseen", "-"))
    for name, tensor in tensors.items():
        changed = tensors | {name: tensor + 0.1 * torch.randn(tensor.shape, generator=rng)}
        with tempfile.TemporaryDirectory() as folder:
            write_folder(Path(folder), CASES[case]["config"], changed)
            moved = distance(outputs_of(load(Path(folder), case), inputs), expected)
        if unseen.fullmatch(name):
            assert moved < SAME, (case, name, "should not matter", moved)
        else:
            assert moved > TENSOR_SEEN, (case, name, "hardly matters", moved)


def check_settings(case: str, tensors: Tensors, inputs: Tensors, expected: Tensors) -> None:
    for kind in ("matters", "ignored"):
        for change in CASES[case].get(kind, []):
            config = {key: value for key, value in (CASES[case]["config"] | change).items() if value is not ...}
            with tempfile.TemporaryDirectory() as folder:
                write_folder(Path(folder), config, tensors)
                moved = distance(outputs_of(load(Path(folder), case), inputs), expected)
            assert moved > SETTING_SEEN if kind == "matters" else moved == 0, (case, kind, change, moved)


def make(root: Path, case: str) -> Tensors:
    folder, config = root / case, CASES[case]["config"]
    write_folder(folder, config, {})
    cls = model_class(config)
    model = cls._from_config(cls.config_class.from_pretrained(folder), attn_implementation="eager", **CASES[case].get("init", {})).float().eval()
    fill(model, case)
    tensors = on_disk(model, case)
    write_folder(folder, config, tensors)

    loaded = load(folder, case)
    inputs = inputs_of(case, loaded.config)
    expected = outputs_of(loaded, inputs)
    if "load_as" not in CASES[case] and "load" not in CASES[case]:
        assert distance(outputs_of(model, inputs), expected) == 0, (case, "changes on the way through the disk")
    rope = getattr(loaded.config, "rope_parameters", None) or {}
    assert rope.get("rope_type") == CASES[case].get("rope_type", rope.get("rope_type") and "default"), (case, rope)
    # Computed once more in f64 (transformers keeps norms, rotary angles and softmax in f32): no decision hangs by rounding.
    double = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    rounding = distance(outputs_of(load(folder, case).double(), double), expected)
    assert rounding < SAME, (case, "depends on rounding", rounding)
    check_tensors(case, tensors, inputs, expected)
    check_settings(case, tensors, inputs, expected)

    provenance = {
        "transformers": transformers.__version__, "torch": torch.__version__.split("+")[0],
        "seed": seed_of(case, "weights"), "difference_f64_max": float(f"{rounding:.2g}"),
    }
    contiguous = {name: value.contiguous() for name, value in (inputs | expected).items()}
    save_file(contiguous, folder / "expected.safetensors", metadata={"provenance": json.dumps(provenance)})
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert size < SIZE_MAX, (case, size)
    print(f"{case:22} {size:7} bytes, differs from f64 by {rounding:.1e}", flush=True)
    return expected


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("case", nargs="*")
    args = parser.parse_args()
    if unknown := set(args.case) - CASES.keys():
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, python {sys.version.split()[0]}")
    torch.set_num_threads(1)  # sums in one order
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    made = {case: make(args.folder, case) for case in args.case or CASES}
    for case, outputs in made.items():
        twin = CASES[case].get("same_as")
        assert twin not in made or distance(outputs, made[twin]) == 0, (case, twin)


if __name__ == "__main__":
    main()
