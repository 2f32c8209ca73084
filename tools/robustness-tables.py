#!/usr/bin/env python3
"""Writes the tables of docs/robustness.md, all figures by the `reweight` program.

    python tools/robustness-tables.py CHECKPOINTS --reweight PROGRAM --fashion FOLDER --mnist FOLDER --images N > tables.md

CHECKPOINTS is what tools/demo-vision/train.py made. Convolutions are put into folders as matrices, which is how `quantize` takes them.
Needs numpy and safetensors.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy
import safetensors.numpy

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools/demo-vision"))
import data  # noqa: E402
from pack import CONFIG  # noqa: E402

SEVERITIES = {"impulse_noise": 4, "gaussian_noise": 5, "contrast": 4, "gaussian_blur": 2}
LAYERS = (2, 3, 4, 6)
ALPHAS = (0.25, 0.5, 0.75, 1.0)
BETWEEN = (0.3, 0.35, 0.4)
BITS = ("f32", "8", "4", "3", "2")


class Lab:
    """Folders of networks, sets of images, and the program."""

    def __init__(self, program, checkpoints, scratch):
        self.program, self.checkpoints, self.scratch, self.count = program, checkpoints, scratch, 0

    def run(self, *words):
        done = subprocess.run([self.program, *map(str, words)], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{words}\n{done.stdout}{done.stderr}")
        return json.loads(done.stdout) if "--json" in words else done.stdout

    def folder(self, name, tensors=None):
        """A model folder of a checkpoint, convolutions as matrices."""
        folder = self.scratch / f"model-{name}"
        if not folder.exists():
            tensors = tensors or safetensors.numpy.load_file(self.checkpoints / f"{name}.safetensors")
            folder.mkdir()
            flat = {key: value.reshape(len(value), -1) if value.ndim == 4 else value for key, value in tensors.items()}
            safetensors.numpy.save_file(flat, folder / "model.safetensors")
            (folder / "config.json").write_text(json.dumps(CONFIG))
        return folder

    def signature(self, name, layers, bits, clean="clean"):
        """The signature of a robust network, extracted once."""
        path = self.scratch / f"{clean}-{name}-{layers}-{bits}.safetensors"
        if not path.exists():
            self.run(
                "patch", "extract", "--pretrained", self.folder("pretrained"), "--clean", self.folder(clean),
                "--robust", self.folder(name), path, "--layers", f"first:{layers}", "--bits", bits,
            )  # fmt: skip
        return path

    def patched(self, base, patches, *more):
        """A folder with patches, as (file, strength)."""
        self.count += 1
        target = self.scratch / f"patched-{self.count}"
        self.run("patch", "add", base, target, *more, "--patch", *[f"{path}={alpha}" for path, alpha in patches])
        return target

    def accuracy(self, model, images, corruptions=()):
        """Clean accuracy in percent, and that after each corruption."""
        words = [f"{name}:{SEVERITIES[name]}" for name in corruptions]
        found = self.run("eval", model, "--images", images, "--json", *(["--corruption", *words] if words else []))
        by_name = {one["name"]: 100 * one["accuracy"] for one in found["corruptions"]}
        return 100 * found["accuracy"], [by_name[name] for name in corruptions]

    def pair(self, model, images, name):
        """`clean / corrupted` as text, and both."""
        clean, (corrupted,) = self.accuracy(model, images, [name])
        return f"{clean:.1f} / {corrupted:.1f}", clean, corrupted


def table(header, rows):
    """A table of Markdown."""
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    print("\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows) + "\n", flush=True)


def strengths(lab, images, name):
    """Layers by strengths; gives the cell with the greatest sum of both accuracies."""
    clean = lab.folder("clean")
    best, rows = None, []
    for layers in LAYERS:
        cells = []
        for alpha in ALPHAS:
            text, before, after = lab.pair(lab.patched(clean, [(lab.signature(f"robust-{name}", layers, "f32"), alpha)]), images, name)
            cells.append(text)
            if best is None or before + after > best[0]:
                best = (before + after, layers, alpha)
        rows.append([f"first {layers}", *cells])
    print(f"`{name}:{SEVERITIES[name]}`: clean network {lab.pair(clean, images, name)[0]}, robust {lab.pair(lab.folder(f'robust-{name}'), images, name)[0]}\n")
    table(["layers", *[f"alpha {alpha:g}" for alpha in ALPHAS]], rows)
    return best[1:]


def between(lab, images):
    """Impulse noise at strengths between two of the first table, where the clean accuracy begins to fall."""
    print("### Impulse noise, strengths between\n")
    clean, name, rows = lab.folder("clean"), "impulse_noise", []
    for layers in LAYERS[:2]:
        path = lab.signature(f"robust-{name}", layers, "f32")
        rows.append([f"first {layers}", *[lab.pair(lab.patched(clean, [(path, alpha)]), images, name)[0] for alpha in BETWEEN]])
    table(["layers", *[f"alpha {alpha:g}" for alpha in BETWEEN]], rows)


def random_signature(lab, name, layers):
    """A difference of random numbers with the norm of the signature's, tensor by tensor."""
    clean = safetensors.numpy.load_file(lab.folder("clean") / "model.safetensors")
    patched = safetensors.numpy.load_file(lab.patched(lab.folder("clean"), [(lab.signature(f"robust-{name}", layers, "f32"), 1.0)]) / "model.safetensors")
    generator, noisy = numpy.random.default_rng(0), {}
    for key, value in clean.items():
        noise = generator.standard_normal(value.shape)
        scale = numpy.linalg.norm(patched[key].astype(float) - value) / numpy.linalg.norm(noise)
        noisy[key] = (value + scale * noise).astype(numpy.float32)
    return noisy


