"""Medians of llama-matvec and of `bench matvec`, side by side: report.py FOLDER RUNS SHAPE.

`error` is relative to the product of the weights before they were quantized, which both draw alike.
"""

import json
import statistics
import sys
from pathlib import Path


def main() -> None:
    folder, runs, shape = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    rows: dict[str, list[tuple[float, float, float, float]]] = {}
    reads = []
    for run in range(1, runs + 1):
        for line in (folder / f"matvec.{run}.txt").read_text().splitlines():
            kind, buffer, bits, seconds, rate, error = line.split()
            name = f"llama.cpp {kind} {buffer}"
            rows.setdefault(name, []).append((float(seconds), float(rate), float(bits), float(error)))
        ours = json.loads((folder / f"matvec.{run}.json").read_text())
        reads.extend(r["read_gb_per_s"] for r in ours["results"][:1])
        for r in ours["results"]:
            if r["kernels"] == "scalar":
                continue
            name = f"{r['scheme']} {r['variant']} {r['kernels']}+{r['dot']}"
            values = (r["seconds"], r["gb_per_s"], r["bits_per_weight"], r["relative_error_total"])
            rows.setdefault(name, []).append(values)
    medians = {name: [statistics.median(column) for column in zip(*values)] for name, values in rows.items()}
    best = min(values[0] for name, values in medians.items() if " int8 " in name)
    print(f"\n{shape}: reading {statistics.median(reads):.1f} GB/s")
    print(f"{'':<34}{'us':>9}{'GB/s':>8}{'b/w':>7}{'error':>10}{'ratio':>7}")
    for name, (seconds, rate, bits, error) in medians.items():
        print(f"{name:<34}{1e6 * seconds:>9.1f}{rate:>8.2f}{bits:>7.3f}{error:>10.1e}{seconds / best:>7.2f}")


if __name__ == "__main__":
    main()
