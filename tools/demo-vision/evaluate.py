#!/usr/bin/env python3
"""Writes `assets/demo-vision/evaluation.json`: what torch says the checkpoints are worth, on clean and on corrupted images.

    python tools/demo-vision/evaluate.py CHECKPOINTS --fashion FOLDER --mnist FOLDER

`bundled_images` is the clean network on the bundled images, which tests compare with; `networks` is every network on the first 2000 test
images of the set it was trained on. Corruptions are those of `corruptions.py`, with the draws of seed 0.
"""

import argparse
import json
import pathlib
import platform

import numpy
import safetensors.numpy
import safetensors.torch
import torch
from torch.nn import functional

import corruptions
import data
from model import Vgg
from train import ROBUST, normalized

ASSETS = pathlib.Path(__file__).resolve().parents[2] / "assets/demo-vision"
IMAGES = 1000


@torch.no_grad()
def figures(network, images, labels):
    """Accuracy and mean loss in nats, in f32."""
    logits = torch.cat([network(part) for part in normalized(images).split(500)]).double()
    labels = torch.from_numpy(labels.astype(numpy.int64))
    hits = (logits.argmax(1) == labels).double().mean().item()
    return {"accuracy": hits, "nll": functional.cross_entropy(logits, labels).item()}


def spoiled(images, name: str):
    """The images after a corruption at the severity of the table in `train.py`."""
    return numpy.stack([corruptions.corrupt(name, ROBUST[name], image, index, 0) for index, image in enumerate(images)])


def load(path: pathlib.Path):
    """A network with the weights of a checkpoint."""
    network = Vgg().to(memory_format=torch.channels_last)
    network.load_state_dict(safetensors.torch.load_file(path))
    return network.eval()


def main():
    """Evaluates and writes."""
    parser = argparse.ArgumentParser(description="evaluate the networks of the bundled image classifier by torch")
    parser.add_argument("checkpoints", type=pathlib.Path)
    parser.add_argument("--fashion", type=pathlib.Path, required=True)
    parser.add_argument("--mnist", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    clean = load(arguments.checkpoints / "clean.safetensors")
    bundled = safetensors.numpy.load_file(ASSETS / "images.safetensors")
    images, labels = bundled["images"], bundled["labels"]
    document = {"bundled_images": {"clean": figures(clean, images, labels)}, "networks": {}}
    for name, severity in ROBUST.items():
        document["bundled_images"][f"{name}:{severity}"] = figures(clean, spoiled(images, name), labels)
    sets = {"fashion": data.fashion(arguments.fashion, "t10k"), "mnist": data.mnist(arguments.mnist, "test")}
    sets = {key: (images[:IMAGES], labels[:IMAGES]) for key, (images, labels) in sets.items()}
    versions = {key: {f"{name}:{severity}": spoiled(images, name) for name, severity in ROBUST.items()} for key, (images, _) in sets.items()}
    for path in sorted(arguments.checkpoints.glob("*.safetensors")):
        key = "mnist" if path.stem in ("mnist", "pretrained") else "fashion"
        network, (images, labels) = load(path), sets[key]
        found = {"clean": figures(network, images, labels)}
        found |= {name: figures(network, some, labels) for name, some in versions[key].items()}
        document["networks"][path.stem] = {"images": key, **found}
        print(path.stem, {name: round(100 * one["accuracy"], 1) for name, one in found.items()}, flush=True)
    document["versions"] = {"python": platform.python_version(), "torch": torch.__version__}
    (ASSETS / "evaluation.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
