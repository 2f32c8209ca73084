#!/usr/bin/env python3
"""Makes `tests/fixtures/corruptions.safetensors`: images, and what the published corruptions make of them.

    python tools/make-corruption-fixtures.py --images t10k-images-idx3-ubyte.gz

The formulas and severities are those of google-research/mnist-c (corruptions.py, Apache-2.0), called on the libraries that it calls
(scikit-image, scipy, OpenCV, Pillow), with the random numbers of tools/demo-vision/draws.py in place of numpy's global ones. Known
departures: the gaussian and glass blurs go both ways, where `multichannel=True` made a grey image's go one way, and the shear is
that of scikit-image 0.14. Needs numpy, scipy, scikit-image, opencv-python-headless, pillow, safetensors; their versions go into the
file's metadata.
"""

import argparse
import importlib.metadata
import pathlib
import sys

import cv2
import numpy
import safetensors.numpy
from PIL import Image
from scipy import ndimage, stats
from skimage import transform
from skimage.filters import gaussian

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools/demo-vision"))
import corruptions  # noqa: E402
import data  # noqa: E402
from draws import Draws  # noqa: E402

SEED, COUNT, FIRST = 11, 3, 7
ONCE = ("stripe", "inverse", "dotted_line")


def gaussian_noise(x, s, draws):
    return x + draws.normal(x.size).reshape(x.shape) * [0.08, 0.12, 0.18, 0.26, 0.38][s]


def shot_noise(x, s, draws):
    c = [60, 25, 12, 5, 3][s]
    return stats.poisson.ppf(draws.uniform(x.size).reshape(x.shape), x * c).clip(0) / c


def impulse_noise(x, s, draws):
    flipped = draws.uniform(x.size).reshape(x.shape) <= [0.03, 0.06, 0.09, 0.17, 0.27][s]
    salted = draws.uniform(x.size).reshape(x.shape) <= 0.5
    out = x.copy()
    out[flipped & salted] = 1
    out[flipped & ~salted] = 0
    return out


def speckle_noise(x, s, draws):
    return x + x * draws.normal(x.size).reshape(x.shape) * [0.15, 0.2, 0.35, 0.45, 0.6][s]


def gaussian_blur(x, s, draws):
    return gaussian(x, sigma=[1, 2, 3, 4, 6][s])


def glass_blur(x, s, draws):
    sigma, delta, times = [(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)][s]
    x = numpy.uint8(gaussian(x, sigma=sigma) * 255)
    for _ in range(times):
        for h in range(28 - delta, delta, -1):
            for w in range(28 - delta, delta, -1):
                if draws.uniform(1)[0] < 0.5:
                    dx, dy = (int(numpy.floor(u * 2 * delta)) - delta for u in draws.uniform(2))
                    x[h, w], x[h + dy, w + dx] = x[h + dy, w + dx], x[h, w]
    return gaussian(x / 255.0, sigma=sigma)


def defocus_blur(x, s, draws):
    radius, alias = [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)][s]
    line, size = (numpy.arange(-8, 9), (3, 3)) if radius <= 8 else (numpy.arange(-radius, radius + 1), (5, 5))
    columns, rows = numpy.meshgrid(line, line)
    disk = numpy.array(columns**2 + rows**2 <= radius**2, dtype=numpy.float32)
    return cv2.filter2D(x, -1, cv2.GaussianBlur(disk / disk.sum(), ksize=size, sigmaX=alias))


def clipped_zoom(x, factor):
    height = x.shape[0]
    cut = int(numpy.ceil(height / factor))
    top = (height - cut) // 2
    x = ndimage.zoom(x[top : top + cut, top : top + cut], (factor, factor), order=1)
    trim = (x.shape[0] - height) // 2
    return x[trim : trim + height, trim : trim + height]


def zoom_blur(x, s, draws):
    bounds = [(1, 1.11, 0.01), (1, 1.16, 0.01), (1, 1.21, 0.02), (1, 1.26, 0.02), (1, 1.31, 0.03)][s]
    factors = numpy.arange(*bounds)
    return (x + sum(clipped_zoom(x, factor) for factor in factors)) / (len(factors) + 1)


def plasma(decay, draws, side=256):
    map_, step, wibble = numpy.zeros((side, side)), side, 100.0

    def stray(total):
        return total / 4 + wibble * (draws.uniform(total.size).reshape(total.shape) * 2 * wibble - wibble)

    while step >= 2:
        half = step // 2
        corner = map_[0:side:step, 0:side:step]
        total = corner + numpy.roll(corner, shift=-1, axis=0)
        map_[half:side:step, half:side:step] = stray(total + numpy.roll(total, shift=-1, axis=1))
        middle = map_[half:side:step, half:side:step]
        total = middle + numpy.roll(middle, 1, axis=0) + (corner + numpy.roll(corner, -1, axis=1))
        map_[0:side:step, half:side:step] = stray(total)
        total = middle + numpy.roll(middle, 1, axis=1) + (corner + numpy.roll(corner, -1, axis=0))
        map_[half:side:step, 0:side:step] = stray(total)
        step, wibble = half, wibble / decay
    map_ -= map_.min()
    return map_ / map_.max()


