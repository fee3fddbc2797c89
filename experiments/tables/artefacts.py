"""Artefacts: every table and figure, what each is made of and what makes it.

Whoever needs to know asks here and says it nowhere else: `python -m experiments.render`, the
Makefile (through `python -m experiments.render --make`), `make status`, results/README.md and the
report. The module imports the standard library alone, so that make can ask before anything is
installed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Source = Literal["runs", "study", "bench", "conf"]

BENCHED = "measured/bench/*-*-*.json"  # model, type and device


@dataclass(frozen=True)
class Artefact:
    """One table or figure.

    Attributes:
        name: its name for make and the stem of its files.
        source: what its numbers are: those of recorded runs, of a study that is measured in one go,
            of the step benchmark, or those that the configuration files print.
        maker: `module:function`. A table's returns its sections from (artefact, inputs); a figure's
            returns its drawings by the stem of their files from (artefact, inputs). Where `scored`,
            it returns what the block of one sweep shows, from the sweep's letter.
        title: heading of a table, caption of a figure; None where its one sweep has the title.
        sweeps: names of the grids in conf/sweep whose runs it shows; their letters are a, b, c ...
        picked: the values that those runs must have, where not all of them are shown.
        scored: it is a table of accuracies, and a second one at equal budgets stands beside it.
        files: patterns under results/ of what it reads beside records.
        measured: what the files of a study hold, in words.
        commands: PROFILE -> the commands of `make run-NAME`, where no sweep makes it; the empty
            profile stands for every other one.
        plan: what `make plan-NAME` says, where no sweep makes it.
    """

    name: str
    source: Source
    maker: str
    title: str | None = None
    sweeps: tuple[str, ...] = ()
    picked: Mapping[str, str] = field(default_factory=dict)
    scored: bool = False
    files: tuple[str, ...] = ()
    measured: str = ""
    commands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    plan: str = ""

    @property
    def drawn(self) -> bool:
        """True for a figure."""
        return self.name.startswith("figure")

    @property
    def number(self) -> int | None:
        """Its number in the paper, if it stands there."""
        found = re.search(r"\d+$", self.name)
        return int(found[0]) if found else None

    @property
    def label(self) -> str:
        """ "Table 5" for table5, and the name itself where the paper has no such artefact."""
        if self.number is None:
            return self.name
        return f"{self.name.rstrip('0123456789').capitalize()} {self.number}"


def _scored(number: int, *sweeps: str, title: str | None = None) -> Artefact:
    """A table of accuracies of the paper."""
    return Artefact(
        f"table{number}",
        "runs",
        f"experiments.tables.published:table{number}",
        title,
        sweeps,
        scored=True,
        files=(f"paper/table{number}.csv",),
    )


def _hyperparameters(number: int, model: str) -> Artefact:
    """One of the paper's four tables of hyperparameters."""
    return Artefact(
        f"table{number}",
        "conf",
        "experiments.tables.configured:hyperparameter_table",
        f"Table {number}: hyperparameters of {model}",
        files=("paper/tables7to10.csv",),
        plan="read off the configuration files, nothing to run",
    )


_IN_ONE_GO = "measured in one go by make run-{}, minutes to hours"
_STEPS = {
    "paper": tuple(
        f"scripts.bench.step --model {model} --dtype {dtype} --device cuda"
        " --out results/measured/bench $(ARGS)"
        for model, dtype in (
            ("opt-1.3b", "float32"),
            ("mistral-7b", "float16"),
            ("opt-13b", "bfloat16"),
        )
    ),
    "": ("scripts.bench.step --out results/measured/bench $(ARGS)",),
}
_STEPS_PLAN = (
    "PROFILE=mini measures OPT-125M's shape on this machine, some 10 minutes; PROFILE=paper the"
    " paper's three models (random weights) on a GPU: 82.1 GB at most by Table 4 (OPT-13B,"
    " MeZO-Adam), tens of minutes"
)
_WALK_FILES = ("measured/walk/*.json", "reference/*.csv")

