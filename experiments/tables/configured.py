"""Tables 6 to 10: the shipped configuration files beside what the paper prints, so that a wrong
default shows as a difference."""

from pathlib import Path
from typing import Any

from experiments import CONF
from experiments.records.store import left_out
from experiments.sweeps.matching import shipped_node
from experiments.sweeps.names import METHODS, MODELS, TASKS
from experiments.sweeps.paper import printed
from experiments.tables.artefacts import Artefact
from experiments.tables.inputs import Inputs
from experiments.tables.layout import Section

SAME, MISSING = "same", "-"
GRID_COLUMNS = (
    "table",
    "model",
    "method",
    "learning_rate_grid",
    "batch_size",
    "epsilon",
    "k",
    "m",
    "lozo_rank",
    "lozo_interval",
    "early_stopping_patience_steps",
)


def _yaml(conf: Path, *parts: str) -> dict[str, Any]:
    return dict(shipped_node(conf.joinpath(*parts)))


def split_table(artefact: Artefact, inputs: Inputs) -> list[Section]:
    """Build Table 6."""
    del artefact, inputs  # no run has a part in it
    return [splits()]


def hyperparameter_table(artefact: Artefact, inputs: Inputs) -> list[Section]:
    """Build one of Tables 7 to 10, by the artefact's number."""
    del inputs  # no run has a part in it
    return [hyperparameters(artefact.number or 0)]


def splits(conf: Path = CONF) -> Section:
    """Compare how many rows each task has for training and for validation."""
    rows = []
    choices = {name: choice for choice, name in TASKS.items()}
    found, problems = printed("table6", ("task", "train", "validation"))
    for row in found:
        task = _yaml(conf, "task", f"{choices.get(row['task'], row['task'])}.yaml")
        pairs = [
            (row["train"], str(task.get("num_train", MISSING))),
            (row["validation"], str(task.get("num_validation", MISSING))),
        ]
        rows.append((row["task"], *(text for pair in pairs for text in pair), _verdict(pairs)))
    columns = (
        "task",
        "train (paper)",
        "train (conf)",
        "validation (paper)",
        "validation (conf)",
        "conf against paper",
    )
    return Section(
        "Rows taken from the official training split",
        columns,
        tuple(rows),
        notes=left_out(problems),
    )


def hyperparameters(number: int, conf: Path = CONF) -> Section:
    """Compare the grids of learning rates and the other hyperparameters of every method, for the
    model of one table."""
    found, problems = printed("tables7to10", GRID_COLUMNS)
    found, rows = [row for row in found if row["table"] == str(number)], []
    for row in found:
        ours = _ours(row["method"], row["model"], conf)
        pairs = [(_canonical(row[key]), _canonical(ours[key])) for key in GRID_COLUMNS[3:]]
        rows.append(
            (row["method"], "paper", *(row[key] or MISSING for key in GRID_COLUMNS[3:]), "")
        )
        rows.append(
            (
                row["method"],
                "conf",
                *(ours[key] or MISSING for key in GRID_COLUMNS[3:]),
                _verdict(pairs),
            )
        )
    columns = (
        "method",
        "numbers",
        "learning rates",
        "batch",
        "eps",
        "k",
        "m",
        "rank",
        "interval",
        "patience (steps)",
        "conf against paper",
    )
    models = ", ".join(dict.fromkeys(row["model"] for row in found))
    return Section(models or "no model", columns, tuple(rows), notes=left_out(problems))


def _ours(name: str, model: str, conf: Path) -> dict[str, str]:
    method = {shown: choice for choice, shown in METHODS.items()}.get(name, name)
    choice = {shown: choice for choice, shown in MODELS.items()}.get(model, model)
    optimizer = _yaml(conf, "optimizer", f"{method}.yaml")
    protocol = _yaml(conf, "protocol", "paper.yaml")
    rates = _yaml(conf, "rates", f"{choice}.yaml").get(method, [])
    patience = protocol.get("patience", 0) * protocol.get("eval_every", 0)
    numbers = {
        "k": optimizer.get("k"),
        "m": optimizer.get("m"),
        # with a law beside it, it is the rank of a low-rank one alone
        "lozo_rank": optimizer.get("rank")
        if optimizer.get("law", "low-rank") == "low-rank"
        else None,
        "lozo_interval": optimizer.get("interval"),
        "batch_size": protocol.get("batch_size"),
        "epsilon": _as_printed(optimizer.get("eps"), conf),
        "early_stopping_patience_steps": patience,
    }
    texts = {key: "" if value is None else _short(value) for key, value in numbers.items()}
    return {**texts, "learning_rate_grid": " ".join(_short(rate) for rate in rates)}


def _as_printed(value: Any, conf: Path) -> Any:
    """Resolve an argument that follows a switch of the fidelity, as `fidelity=paper` has it."""
    group, _, switch = str(value).strip("${}").partition(".")
    return _yaml(conf, group, "paper.yaml")[switch] if group == "fidelity" else value


def _short(value: float) -> str:
    """Print a number as 1e-4, 2.5e-7 or 16. No digit is lost, because the printed texts are
    compared."""
    mantissa, _, exponent = f"{value:.9e}".partition("e")
    return f"{value:g}" if value >= 1 else f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def _canonical(text: str) -> tuple[float, ...] | str:
    try:
        return tuple(float(part) for part in text.split())
    except ValueError:
        return text


def _verdict(pairs: list[tuple[Any, Any]]) -> str:
    return SAME if all(paper == conf for paper, conf in pairs) else "DIFFERS"
