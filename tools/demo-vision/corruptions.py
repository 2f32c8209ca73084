"""Corruptions of 28x28 grey images as MNIST-C publishes them (google-research/mnist-c, corruptions.py), from counted draws."""

import numpy

from draws import Draws

# The number of a corruption is its place here and its part of the key of the draws.
NAMES = ["gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "gaussian_blur", "glass_blur", "defocus_blur"]
NAMES += ["zoom_blur", "fog", "spatter", "contrast", "brightness", "pixelate", "quantize", "shear", "rotate", "scale"]
NAMES += ["translate", "stripe", "inverse", "dotted_line"]


def gaussian_noise(x, severity, draws):
    return x + draws.normal(x.size).reshape(x.shape) * [0.08, 0.12, 0.18, 0.26, 0.38][severity - 1]


def impulse_noise(x, severity, draws):
    flipped = draws.uniform(x.size).reshape(x.shape) <= [0.03, 0.06, 0.09, 0.17, 0.27][severity - 1]
    salted = draws.uniform(x.size).reshape(x.shape) <= 0.5
    return numpy.where(flipped, numpy.where(salted, 1.0, 0.0), x)


def contrast(x, severity, draws):
    return (x - x.mean()) * [0.4, 0.3, 0.2, 0.1, 0.05][severity - 1] + x.mean()


def blurred(x, sigma):
    """Gaussian of standard deviation `sigma`, cut at four of them, beyond the edge the edge's value."""
    radius = int(4.0 * sigma + 0.5)
    weights = numpy.exp(-0.5 * (numpy.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        padded = numpy.pad(x, [(radius, radius) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        x = numpy.apply_along_axis(numpy.convolve, axis, padded, weights, mode="valid")
    return x


def gaussian_blur(x, severity, draws):
    return blurred(x, [1, 2, 3, 4, 6][severity - 1])


def corrupt(name: str, severity: int, image, index: int, seed: int):
    """The corrupted image in bytes: `image` [h, w] in bytes is number `index` of its set."""
    draws = Draws(seed, NAMES.index(name), index)
    x = globals()[name](image / 255.0, severity, draws)
    return numpy.rint(numpy.clip(x, 0.0, 1.0) * 255.0).astype(numpy.uint8)
