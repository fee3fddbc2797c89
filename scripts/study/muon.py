"""What orthogonalisation changes in ZO-Muon's step: the cosine between G and msign(G), and lengths.

    python -m scripts.study.muon    # a minute on a core; results/measured/muon.json

G = 1/N sum_i y_i u_i (r x n) with Gaussian u_i, and y_i as they are where the gradient is small
against the noise of a subspace: Gaussian, too. G is then a Gaussian matrix, whose singular values
lie within sqrt(n) (1 +- sqrt(r / n)) but for a factor. Where r is far below n they are nearly
alike, msign(G) is nearly G over a number, and what the method does is to fix the step's length.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bszo.optim.orthogonal import LENGTH, orthogonalised
from experiments.records.provenance import of_script
from experiments.tables.sources import MEASURED

RANKS, WIDTHS, PROBES = (16, 64, 128), (768, 1024, 2048, 5120, 20480), (1, 4, 16)
DRAWS = 8


def estimate(rank: int, width: int, probes: int, generator: torch.Generator) -> Tensor:
    """Return G (r, n)."""
    total = torch.zeros(rank, width)
    for _ in range(probes):
        y = torch.randn((), generator=generator)
        total.add_(torch.randn(rank, width, generator=generator) * y)
    return total / probes


def cosine(a: Tensor, b: Tensor) -> float:
    """Return <a, b> / (|a| |b|)."""
    return float((a * b).sum() / (a.norm() * b.norm()))


def measure(rank: int, width: int, probes: int, draws: int = DRAWS) -> dict[str, Any]:
    """Return means over draws: cosines with G, exactly and after Newton-Schulz, and the step's
    length over sqrt(r), which is 1 where it is exact."""
    generator = torch.Generator().manual_seed(rank * width * probes)
    found = []
    for _ in range(draws):
        g = estimate(rank, width, probes, generator)
        exact, rounds = (orthogonalised(g, how) for how in ("exact", "newton-schulz"))
        found.append((cosine(exact, g), cosine(rounds, g), float(rounds.norm()) / rank**0.5))
    columns = torch.tensor(found, dtype=torch.float64)  # (draws, 3)
    names = ("cosine_exact", "cosine_newton_schulz", "length_newton_schulz")
    means = dict(zip(names, columns.mean(0).tolist(), strict=True))
    deviation = float(columns[:, :2].std(0).max())
    return {"rank": rank, "width": width, "probes": probes, **means, "deviation": deviation}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as text; the rival's length is LENGTH by its definition."""
    lines = [f"   r      n   N   exact  rounds  length / sqrt(r) (the rival's: {LENGTH:g})"]
    lines += [
        f"{row['rank']:4d} {row['width']:6d} {row['probes']:3d}   {row['cosine_exact']:.4f}"
        f"  {row['cosine_newton_schulz']:.4f}  {row['length_newton_schulz']:.3f}"
        for row in rows
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=MEASURED / "muon.json")
    options = parser.parse_args(arguments)
    made = of_script("scripts.study.muon", arguments)
    torch.set_num_threads(1)
    start = time.perf_counter()
    rows = [measure(r, n, count) for r in RANKS for n in WIDTHS for count in PROBES]
    print(table(rows))
    facts = {
        "draws": DRAWS,
        "rows": rows,
        "provenance": made,
        "seconds": round(time.perf_counter() - start, 1),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(facts, indent=1) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
