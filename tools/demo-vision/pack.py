#!/usr/bin/env python3
"""Makes the files of `assets/demo-vision` from checkpoints that `train.py` made.

    python tools/demo-vision/pack.py CHECKPOINTS --fashion FOLDER --reweight PROGRAM

The clean network with its configuration, the first 500 test images of Fashion-MNIST, and for each robust network the signature of its
first three convolutions at 8 bits, taken by `reweight patch extract`. Needs numpy and safetensors.
"""

import argparse
import json
import pathlib
import shutil
import subprocess

import numpy
import safetensors.numpy

import data
from model import CLASSES, LAYERS

ASSETS = pathlib.Path(__file__).resolve().parents[2] / "assets/demo-vision"
IMAGES = 500
LABELS = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
CONFIG = {
    "model_type": "vgg",
    "num_channels": 1,
    "image_size": 28,
    "layers": LAYERS,
    "batch_norm": False,
    "pooled_size": 1,
    "image_mean": [data.MEAN],
    "image_std": [data.STD],
    "num_labels": CLASSES,
    "id2label": {str(index): label for index, label in enumerate(LABELS)},
    "dtype": "float32",
}
CORRUPTIONS = ("contrast", "gaussian_blur", "gaussian_noise", "impulse_noise")


def write_folder(checkpoint: pathlib.Path, folder: pathlib.Path):
    """A model folder of one checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(checkpoint, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")


def main():
    """Writes all files but the card, which `card.py` writes."""
    parser = argparse.ArgumentParser(description="make the files of the bundled image classifier")
    parser.add_argument("checkpoints", type=pathlib.Path)
    parser.add_argument("--fashion", type=pathlib.Path, required=True)
    parser.add_argument("--reweight", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    write_folder(arguments.checkpoints / "clean.safetensors", ASSETS)
    images, labels = data.fashion(arguments.fashion, "t10k")
    tensors = {"images": images[:IMAGES].copy(), "labels": labels[:IMAGES].copy()}
    notice = {"source": "Fashion-MNIST, first 500 test images", "license": "MIT, Copyright (c) 2017 Zalando SE"}
    safetensors.numpy.save_file(tensors, ASSETS / "images.safetensors", notice)
    (ASSETS / "signatures").mkdir(exist_ok=True)
    for name in CORRUPTIONS:
        parts = {"pretrained": "pretrained", "clean": "clean", "robust": f"robust-{name}"}
        words = [word for flag, part in parts.items() for word in (f"--{flag}", arguments.checkpoints / f"{part}.safetensors")]
        target = ASSETS / "signatures" / f"{name}.safetensors"
        target.unlink(missing_ok=True)
        subprocess.run(
            [arguments.reweight, "patch", "extract", *words, target, "--layers", "first:3", "--bits", "8"], check=True
        )


if __name__ == "__main__":
    main()
