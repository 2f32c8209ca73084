"""The two image sets: Fashion-MNIST of the Debian package, MNIST of the PyPI wheel; and their normalization."""

import gzip
import pathlib

import numpy

# Mean and standard deviation of Fashion-MNIST's training pixels, as usual; MNIST is read through the same.
MEAN, STD = 0.2860, 0.3530


def read_idx(path: pathlib.Path):
    """An IDX file of bytes, unpacked or not, as an array."""
    opened = gzip.open(path) if path.suffix == ".gz" else open(path, "rb")
    with opened as file:
        data = file.read()
    dims = data[3]
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(dims)]
    return numpy.frombuffer(data, dtype=numpy.uint8, offset=4 + 4 * dims).reshape(shape)


def fashion(folder: pathlib.Path, part: str):
    """Images [n, 28, 28] and labels [n] of Fashion-MNIST; `part` is `train` or `t10k`."""
    return tuple(read_idx(folder / f"{part}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))


def mnist(folder: pathlib.Path, part: str):
    """Images and labels of MNIST; `part` is `train` or `test`."""
    rows = numpy.loadtxt(folder / f"mnist_{part}.csv", delimiter=",", skiprows=1, dtype=numpy.uint8)
    return rows[:, 1:].reshape(-1, 28, 28).copy(), rows[:, 0].copy()