ARTEFACTS = {
    artefact.name: artefact
    for artefact in (
        _scored(1, "table1"),
        Artefact(
            "table2",
            "study",
            "experiments.tables.orders:sections",
            "Table 2: memory, the paper's orders and measured bytes",
            files=("measured/bench/state.json", "paper/table2.csv"),
            measured="bytes of optimizer state, growing models and k = 1 ... 16",
            commands={"": ("scripts.bench.state",)},
            plan=_IN_ONE_GO.format("table2"),
        ),
        _scored(3, "table3"),
        Artefact(
            "table4",
            "bench",
            "experiments.tables.measured:sections",
            "Table 4: peak memory and time of a step",
            files=(BENCHED, "paper/table4.csv"),
            commands=_STEPS,
            plan=_STEPS_PLAN,
        ),
        _scored(
            5,
            "table5a",
            "table5b",
            "table5c",
            "table5d",
            title="Table 5: Ablations of k, m and the adaptive noise, accuracy (%)",
        ),
        Artefact(
            "table6",
            "conf",
            "experiments.tables.configured:split_table",
            "Table 6: rows for training and validation",
            files=("paper/table6.csv",),
            plan="read off the configuration files, nothing to run",
        ),
        _hyperparameters(7, "RoBERTa-large"),
        _hyperparameters(8, "OPT-1.3B"),
        _hyperparameters(9, "Mistral-7B"),
        _hyperparameters(10, "OPT-13B"),
        Artefact(
            "table11",
            "runs",
            "experiments.tables.raw_runs:sections",
            "Table 11: the runs behind Table 1, test accuracy (%)",
            ("table1",),
            files=("paper/table11.csv",),
        ),
        _scored(
            12,
            "table5a",
            "table5b",
            "table12c",
            title="Table 12: Ablations of k, m and the noise in fp32, accuracy (%)",
        ),
        Artefact(
            "table_walk",
            "runs",
            "experiments.tables.walk.table:sections",
            "The walk: what the perturbation alone does to weights in low precision",
            ("walk",),
            files=_WALK_FILES,
        ),
        Artefact(
            "zo_bench",
            "runs",
            "experiments.tables.zo_bench:sections",
            sweeps=("zo_bench",),
            files=("measured/bench/memory.json",),
        ),
        Artefact(
            "table_real",
            "runs",
            "experiments.tables.real.table:sections",
            sweeps=("real",),
            files=(
                "measured/gradient_signal.json",
                "measured/heads.json",
                "measured/means/mezo.json",
                "measured/means/bszo-own-directions-k-8-mean.json",
                "measured/means/bszo-own-directions-k-8-mean-round-2-at-0-0001.json",
                "measured/means/bszo-own-directions-k-8-mean-round-2-at-0-0003.json",
                "measured/means/bszo-own-directions-k-8-mean-round-3-at-0-0003.json",
            ),
        ),
        Artefact(
            "table_later", "runs", "experiments.tables.equal_passes:sections", sweeps=("later",)
        ),
        Artefact(
            "table_each",
            "runs",
            "experiments.tables.agreement:sections",
            sweeps=("each",),
            files=("measured/agreement.json",),
        ),
        Artefact(
            "figure1",
            "runs",
            "scripts.figures.figure1:draw",
            "Training loss under bf16, every learning rate",
            ("figure1",),
        ),
        Artefact(
            "figure2",
            "bench",
            "scripts.figures.figure2:draw",
            "Peak memory of a step: the GPU's allocator, and apart from it the resident set on a"
            " CPU",
            files=(BENCHED, "paper/table4.csv"),
            commands=_STEPS,
            plan=_STEPS_PLAN,
        ),
        Artefact(
            "figure_real",
            "runs",
            "scripts.figures.figure_real:draw",
            "A real model on real rows: validation against forward passes",
            ("real",),
        ),
        Artefact(
            "figure_each",
            "runs",
            "scripts.figures.figure_each:draw",
            "Directions of each example's own: validation against forward passes",
            ("each",),
        ),
        Artefact(
            "figure_drift",
            "study",
            "scripts.figures.figure_drift:draw",
            "Drift of the weights at learning rate 0",
            files=_WALK_FILES,
            measured="drift and perplexity at learning rate 0",
            commands={"": ("scripts.study.drift $(ARGS)",)},
            plan="measured model by model by make run-figure_drift ARGS='--model DIR', minutes to"
            " hours",
        ),
        Artefact(
            "figure_gain",
            "runs",
            "scripts.figures.figure_gain:draw",
            "Gain of the posterior and sigma_e along BSZO's runs",
            ("table3", "figure1"),
            {"task": "sst2", "optimizer": "bszo", "fidelity": "corrected"},
        ),
        Artefact(
            "figure_theory",
            "study",
            "scripts.figures.figure_theory:draw",
            "BSZO's theorems against measurement",
            files=("measured/theory.json",),
            measured="Theorem 3.7, Eq. 55, Corollaries 3.6 and 4.3",
            commands={"": ("scripts.study.theory",)},
            plan=_IN_ONE_GO.format("figure_theory"),
        ),
        Artefact(
            "figure_estimators",
            "study",
            "scripts.figures.figure_estimators:draw",
            "Errors of the estimators P1 to P4 against central and forward differences",
            files=("measured/estimators.json",),
            measured="errors over the length, the type of the losses and the number of terms",
            commands={"": ("scripts.study.estimators",)},
            plan="measured in one go by make run-figure_estimators, seconds",
        ),
        Artefact(
            "figure_reward",
            "study",
            "scripts.figures.figure_reward:draw",
            "A tiny model that learns what a rule likes, without a derivative",
            files=("measured/reward.json",),
            measured="rewards over the steps of three seeds, and texts before and after",
            commands={"": ("scripts.study.reward $(ARGS)",)},
            plan="measured in one go by make run-figure_reward, two minutes",
        ),
    )
}
