"""Values that no run can have, Python objects that no configuration may name, names that are
paths."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from experiments import CONF
from experiments.config import compose as composing
from experiments.run import main
from tests.experiments.conftest import Cli, cli  # noqa: F401 (a fixture)

Refused = Callable[..., str]
BIG = str(10**30)


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        (f"seed={BIG}", "at most 64 bits"),
        (f"data.seed=-{BIG}", "at most 64 bits"),
        ("threads=1000000000", "1 to 1024"),
        ("protocol.num_steps=-1", "at least 0"),
        ("protocol.num_steps=1e3", "valid integer"),
        ("optimizer.lr=1e999", "finite number"),
        ("optimizer.lr=-1", "optimizer.lr=-1"),
        ("optimizer.eps=0", "optimizer.eps=0"),
        ("optimizer.num_directions=-1", "at least 1"),
        ("data.num_train=1000000000000", "at most 100000"),
        ("data.num_train=-1", "must be 0 or more"),
        ("data.num_test=0", "test split is empty"),
        ("model.max_length=-5", "at least 2"),
        ("parallel.timeout_seconds=-1", "more than 0"),
        ("task.name=../x", "not a plain name"),
        ("task.splits.train=../../etc/x", "not a plain name"),
        ("task.hub.path=../../etc", "not a name on the hub"),
        ("+task.hub.revision=../../x", "not a name on the hub"),
        ("task.masked.prompt='{sentence.__class__} <mask>'", "must be a column"),
        ("task.masked.prompt='{0} <mask>'", "must be a column"),
        ("paths.results=''", "must be a folder"),
        ("paths.results=/proc/none", "cannot be written"),
        ("paths.runs=/proc/none", "cannot be written"),
        ("paths.results=/etc/passwd/x", "cannot be written"),
        ("checkpoint.weights=/proc/none", "checkpoint.weights=/proc/none: cannot be written"),
        ("checkpoint.weights='~nosuchuser/x'", "checkpoint.weights=~nosuchuser/x"),
        ("tracker.project='a\0b'", "without NUL"),
        ("tracker.project='\udcff'", "without NUL"),
        ("+optimizer.trust_remote_code=true", "no such key"),
        ("+model.trust_remote_code=true", "no such key"),
        ("optimizer._target_=bszo.trajectory.TrajectoryWriter", "only bszo's own"),
        ("optimizer._target_=bszo.ZerothOrderOptimizer", "only bszo's own"),
        ("data._target_=bszo.tasks.read_jsonl", "only bszo's own"),
        ("model._target_=torch.load", "only bszo's own"),
        ("task._target_=subprocess.run", "only bszo's own"),
        ("+hydra.callbacks.x._target_=os.system", "hydra.callbacks: must be empty"),
        ("+hydra.job.env_set.PATH=/x", "hydra.job.env_set: must be empty"),
        ("hydra.job_logging.handlers.console.class=os.system", "must be one of logging"),
        ("hydra.job_logging.handlers.console.stream=ext://os.environ", "must be one of ext"),
        ("hydra.launcher._target_=os.system", "must be a plugin"),
        ("--experimental-rerun=x.pickle", "reads a pickle"),
    ],
)
def test_one_line_and_no_file(refused: Refused, argument: str, says: str):
    assert says in refused(argument)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("tracker=wandb", "tracker.project=../../x"), "W&B cannot begin"),
        (("tracker=wandb", "paths.wandb=/proc/none"), "W&B cannot begin"),
        (("optimizer=adamw", "~optimizer.algorithm"), "optimizer.algorithm: this key is missing"),
        (("optimizer=adamw", "optimizer.algorithm.lr=-1"), "Invalid learning rate"),
        (("optimizer=adamw", "checkpoint=trajectory"), "true gradients"),
        (("model=local", "model.path='~nosuchuser/x'"), "model.path=~nosuchuser/x"),
        (("model=local", "model.path=asset:../../.."), "not one of this package's"),
        (("model=local", "model.path=../../../etc"), "no config.json"),
        (("data=local", "data.root='~nosuchuser/x'"), "data.root=~nosuchuser/x"),
    ],
)
def test_choices_that_cannot_go_together(refused: Refused, arguments: tuple[str, ...], says: str):
    assert says in refused(*arguments)


def test_a_sweep_s_folder_that_cannot_be_made(cli: Cli):  # noqa: F811
    done = cli(
        "--multirun", "protocol=smoke", "tracker=none", "seed=0,1", "paths.results=/proc/none"
    )
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert done.err.startswith("/proc/none: cannot be written (")


@pytest.mark.parametrize("where", ["hydra", "optimizer", "nested"])
def test_a_shared_file_runs_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], where: str
):
    """A YAML file that someone sends, found by --config-dir: what it names would leave a file."""
    witness, shared = tmp_path / "witness", tmp_path / "shared" / "optimizer"
    shared.mkdir(parents=True)
    evil = (
        f"{{_target_: pathlib.Path.touch, self: {{_target_: pathlib.Path, _args_: [{witness}]}}}}"
    )
    text = {
        "hydra": f"# @package _global_\nhydra: {{callbacks: {{x: {evil}}}}}\n",
        "optimizer": (
            f"_target_: pathlib.Path.touch\nself: {{_target_: pathlib.Path, _args_: [{witness}]}}\n"
        ),
        "nested": f"_target_: bszo.FirstOrder\n_partial_: true\nalgorithm: {evil}\n",
    }[where]
    (shared / "shared.yaml").write_text(text)
    arguments = [
        f"--config-dir={tmp_path / 'shared'}",
        "optimizer=shared",
        f"paths.results={tmp_path / 'r'}",
    ]
    monkeypatch.setattr(sys, "argv", ["experiments/run.py", *arguments])
    GlobalHydra.instance().clear()
    with pytest.raises(SystemExit) as end:
        main()
    GlobalHydra.instance().clear()
    assert end.value.code == 1
    assert len(capfd.readouterr().err.strip().splitlines()) == 1
    assert not witness.exists()


def test_what_this_project_configures_of_hydra_passes():
    for line in (CONF / "hydra" / "quiet.yaml").read_text().splitlines():
        assert "_target_" not in line
    # outside a run, Hydra is as it was
    assert composing.MAIN.ConfigLoaderImpl is not composing.CheckedLoader
