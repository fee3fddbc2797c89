"""Raw runs (Table 11): every run by itself, and a paired test of each method against MeZO."""

from collections.abc import Sequence

from experiments.records.record import Record
from experiments.records.store import left_out
from experiments.sweeps.grid import PROFILES, Grid, Point, holds, load, read
from experiments.sweeps.names import TASKS, shown
from experiments.sweeps.paper import printed
from experiments.sweeps.selection import Shelf
from experiments.tables.accuracy import by_model
from experiments.tables.artefacts import Artefact
from experiments.tables.inputs import Inputs
from experiments.tables.layout import Section
from experiments.tables.paired import p_value
from experiments.tables.published import method

Value = float | str | None  # a score, a failure, or nothing
Runs = dict[tuple[str, str, str], list[Value]]  # (task, method, source) -> a value a seed
BASELINE = "MeZO"
_TEST = (
    "Paired t-test of the runs with the same {} against MeZO's: mean difference, two-sided p (not"
    " corrected for the number of comparisons)."
)


def sections(artefact: Artefact, inputs: Inputs) -> list[Section]:
    """Build the section of the paper's runs, then one section of ours for each profile and
    model."""
    (sweep,) = artefact.sweeps
    runs, problems = _paper()
    paired = _TEST.format("number") + " The paper does not say which of its runs share a seed."
    found = [_section("Paper: RoBERTa-large, fp32", runs, paired, *left_out(problems))]
    for profile in (name for name in PROFILES if name in read(sweep)["profiles"]):
        grid = load(sweep, profile)
        for setting in grid.settings:
            for name, own in by_model(setting["model"], inputs.records(profile)):
                shelf = Shelf(own)
                runs = _ours(grid, shelf, setting)
                inputs.used |= shelf.used
                if any(value is not None for values in runs.values() for value in values):
                    title = f"{name}, {setting['precision']} (profile {profile})"
                    found.append(_section(title, runs, _TEST.format("seed")))
    return found


def _paper() -> tuple[Runs, list[str]]:
    rows, problems = printed("table11", ("task", "method", "run", "accuracy"), ("run", "accuracy"))
    runs: Runs = {}
    for row in sorted(rows, key=lambda row: float(row["run"])):
        runs.setdefault((row["task"], row["method"], "paper"), []).append(float(row["accuracy"]))
    return runs, problems


def _ours(grid: Grid, shelf: Shelf, setting: Point) -> Runs:
    runs: Runs = {}
    for point in grid.points:
        if holds(point, setting):
            choice = shelf.choose(grid, point)
            record = shelf.find(choice.point) if choice.point else None
            row = (shown(TASKS, point["task"]), method(point), point["fidelity"])
            failed = choice.failed[0] if choice.failed else None
            runs.setdefault(row, []).append(failed if record is None else _value(record))
    return runs


def _value(record: Record) -> Value:
    return 100 * record["test_accuracy"] if record["status"] == "ok" else record["status"]


def _section(title: str, runs: Runs, *notes: str) -> Section:
    count = max(map(len, runs.values()), default=0)
    rows = [
        (
            task,
            name,
            source,
            *map(_text, values),
            *[""] * (count - len(values)),
            *_paired(values, runs.get((task, BASELINE, source), []), name),
        )
        for (task, name, source), values in runs.items()
    ]
    columns = (
        "task",
        "method",
        "numbers",
        *(f"run {i + 1}" for i in range(count)),
        "minus MeZO",
        "p",
    )
    return Section(title, columns, tuple(rows), notes=notes)


def _text(value: Value) -> str:
    return (
        "-"
        if value is None
        else value.replace("_", " ")
        if isinstance(value, str)
        else f"{value:.2f}"
    )


def _paired(own: Sequence[Value], base: Sequence[Value], name: str) -> tuple[str, str]:
    """Return the mean difference and p. Both are empty for MeZO itself, and where fewer than three
    pairs are complete."""
    pairs = [
        (a, b)
        for a, b in zip(own, base, strict=False)
        if isinstance(a, float) and isinstance(b, float)
    ]
    if name == BASELINE or len(pairs) < 3:
        return "", ""
    ours, theirs = zip(*pairs, strict=True)
    p = p_value(ours, theirs)
    mean = sum(a - b for a, b in pairs) / len(pairs)
    return f"{mean:+.2f}", "-" if p is None else f"{p:.3f}"
