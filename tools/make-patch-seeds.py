#!/usr/bin/env python3
"""Writes the seeds of the fuzz target `patch` that come of adapters and of other bases than floats.

    python tools/make-patch-seeds.py REWEIGHT

REWEIGHT is the program. Needs numpy and safetensors. The GGUF adapters are those of tests/fixtures/lora.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy
import safetensors.numpy

ROOT = pathlib.Path(__file__).resolve().parents[1]
SEEDS = ROOT / "fuzz/seeds/patch"
LAYER = "l.0"


def adapter(folder, config, tensors):
    """A PEFT folder, and the same as the target takes it: a byte with a quarter of the configuration's length, then both files."""
    folder.mkdir()
    text = json.dumps(config)
    text += " " * (-len(text) % 4)
    (folder / "adapter_config.json").write_text(text)
    safetensors.numpy.save_file({f"base_model.model.{LAYER}.{name}": value for name, value in tensors.items()}, folder / "adapter_model.safetensors")
    (SEEDS / f"peft-{folder.name}").write_bytes(bytes([len(text) // 4]) + text.encode() + (folder / "adapter_model.safetensors").read_bytes())


def main():
    """Makes a small model, patches it in several ways and keeps what is written."""
    generator = numpy.random.default_rng(1)

    def values(*shape):
        return generator.standard_normal(shape).astype(numpy.float32) * 0.1

    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)

        def run(*words):
            subprocess.run([pathlib.Path(sys.argv[1]).resolve(), *map(str, words)], check=True, capture_output=True, cwd=scratch)

        for name in ("base", "near"):
            (scratch / name).mkdir()
            safetensors.numpy.save_file({f"{LAYER}.weight": values(8, 32), "norm.weight": values(32)}, scratch / name / "model.safetensors")
            (scratch / name / "config.json").write_text("{}")
        adapter(scratch / "bat", {"peft_type": "MISS", "r": 4, "init_weights": "bat"}, {"miss_block": values(2, 4, 4)})
        adapter(scratch / "mini", {"peft_type": "MISS", "r": 4, "mini_r": 4, "init_weights": "mini"}, {"miss_block": values(4, 4)})
        adapter(scratch / "miss", {"peft_type": "BONE", "r": 4, "init_weights": True}, {"bone_block": values(4, 8)})
        lora = {"lora_A.weight": values(2, 32), "lora_B.weight": values(8, 2)}
        adapter(scratch / "lora", {"peft_type": "LORA", "r": 2, "lora_alpha": 3}, lora)
        dora = {**lora, "lora_magnitude_vector": values(8)}
        adapter(scratch / "dora", {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "use_dora": True}, dora)
        run("patch", "diff", "base", "near", "d.patch", "--bits", "4")
        run("quantize", "base", "int4", "--scheme", "int4-g32")
        run("patch", "add", "base", "on", "--patch", "bat", "mini", "miss", "lora", "dora")
        run("patch", "add", "int4", "coded", "--patch", "d.patch")
        run("patch", "add", "int4", "side", "--side", "--patch", "d.patch")
        run("patch", "add", "side", "both", "--patch", "lora")
        for model in ("on", "coded", "side", "both"):
            shutil.copyfile(scratch / model / "reweight-ledger/ledger.json", SEEDS / f"ledger-{model}")
        records = json.loads((scratch / "coded/reweight-ledger/ledger.json").read_text())["tensors"]
        undo = (scratch / "coded/reweight-ledger/undo.bin").read_bytes()
        start = records[0]["undo_offset"]
        (SEEDS / "undo-coded").write_bytes(undo[start : start + records[0]["undo_lengths"][0]])
        for record in json.loads((scratch / "on/reweight-ledger/ledger.json").read_text())["patches"]:
            shutil.copyfile(scratch / f"on/reweight-ledger/{record['blake3']}.safetensors", SEEDS / record["name"])
    for kind in ("f32", "q8_0"):
        shutil.copyfile(ROOT / f"tests/fixtures/lora/{kind}.gguf", SEEDS / f"gguf-{kind}")


if __name__ == "__main__":
    main()