def fog(x, s, draws):
    thickness, decay = [(1.5, 2), (2.0, 2), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)][s]
    return (x + thickness * plasma(decay, draws)[:28, :28]) * x.max() / (x.max() + thickness)


def spatter(x, s, draws):
    mean, deviation, spread, threshold, edge = [
        (0.65, 0.3, 4, 0.69, 0.6), (0.65, 0.3, 3, 0.68, 0.6), (0.65, 0.3, 2, 0.68, 0.5),
        (0.65, 0.3, 1, 0.65, 1.5), (0.67, 0.4, 1, 0.65, 1.5),
    ][s]  # fmt: skip
    liquid = gaussian(mean + deviation * draws.normal(x.size).reshape(x.shape), sigma=spread)
    mask = gaussian(numpy.where(liquid > threshold, 1.0, 0.0), sigma=edge)
    mask[mask < 0.8] = 0
    return x * (1 - mask) + 63 / 255.0 * mask


def contrast(x, s, draws):
    return (x - x.mean()) * [0.4, 0.3, 0.2, 0.1, 0.05][s] + x.mean()


def brightness(x, s, draws):
    return x + [0.1, 0.2, 0.3, 0.4, 0.5][s]


def pixelate(x, s, draws):
    image, c = Image.fromarray(numpy.uint8(numpy.rint(x * 255))), [0.6, 0.5, 0.4, 0.3, 0.25][s]
    image = image.resize((int(28 * c), int(28 * c)), Image.BOX).resize((28, 28), Image.BOX)
    return numpy.array(image) / 255.0


def quantize(x, s, draws):
    levels = 2 ** [5, 4, 3, 2, 1][s] - 1
    return (numpy.float32(numpy.rint(x * 255)) * (levels / 255.0)).round() / levels


def centered(x, matrix):
    params = numpy.eye(3)
    params[:2, :2] = matrix
    params[:2, 2] = 13.5 - params[:2, :2] @ [13.5, 13.5]
    return transform.warp(x, inverse_map=transform.AffineTransform(matrix=params))


def shear(x, s, draws):
    c = [0.2, 0.4, 0.6, 0.8, 1.0][s] * draws.sign()
    return centered(x, [[1, -numpy.sin(c)], [0, numpy.cos(c)]])


def rotate(x, s, draws):
    c = [0.2, 0.4, 0.6, 0.8, 1.0][s] * draws.sign()
    return centered(x, [[numpy.cos(c), -numpy.sin(c)], [numpy.sin(c), numpy.cos(c)]])


def scale(x, s, draws):
    return centered(x, numpy.eye(2) / [0.9, 0.8, 0.7, 0.6, 0.5][s])


def translate(x, s, draws):
    right, down = (s + 1) * draws.sign(), (s + 1) * draws.sign()
    return transform.warp(x, inverse_map=transform.AffineTransform(translation=[right, down]))


def stripe(x, s, draws):
    x = x.copy()
    x[:, :7], x[:, 21:] = 1 - x[:, :7], 1 - x[:, 21:]
    return x


def inverse(x, s, draws):
    return 1 - x


def dotted_line(x, s, draws):
    first, last = (int(numpy.floor(u * 27)) for u in draws.uniform(2))
    columns, rows = numpy.meshgrid(numpy.arange(28.0), numpy.arange(28.0))
    distance = numpy.clip(numpy.abs(rows - ((last - first) / 27 * columns + first)), 0, 2.3 - 1e-10)
    line = numpy.clip(numpy.log(1 - distance / 2.3) + 1, 0, 1)
    line[:, 27:] = 0
    for index in range(0, 28, 4):
        line[:, index : index + 2] = 0
    return x + line


def main():
    """Writes the fixture."""
    parser = argparse.ArgumentParser(description="make the fixture of corruptions")
    parser.add_argument("--images", type=pathlib.Path, required=True)
    images = data.read_idx(parser.parse_args().images)[FIRST : FIRST + COUNT]
    tensors = {"images": images}
    for number, name in enumerate(corruptions.NAMES):
        for severity in range(1, 2 if name in ONCE else 6):
            spoiled = [
                globals()[name](image / 255.0, severity - 1, Draws(SEED, number, index)) for index, image in enumerate(images)
            ]
            tensors[f"{name}:{severity}"] = numpy.rint(numpy.clip(spoiled, 0, 1) * 255).astype(numpy.uint8)
    packages = ("numpy", "scipy", "scikit-image", "opencv-python-headless", "pillow")
    versions = {name: importlib.metadata.version(name) for name in packages}
    versions["script"] = "tools/make-corruption-fixtures.py"
    safetensors.numpy.save_file(tensors, ROOT / "tests/fixtures/corruptions.safetensors", versions)


if __name__ == "__main__":
    main()
