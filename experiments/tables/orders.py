"""Orders of the optimizers' memory: Table 2, the paper's beside those read off measured bytes.

`scripts.bench.state` measures (results/measured/bench/state.json).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.records.store import left_out
from experiments.sweeps.paper import printed
from experiments.tables.artefacts import Artefact
from experiments.tables.inputs import Inputs
from experiments.tables.layout import Section
from experiments.tables.sources import MEASURED, MeasurementError

STATE = MEASURED / "bench" / "state.json"
NAMES = {
    "mezo": "MeZO-SGD",
    "mezo-adam": "MeZO-Adam",
    "hizoo": "HiZOO",
    "lozo": "LOZO",
    "bszo": "BSZO",
    "bszo-b": "BSZO-B",
}  # conf/optimizer -> as the paper's Table 2 writes it
# attributes that hold the perturbation engine's buffers, not the method's state
ENGINE = ("_engine", "_family")
NEAR = 0.25  # a slope this near an integer is read as that power
NO_NUMBER = "-"


class Fit(NamedTuple):
    """The line log(bytes) = slope log(size) + constant; `residual` is the root mean square of the
    differences from it, in nats."""

    slope: float
    residual: float


def fit_order(sizes: Sequence[float], num_bytes: Sequence[float]) -> Fit | None:
    """Fit log(bytes) to log(size) by least squares. Bytes that are equal at all sizes, also zero,
    have slope 0.

    The result is None where no power fits: there are fewer than two sizes, or the bytes are zero at
    some sizes only.
    """
    if len(set(sizes)) < 2:
        return None
    if len(set(num_bytes)) == 1:
        return Fit(0.0, 0.0)
    if min(num_bytes) <= 0:
        return None
    x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(num_bytes, float))
    slope, constant = np.polyfit(x, y, 1)
    return Fit(float(slope), float(np.sqrt(np.mean((y - slope * x - constant) ** 2))))


def order(**fits: Fit | None) -> str:
    """Return `O(n)`, `O(k^2)` or `O(1)` from the slopes in n and in k; a slope that is near no
    integer is printed as it is."""
    factors = []
    for name, fit in fits.items():
        if fit is None:
            continue
        power = round(fit.slope)
        shown = f"{power}" if abs(fit.slope - power) <= NEAR else f"{fit.slope:.2f}"
        if shown != "0":
            factors.append(name if shown == "1" else f"{name}^{shown}")
    if all(fit is None for fit in fits.values()):
        return NO_NUMBER
    return f"O({' '.join(factors) or '1'})"


def of_method(row: dict[str, Any]) -> int:
    """Return the bytes that the method itself keeps, without the buffers of the engine."""
    return sum(num_bytes for name, num_bytes in row["kept"].items() if name not in ENGINE)


def of_engine(row: dict[str, Any]) -> int:
    """Return the bytes of the engine's buffers between steps."""
    return sum(num_bytes for name, num_bytes in row["kept"].items() if name in ENGINE)


def shown(fit: Fit | None) -> str:
    return NO_NUMBER if fit is None else f"{fit.slope:.2f} ({fit.residual:.2f})"


def orders(state: dict[str, Any], paper: dict[str, dict[str, str]]) -> Section:
    """Compare the orders of the paper's Table 2 with those read off the measured bytes."""
    lines = []
    for method, name in NAMES.items():
        over_n, over_k = state["over_n"].get(method, []), state["over_k"].get(method, [])
        sizes = [row["n"] for row in over_n]
        in_n = fit_order(sizes, [of_method(row) for row in over_n])
        in_k = fit_order([row["k"] for row in over_k], [of_method(row) for row in over_k])
        # fp32 parameters
        in_all = fit_order(sizes, [4 * row["n"] + of_method(row) for row in over_n])
        theirs = paper.get(name, {})
        lines.append(
            (
                name,
                theirs.get("memory", NO_NUMBER),
                order(n=in_all),
                theirs.get("additional_space", NO_NUMBER),
                order(n=in_n, k=in_k),
                shown(in_n),
                shown(in_k),
            )
        )
    setting, versions = state["setting"], state["provenance"]["versions"]
    # n: the parameters themselves
    pairs = ("in all: paper", "in all: ours", "beyond n: paper", "beyond n: ours")
    columns = ("method", *pairs, "slope in n", "slope in k")
    note = (
        f"Ours: measured on {setting['model']}, {setting['dtype']}, {setting['device']},"
        f" fidelity={setting['fidelity']}, torch {versions['torch']}. Slopes: least squares of"
        " log(bytes) on log(size), the root mean square residual in brackets; equal bytes, nought"
        " too, have slope 0."
    )
    return Section("Orders", columns, tuple(lines), notes=(note,))


