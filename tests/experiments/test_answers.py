"""`python -m experiments.answers`: the first test rows, answered before training and after it."""

from pathlib import Path

import pytest
import torch

from bszo.models import load_model
from experiments.answers import main
from experiments.config.compose import compose
from experiments.config.schema import parse
from experiments.training.build import build
from tests.experiments.runs import SMALL, configuration, make_model, run_here

TRAINED = ("optimizer=mezo", "optimizer.lr=0.3", "optimizer.eps=1e-2", "protocol.num_steps=30")


@pytest.fixture
def own(tmp_path: Path) -> list[str]:
    model = make_model(tmp_path / "model")
    return [f"model.path={model}", f"paths.results={tmp_path / 'out'}"]


def test_five_rows_before_and_after(
    own: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    """What stands in the table is what the two models choose, computed here from their scores."""
    torch.set_num_threads(1)
    weights = tmp_path / "weights"
    config = configuration(
        tmp_path / "model", tmp_path / "out", *TRAINED, f"checkpoint.weights={weights}"
    )
    record, _ = run_here(config)
    runs = tmp_path / "out" / "runs"
    monkeypatch.setenv("COLUMNS", "300")
    command = ["--runs", str(runs), "--weights", str(weights), *SMALL, *own]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["test", "row", "right", "before", "after", "x"]
    assert len(lines) == 6
    parts = build(parse(config))
    after = load_model(str(weights / record["signature"]), dtype="float32")
    words = ["terrible", "great"]
    for line, row in zip(lines[1:], parts.test, strict=False):
        best = [
            words[int(model.score_all([row], max_tokens=999)[0].argmax())]
            for model in (parts.model, after)
        ]
        assert line.split()[-3:] == [words[row.label], *best]


def test_written_answers_are_no_choices(
    own: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Such a row has one option, which is the right answer; the model would be said to pick it."""
    weights = tmp_path / "weights"
    asked = [*own, "task=squad", f"checkpoint.weights={weights}"]
    config = compose([*SMALL, *asked, "optimizer=mezo", "protocol.num_steps=1"])
    run_here(config)
    runs = tmp_path / "out" / "runs"
    command = ["--runs", str(runs), "--weights", str(weights), *SMALL, *own, "task=squad"]
    assert main(command) == 1
    assert "task=squad: its answers are written, and this table" in capsys.readouterr().err


def test_what_cannot_be_shown_is_one_line(
    own: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    weights = tmp_path / "weights"
    command = ["--runs", str(tmp_path), "--weights", str(weights), *SMALL, *own]
    assert main(command) == 1
    assert "no weights; runs leave them with checkpoint.weights=" in capsys.readouterr().err
    (weights / "0123456789abcdef").mkdir(parents=True)
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "no record of the run 0123456789abcdef" in said and said.count("\n") == 1
