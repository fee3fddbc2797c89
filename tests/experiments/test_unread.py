"""Switches that were typed and that the run does not read are said."""

from pathlib import Path

import pytest

from experiments.config.compose import composition
from experiments.config.unread import unread_of
from tests.experiments.conftest import Cli


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        ("optimizer=mezo fidelity.hizoo_smoothing=1e-8", ["fidelity.hizoo_smoothing"]),
        ("optimizer=hizoo fidelity.hizoo_smoothing=1e-8", []),
        ("optimizer=adamw precision.eps=1e-5", ["precision.eps"]),
        ("optimizer=mezo precision.eps=1e-5", []),
        # a value stands in its place: of the authors' code, or typed
        ("optimizer=mezo fidelity=official precision.eps=1e-5", ["precision.eps"]),
        ("optimizer=mezo optimizer.eps=1e-3 precision.eps=1e-5", ["precision.eps"]),
        # through the method below a hybrid's border, and by the code that builds a run
        ("optimizer=hybrid fidelity.perturbation=as-published", []),
        ("optimizer=sgd fidelity.label_words=official fidelity.train_rows=permuted", []),
    ],
)
def test_what_no_key_refers_to_is_unread(arguments: str, keys: list[str]):
    typed = arguments.split()
    assert unread_of(composition(typed), typed) == keys


def test_a_run_says_it(cli: Cli, tmp_path: Path):
    done = cli(
        f"paths.results={tmp_path}", "optimizer=adamw", "precision.eps=1e-5", "task.num_train=0"
    )
    assert "precision.eps: nothing in this run reads it" in done.err
