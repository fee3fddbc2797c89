"""Reading of the notebooks beside this file: records as data frames, and how a notebook prints. It
loads neither torch nor Hydra.

A kernel finds it where it starts in the project's folder, as `make notebooks` does; by hand:
`PYTHONPATH=$PWD jupyter lab` there, after `pip install jupyterlab`.
"""

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from IPython.display import HTML, Image, Markdown, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator
from PIL import Image as pillow

from experiments import RESULTS as SHIPPED
from experiments.records.record import Record
from experiments.sweeps.grid import PROFILES, Grid, Point, load, rate_key, read
from experiments.sweeps.names import METHODS, MODELS, TASKS, shown
from experiments.sweeps.selection import Shelf
from experiments.tables.cells import last
from experiments.tables.inputs import Inputs
from scripts.figures.style import COLOURS

RESULTS = Path(os.environ.get("BSZO_RESULTS", SHIPPED))
COLUMNS = [
    "artefact",
    "profile",
    "model",
    "precision",
    "setting",
    "task",
    "method",
    "fidelity",
    "seed",
    "k",
    "m",
    "noise",
    "walk",
    "eps",
    "lr",
    "status",
    "chosen",
    "test",
    "validation",
    "loss",
    "record",
]
COLOUR = dict(zip(METHODS.values(), COLOURS, strict=False))


class Records:
    """The runs that artefacts are made of, as data frames.

    Args:
        results: folder with the records of every profile, and perhaps measurements.
    """

    def __init__(self, results: Path = RESULTS) -> None:
        self.results = results
        self.inputs = Inputs(results / "records")
        self._found: dict[tuple[str, str], tuple[Grid, pd.DataFrame]] = {}

    def runs(self, *artefacts: str) -> pd.DataFrame:
        """Return one row for each run of the artefacts' grids that has a record, also those that
        chose a learning rate.

        Scores are in per cent; `loss` is the last training loss; `chosen` says that validation
        chose the run's rate.
        """
        frames = [self._of(name, profile)[1] for name in artefacts for profile in _profiles(name)]
        full = [frame for frame in frames if len(frame)]
        return pd.concat(full, ignore_index=True) if full else _frame([])

    def overview(self, *artefacts: str) -> None:
        """Say how many of each artefact's runs are there, how many failed, and of which artefacts
        nothing is there."""
        rows, nothing = [], []
        for artefact, profile in [
            (name, profile) for name in artefacts for profile in _profiles(name)
        ]:
            grid, frame = self._of(artefact, profile)
            cells = frame.loc[frame["chosen"].to_numpy(), "status"].to_list()
            if len(frame):
                rows.append(
                    [
                        artefact,
                        profile,
                        len(grid.points),
                        len(cells),
                        len(cells) - cells.count("ok"),
                        len(frame) - len(cells),
                        len(self.inputs.problems(profile)),
                    ]
                )
            else:
                nothing.append(f"{artefact} ({profile})")
        if rows:
            table(
                pd.DataFrame(
                    rows,
                    columns=[
                        "artefact",
                        "profile",
                        "runs planned",
                        "there",
                        "of them failed",
                        "others, to choose the rate",
                        "unusable files",
                    ],
                )
            )
        if nothing:
            say(f"Nothing was run of {', '.join(nothing)}.")

    def facts(self, name: str) -> Any:
        """Return a JSON file of the results, None where it is not there."""
        file = self.results / name
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    def _of(self, name: str, profile: str) -> tuple[Grid, pd.DataFrame]:
        if (name, profile) not in self._found:
            grid, shelf = load(name, profile), Shelf(self.inputs.records(profile))
            points = grid.points if self.inputs.records(profile) else ()
            cells = [shelf.choose(grid, point).point for point in points]
            others = [run for point in points for run in grid.candidates(point)]
            rows: dict[tuple[Any, ...], list[Any]] = {}
            for chosen, run in [(True, run) for run in cells if run] + [
                (False, run) for run in others
            ]:
                key = tuple(sorted(run.items()))
                record = shelf.find(run) if key not in rows else None
                if record is not None:
                    rows[key] = _row(grid, run, record, chosen)
            self._found[name, profile] = grid, _frame(list(rows.values()))
        return self._found[name, profile]