def over_size(
    state: dict[str, Any], title: str, bytes_of: Callable[[dict[str, Any]], int], note: str
) -> Section:
    """List the bytes of every method at every n."""
    sizes = sorted({row["n"] for rows in state["over_n"].values() for row in rows})
    lines = []
    for method, name in NAMES.items():
        found = {row["n"]: f"{bytes_of(row):,}" for row in state["over_n"].get(method, [])}
        lines.append((name, *(found.get(n, NO_NUMBER) for n in sizes)))
    return Section(title, ("method", *(f"n = {n:,}" for n in sizes)), tuple(lines), notes=(note,))


def over_directions(state: dict[str, Any]) -> Section:
    """List the bytes of BSZO as k grows."""
    ks = sorted({row["k"] for rows in state["over_k"].values() for row in rows})
    lines = []
    for method, rows in state["over_k"].items():
        found = {row["k"]: f"{of_method(row):,}" for row in rows}
        lines.append((NAMES[method], *(found.get(k, NO_NUMBER) for k in ks)))
    sizes = ", ".join(
        f"{n:,}" for n in sorted({row["n"] for rows in state["over_k"].values() for row in rows})
    )
    note = (
        f"At n = {sizes}: the last belief, mean and covariance in float64, which is 8 (k + k^2)"
        " bytes. The slope stays below 2 by the mean's share at small k."
    )
    return Section(
        "Bytes kept as k grows", ("method", *(f"k = {k}" for k in ks)), tuple(lines), notes=(note,)
    )


KEPT = (
    "Tensors that can be reached from the optimizer between two steps: its state and its last"
    " report."
)
ENGINES = (
    "One layer's perturbed weights, a tenth of n here; kept on a CPU only, the same for every"
    " method."
)
CACHES = (
    "Numbers of the elements, for models of up to 4 million; shared by all optimizers of a process."
)
IN_A_STEP = (
    "Above the start of the step and above one forward pass. Up to 4 million elements this library"
    " keeps the z of all k directions for one step, which is quicker; above, z is made in chunks"
    " (LOZO: a layer at a time)."
)


def sections_of(state: dict[str, Any], paper: dict[str, dict[str, str]]) -> list[Section]:
    return [
        orders(state, paper),
        over_size(state, "Bytes kept beyond the parameters", of_method, KEPT),
        over_directions(state),
        over_size(state, "Bytes of the streaming engine between steps", of_engine, ENGINES),
        over_size(state, "Bytes in caches of the library", lambda row: row["elsewhere"], CACHES),
        over_size(state, "Most bytes during a step", lambda row: row["during_step"], IN_A_STEP),
    ]


def read_state(path: Path) -> dict[str, Any]:
    """Read what `scripts.bench.state` has measured.

    Raises:
        MeasurementError: the file is absent, not JSON, or not from scripts.bench.state.
    """
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MeasurementError(f"{path.name}: not there; make run-table2 measures it") from None
    except ValueError as error:
        raise MeasurementError(f"{path.name}: not whole JSON ({error})") from error
    if missing := {"setting", "over_n", "over_k", "provenance"} - set(state):
        raise MeasurementError(
            f"{path.name}: no {', '.join(sorted(missing))}; make run-table2 writes a whole one"
        )
    return state


def sections(artefact: Artefact, inputs: Inputs) -> list[Section]:
    """Build Table 2."""
    del artefact, inputs  # it shows no run's record
    state = read_state(STATE)
    paper, problems = printed("table2", ("method", "memory", "additional_space"))
    first, *others = sections_of(state, {row["method"]: row for row in paper})
    return [replace(first, notes=(*first.notes, *left_out(problems))), *others]
