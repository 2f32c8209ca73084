"""The random numbers that corruptions are made of: Philox4x64-10, counted, so that any image can be made alone.

Word n of the stream of (seed, corruption number, image index) is word n of
`numpy.random.Philox(key=[seed, corruption], counter=[0, image, 0, 0])`. The severity has no part in it: an image at two
severities is spoiled by the same draws.
"""

import numpy


class Draws:
    """One image's stream for one corruption."""

    def __init__(self, seed: int, corruption: int, image: int):
        key = numpy.array([seed, corruption], dtype=numpy.uint64)
        counter = numpy.array([0, image, 0, 0], dtype=numpy.uint64)
        self._words = numpy.random.Philox(key=key, counter=counter)

    def uniform(self, n: int):
        """`n` numbers of [0, 1), multiples of 2^-53."""
        return (self._words.random_raw(n) >> numpy.uint64(11)) * 2.0**-53

    def normal(self, n: int):
        """`n` (even) standard normal numbers, two of each pair of uniform ones (Box and Muller, 1958)."""
        radius, angle = self.uniform(n).reshape(-1, 2).T
        radius = numpy.sqrt(-2.0 * numpy.log(1.0 - radius))
        angle = 2.0 * numpy.pi * angle
        return numpy.stack([radius * numpy.cos(angle), radius * numpy.sin(angle)], axis=1).reshape(-1)

    def sign(self) -> int:
        """-1 or 1."""
        return 1 if self.uniform(1)[0] < 0.5 else -1
