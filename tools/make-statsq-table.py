"""The table of factors in quant/src/grid/statsq.rs, printed.

For exponential power distributions (density ~ exp(-|x|^beta), from near uniform over Gaussian, beta = 2, and Laplace, beta = 1, to heavier
tails) and 1 to 8 bits: the factor c that makes the mean squared error of the mid-rise grid with range +-c * mean|x| least. Needs numpy.

    python3 tools/make-statsq-table.py
"""

import numpy as np

BETAS = [8.0, 3.0, 2.0, 1.5, 1.2, 1.0, 0.8, 0.6]
BITS = range(1, 9)


def distribution(beta):
    """Points and their shares of one side of the distribution, fine enough for 8 bits, with mean|x| = 1."""
    end = 40.0 ** (1.0 / beta)
    edges = end * np.linspace(0.0, 1.0, 400_001) ** 2
    x = (edges[1:] + edges[:-1]) / 2
    share = np.exp(-(x**beta)) * np.diff(edges)
    share /= share.sum()
    return x / (x * share).sum(), share


def error(x, share, bits, factor):
    levels = 2.0 ** (bits - 1)
    step = factor / levels
    code = np.clip(np.floor(x / step), 0, levels - 1)
    return (((code + 0.5) * step - x) ** 2 * share).sum()


def best(x, share, bits):
    low, high = 1.0, 30.0
    for _ in range(6):
        factors = np.linspace(low, high, 25)
        errors = [error(x, share, bits, factor) for factor in factors]
        at = int(np.argmin(errors))
        low, high = factors[max(at - 1, 0)], factors[min(at + 1, 24)]
    return (low + high) / 2


if __name__ == "__main__":
    for beta in BETAS:
        x, share = distribution(beta)
        shape = np.sqrt((x * x * share).sum())
        row = ", ".join(f"{best(x, share, bits):.2f}" for bits in BITS)
        print(f"    ({shape:.4f}, [{row}]), // beta {beta}")
