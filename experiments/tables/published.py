"""Accuracies that the paper prints, found by what was run, and the labels of the paper's rows."""

from collections.abc import Mapping, Sequence

from experiments.sweeps.grid import Point
from experiments.sweeps.names import METHODS, MODELS, TASKS, shown
from experiments.sweeps.paper import printed
from experiments.tables.accuracy import Kind

ADAPTIVE = {"always": "yes", "beyond-k": "yes", "never": "no"}


def method(point: Point) -> str:
    return shown(METHODS, point["optimizer"])


def variant(point: Point) -> str:
    """ "k = 2, m = 3, fixed noise"."""
    noise = {"never": ", fixed noise", "always": ", adaptive noise"}.get(
        point.get("optimizer.adapt_noise", ""), ""
    )
    return f"k = {point['optimizer.k']}, m = {point['optimizer.m']}{noise}"


def table1(part: str = "a") -> Kind:
    """Table 1 prints the mean and deviation of five runs, by method and task."""
    del part  # there is one
    rows, problems = printed(
        "table1", ("method", "task", "accuracy_mean", "accuracy_std"), ("accuracy_mean",)
    )
    texts = {}
    for row in rows:
        spread = f" ({row['accuracy_std']}; 5)" if row["accuracy_std"] else ""
        texts[row["method"], row["task"]] = row["accuracy_mean"] + spread
    return Kind(
        method,
        lambda point: texts.get((method(point), shown(TASKS, point["task"]))),
        problems=problems,
    )


def table3(part: str = "a") -> Kind:
    """Table 3 prints one run, by model, method and task."""
    del part  # there is one
    rows, problems = printed("table3", ("model", "method", "task", "accuracy"))
    texts = {(row["model"], row["method"], row["task"]): row["accuracy"] for row in rows}

    def published(point: Point) -> str | None:
        return texts.get(
            (shown(MODELS, point["model"]), method(point), shown(TASKS, point["task"]))
        )

    return Kind(method, published, problems=problems)


def table5(part: str) -> Kind:
    """A part of Table 5 is an ablation of k, of m or of the noise."""
    rows, problems = printed(
        "table5", ("part", "k", "m", "adaptive_noise", "task", "accuracy"), ("accuracy",)
    )
    return _ablation([row for row in rows if row["part"] == part], problems)


def table12(part: str) -> Kind:
    """A part of Table 12 is an ablation in fp32."""
    noise = {"adaptive noise": "yes", "noise-free adaptive sampling": "no"}
    rows, problems = printed(
        "table12", ("part", "k", "m", "variant", "task", "accuracy"), ("accuracy",)
    )
    mine = [
        {**row, "adaptive_noise": noise.get(row["variant"], "")}
        for row in rows
        if row["part"] == part
    ]
    return _ablation(mine, problems)


def _ablation(rows: Sequence[Mapping[str, str]], problems: Sequence[str]) -> Kind:
    texts = {
        (row["k"], row["m"], row["adaptive_noise"], row["task"]): row["accuracy"] for row in rows
    }

    def published(point: Point) -> str | None:
        k, m = point["optimizer.k"], point["optimizer.m"]
        noise = ADAPTIVE[point.get("optimizer.adapt_noise", "always")]
        task = shown(TASKS, point["task"])
        return texts.get((k, m, noise, task), texts.get((k, "", noise, task)))  # part c prints no m

    return Kind(variant, published, problems=problems)