def _profiles(name: str) -> list[str]:
    return [profile for profile in PROFILES if profile in read(name)["profiles"]]


def _frame(rows: list[list[Any]]) -> pd.DataFrame:
    numbers = dict.fromkeys(("eps", "lr", "k", "m", "test", "validation", "loss"), float)
    return pd.DataFrame(rows, columns=COLUMNS).astype({"chosen": bool, **numbers})


def _row(grid: Grid, point: Point, record: Record, chosen: bool) -> list[Any]:
    optimizer, ended = record["config"]["optimizer"], record["status"] == "ok"
    model = shown(MODELS, record["choices"]["model"])
    lr = _inside(record["config"], rate_key(point["optimizer"]))
    return [
        grid.name,
        grid.profile,
        model,
        point["precision"],
        f"{model}, {point['precision']} ({grid.profile})",
        shown(TASKS, point["task"]),
        shown(METHODS, point["optimizer"]),
        point["fidelity"],
        record["config"]["seed"],
        optimizer.get("k"),
        optimizer.get("m"),
        optimizer.get("adapt_noise"),
        optimizer.get("perturbation"),
        optimizer.get("eps"),
        lr,
        record["status"],
        chosen,
        _percent(record["test_accuracy"], ended),
        _percent(record["validation_accuracy"], ended),
        last(record, "train_loss") if ended else None,
        record,
    ]


def _inside(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config


def _percent(share: float | None, ended: bool) -> float | None:
    return 100 * share if share is not None and ended else None


def curves(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each point of the runs' curves, with the run's own columns beside it."""
    seen = [{**row, **point} for row in runs.to_dict("records") for point in row["record"]["curve"]]
    more = [
        "step",
        "num_forwards",
        "train_loss",
        "validation_accuracy",
        "noise_var",
        "gain",
        "train_seconds",
    ]
    frame = pd.DataFrame(seen, columns=[*COLUMNS, *more])
    return frame.astype(dict.fromkeys(more, float))


def once(runs: pd.DataFrame) -> pd.DataFrame:
    """Return each record once, in the first artefact that has it."""
    return runs.loc[
        ~runs["record"].map(lambda record: record["signature"]).duplicated().to_numpy(bool)
    ]


def say(text: str) -> None:
    """Print a paragraph of Markdown."""
    display(Markdown(text))


def answer(lines: Sequence[str]) -> None:
    """Print the answer of the notebook: a list, or that there is nothing to answer from."""
    empty = ["Nothing was run yet: there are no records to answer from."]
    say("\n".join(["## Answer", "", *(f"- {line}" for line in lines or empty)]))


def table(frame: pd.DataFrame, digits: int = 2) -> None:
    """Print a frame; what is missing prints as `-`."""
    if frame.empty:
        say("*Nothing was run that this table could show.*")
    else:
        text = frame.to_html(
            index=False, border=0, na_rep="-", float_format=lambda x: f"{x:.{digits}f}"
        )
        display(HTML(f'<div class="wide">{text}</div>'.replace(' style="text-align: right;"', "")))


def show(figure: Figure, words: str) -> None:
    """Print a figure as a small PNG, the same bytes from the same numbers; `words` are for readers
    who cannot see it."""
    png, small = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    colours = (
        pillow.open(png)
        .convert("RGB")
        .quantize(128, method=pillow.Quantize.MEDIANCUT, dither=pillow.Dither.NONE)
    )
    colours.save(small, format="png", optimize=True)
    display(Image(small.getvalue(), alt=words))


def plain(panel: Axes, axis: Literal["x", "y"], ticks: Sequence[float] | None = None) -> Axes:
    """Make an axis logarithmic with plain numbers, at the ticks where any are given."""
    panel.set(**{f"{axis}scale": "log"})
    which = panel.xaxis if axis == "x" else panel.yaxis
    which.set_major_locator(LogLocator(subs=(1, 2, 5)) if ticks is None else FixedLocator(ticks))
    which.set_minor_locator(NullLocator())
    which.set_major_formatter("{x:g}")
    return panel


def some(runs: pd.DataFrame, what: str) -> bool:
    """Return True where there are runs; otherwise say that there are none."""
    if runs.empty:
        say(f"*Nothing was run: no record has {what}.*")
    return not runs.empty
