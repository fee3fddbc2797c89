"""The command's range test is the library's on a run's own batches, and what is wrong is one
line."""

from pathlib import Path

import pytest
import torch

from bszo import find_lr
from bszo.models import weights_fingerprint
from bszo.tasks import batches
from experiments.config.schema import parse
from experiments.find_lr import main
from experiments.training.build import build
from tests.experiments.runs import SMALL, configuration, make_model

FEW = ("--steps", "2", "--repeats", "2", "--held", "6")


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("made")
    return [*SMALL, f"model.path={make_model(folder)}", "optimizer=mezo"]


def test_it_is_the_library_s_on_the_batches_that_the_run_begins_with(
    overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = next(o for o in overrides if o.startswith("model.path=")).partition("=")[2]
    run = parse(configuration(Path(path), tmp_path, "optimizer=mezo"))
    parts = build(run)
    weights = weights_fingerprint(parts.model.module)

    def closure(indices: list[int], rows: list):
        batch = parts.model.collate([rows[index] for index in indices])
        return lambda: parts.model.loss(batch)

    drawn = torch.randperm(
        len(parts.validation), generator=torch.Generator().manual_seed(run.seed)
    ).tolist()
    order = batches(len(parts.train), 4, run.seed)  # protocol=smoke has batches of 4
    found = find_lr(
        parts.optimizer,
        [closure(next(order), parts.train) for _ in range(4)],
        held=[closure(sorted(drawn[:4]), parts.validation)],  # 6 are asked for: one whole batch
        rates=[1e-3, 1e-2],
        steps=2,
        repeats=2,
    )
    assert weights_fingerprint(parts.model.module) == weights

    out = tmp_path / "plots" / "rates.png"
    code = main([*overrides, "--rates", "1e-3,1e-2", *FEW, "--out", str(out)])
    title, *table, spent = capsys.readouterr().out.splitlines()
    assert code == (2 if found.lr is None else 0)
    assert title == f"sst2, {Path(path).name}, MeZO: 2 x 2 steps at each rate"
    assert [row.removesuffix(" <") for row in str(found).splitlines()] == table
    assert spent.startswith(f"{found.num_forwards} forward passes, ") and str(out) in spent
    assert found.num_forwards == 1 + 2 * 2 * (2 * 2 + 1)
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--rates", "1e-3,fast"], "--rates 1e-3,fast: numbers with commas between are valid"),
        (["--rates", "0"], "rates: 0.0 is none; positive, finite numbers are valid"),
        (["--held", "0"], "--held 0: one row or more is valid"),
        (["--repeats", "1"], "repeats=1: a whole number, 2 or more, is valid"),
        (["optimizer.lr=0"], "optimizer: lr is 0 in every group; a positive one is valid"),
        (["optimizer.lrate=1"], "optimizer.lrate"),
    ],
)
def test_what_is_wrong_is_one_line_and_leaves_no_file(
    arguments: list[str],
    line: str,
    overrides: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    out = tmp_path / "rates.png"
    more = [] if "--repeats" in arguments else ["--repeats", "2"]
    assert main([*overrides, "--steps", "1", *more, *arguments, "--out", str(out)]) == 1
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and error[0].startswith(line)
    assert not out.exists()
