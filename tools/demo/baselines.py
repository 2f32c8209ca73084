"""Plain predictors to hold the demo model against: n-grams over its tokens and general compressors over bytes."""

import collections
import gzip
import lzma
import math


class Ngram:
    """Interpolated n-gram with absolute discounting: each order passes the mass it discounts to the next lower one.

    p(w | h) = max(c(h w) - d, 0) / c(h) + d * distinct(h) / c(h) * p(w | shorter h), down to the uniform distribution.
    """

    def __init__(self, tokens, order: int, vocab_size: int, discount: float = 0.75):
        self.order, self.vocab_size, self.discount = order, vocab_size, discount
        # Per order: counts of (history, word), of histories, and how many distinct words follow a history.
        self.tables = []
        for length in range(order):
            grams = collections.Counter(zip(*(tokens[start:] for start in range(length + 1))))
            histories, distinct = collections.Counter(), collections.Counter()
            for gram, count in grams.items():
                histories[gram[:-1]] += count
                distinct[gram[:-1]] += 1
            self.tables.append((grams, histories, distinct))

    def probability(self, history, word) -> float:
        """p(word | history); of the history only the last `order - 1` tokens count."""
        result = 1.0 / self.vocab_size
        for length, (grams, histories, distinct) in enumerate(self.tables):
            tail = tuple(history[len(history) - length :]) if length else ()
            total = histories.get(tail, 0)
            if len(tail) < length or not total:
                break
            kept = max(grams.get((*tail, word), 0) - self.discount, 0.0)
            result = (kept + self.discount * distinct[tail] * result) / total
        return result

    def mean_nll(self, tokens) -> float:
        """Mean nats per token, over all tokens but the first."""
        history_max = self.order - 1
        losses = (
            -math.log(self.probability(tokens[max(0, index - history_max) : index], tokens[index]))
            for index in range(1, len(tokens))
        )
        return math.fsum(losses) / (len(tokens) - 1)


def gzip_bits_per_byte(data: bytes) -> float:
    """`gzip -9` of the text alone."""
    return 8 * len(gzip.compress(data, 9, mtime=0)) / len(data)


def primed_xz_bits_per_byte(primer: bytes, data: bytes) -> float:
    """What `data` adds to the xz of the training text before it: the compressor has seen what the model has."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]

    def size(text: bytes) -> int:
        return len(lzma.compress(text, filters=filters))

    return 8 * (size(primer + data) - size(primer)) / len(data)