def main():
    """Prints all tables."""
    parser = argparse.ArgumentParser(description="tables of robustness")
    parser.add_argument("checkpoints", type=pathlib.Path)
    parser.add_argument("--reweight", type=pathlib.Path, required=True)
    parser.add_argument("--fashion", type=pathlib.Path, required=True)
    parser.add_argument("--mnist", type=pathlib.Path, required=True)
    parser.add_argument("--images", type=int, default=2000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        lab = Lab(arguments.reweight.resolve(), arguments.checkpoints, pathlib.Path(scratch))
        sets = {}
        for key, (images, labels) in {"fashion": data.fashion(arguments.fashion, "t10k"), "mnist": data.mnist(arguments.mnist, "test")}.items():
            sets[key] = lab.scratch / f"{key}.safetensors"
            first = slice(0, arguments.images)
            safetensors.numpy.save_file({"images": images[first].copy(), "labels": labels[first].copy()}, sets[key])
        images, clean = sets["fashion"], lab.folder("clean")
        print("### Strength and layers\n")
        best = {name: strengths(lab, images, name) for name in SEVERITIES}
        between(lab, images)
        size = (arguments.checkpoints / "clean.safetensors").stat().st_size
        print("### Bits (first 3 layers, the best strength above)\n")
        rows = []
        for bits in BITS:
            cells, sizes = [], []
            for name in SEVERITIES:
                path = lab.signature(f"robust-{name}", 3, bits)
                sizes.append(path.stat().st_size)
                cells.append(lab.pair(lab.patched(clean, [(path, best[name][1])]), images, name)[0])
            rows.append([bits, f"{size / max(sizes):.0f}x", *cells])
        table(["bits", "smaller", *[f"{name}, alpha {best[name][1]:g}" for name in SEVERITIES]], rows)
        print("### Two at once (first 2 layers): clean, then each corruption\n")
        rows = []
        for a, b in (("gaussian_noise", "impulse_noise"), ("contrast", "gaussian_blur")):
            for alpha in (0.25, 0.5):
                pair = [(lab.signature(f"robust-{name}", 2, "f32"), alpha) for name in (a, b)]
                before, after = lab.accuracy(lab.patched(clean, pair), images, (a, b))
                rows.append([f"{a} + {b}, {alpha:g} each", f"{before:.1f}", *[f"{x:.1f}" for x in after]])
        table(["signatures", "clean", "first", "second"], rows)
        print("### Controls (clean / impulse noise)\n")
        name, (layers, alpha) = "impulse_noise", best["impulse_noise"]
        rows = [["the signature", lab.pair(lab.patched(clean, [(lab.signature("robust-impulse_noise", layers, "f32"), alpha)]), images, name)[0]]]
        second = lab.signature("clean-second-seed", layers, "f32")
        rows.append(["a second clean network's \"signature\"", lab.pair(lab.patched(clean, [(second, alpha)]), images, name)[0]])
        noisy = lab.folder("random", random_signature(lab, name, layers))
        rows.append(["random numbers of the same norm, strength 1", lab.pair(noisy, images, name)[0]])
        against = lab.patched(clean, [(lab.signature("robust-impulse_noise", layers, "f32"), -alpha)])
        rows.append(["the signature taken away (alpha negative)", lab.pair(against, images, name)[0]])
        table([f"first {layers} layers, alpha {alpha:g}", "accuracy"], rows)
        print("### On the MNIST network (clean / corrupted digits)\n")
        rows = []
        for name in SEVERITIES:
            cells = [lab.pair(lab.folder("mnist"), sets["mnist"], name)[0]]
            for layers, alpha in ((1, 0.5), (2, 0.5), (3, 0.5)):
                path = lab.signature(f"robust-{name}", layers, "f32")
                cells.append(lab.pair(lab.patched(lab.folder("mnist"), [(path, alpha)], "--transfer"), sets["mnist"], name)[0])
            rows.append([name, *cells])
        table(["corruption", "without", "first 1, 0.5", "first 2, 0.5", "first 3, 0.5"], rows)
        four_bits(lab, images, best)


def four_bits(lab, images, best):
    """The signature on a base of four bits, put into its codes or kept beside them."""
    print("### On a base of int4-g32 (clean / corrupted)\n")
    base = lab.scratch / "int4"
    lab.run("quantize", lab.folder("clean"), base, "--scheme", "int4-g32")
    rows = []
    for name, (layers, alpha) in best.items():
        path = lab.signature(f"robust-{name}", layers, "8")
        cells = [lab.pair(base, images, name)[0], lab.pair(lab.patched(lab.folder("clean"), [(path, alpha)]), images, name)[0]]
        for more in ((), ("--side",)):
            try:
                cells.append(lab.pair(lab.patched(base, [(path, alpha)], "--transfer", *more), images, name)[0])
            except SystemExit as error:
                cells.append("refused: " + str(error).strip().splitlines()[-1][:60])
        rows.append([f"{name}, first {layers}, {alpha:g}", *cells])
    table(["signature, 8 bits", "int4", "f32 with it", "int4, codes chosen again", "int4, side term"], rows)


if __name__ == "__main__":
    main()
