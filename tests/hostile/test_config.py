"""Values that no run can have, Python objects that no configuration may name, names that are
paths."""

from collections.abc import Callable
from pathlib import Path

import pytest

from experiments import CONF
from experiments.config.compose import composition
from tests.experiments.conftest import Cli

Refused = Callable[..., str]
BIG = str(10**30)
# each takes the way of another case in the test below
ALIKE = [
    (f"data.seed=-{BIG}", "at most 64 bits"),
    ("optimizer.lr=-1", "optimizer.lr=-1"),
    ("tracker.project='\udcff'", "without NUL"),
    ("+model.trust_remote_code=true", "no such key"),
    ("optimizer._target_=bszo.ZerothOrderOptimizer", "only bszo's own"),
    ("data._target_=bszo.tasks.read_jsonl", "only bszo's own"),
    ("task._target_=subprocess.run", "only bszo's own"),
    ("hydra.job_logging.handlers.console.class=logging.FileHandler", "logging.NullHandler"),
    ("+task.hub.revision=../../x", "not a name on the hub"),
    ("task.masked.prompt='{0} <mask>'", "task.columns has sentence"),
]


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        (f"seed={BIG}", "at most 64 bits"),
        ("threads=1000000000", "1 to 1024"),
        ("task.version=${oc.env:HOME}", "a record would show the variable's value"),
        ("+task.lookup.sentence.x='a ${oc.decode:${oc.env:PATH}}'", "a record would show"),
        ("protocol.num_steps=-1", "at least 0"),
        ("protocol.num_steps=1e3", "valid integer"),
        ("optimizer.lr=1e999", "finite number"),
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
        ("task.masked.prompt='{sentence.__class__} <mask>'", "task.columns has sentence"),
        ("paths.results=''", "must be a folder"),
        ("paths.results=/proc/none", "cannot be written"),
        ("paths.runs=/proc/none", "cannot be written"),
        ("paths.results=/etc/passwd/x", "cannot be written"),
        ("checkpoint.weights=/proc/none", "checkpoint.weights=/proc/none: cannot be written"),
        ("checkpoint.weights='~nosuchuser/x'", "checkpoint.weights=~nosuchuser/x"),
        ("tracker.project='a\0b'", "without NUL"),
        ("+optimizer.trust_remote_code=true", "no such key"),
        ("optimizer._target_=bszo.trajectory.TrajectoryWriter", "only bszo's own"),
        ("model._target_=torch.load", "only bszo's own"),
        ("+hydra.callbacks.x._target_=os.system", "hydra.callbacks: must be empty"),
        ("+hydra.job.env_set.PATH=/x", "hydra.job.env_set: must be empty"),
        ("hydra.job_logging.handlers.console.class=os.system", "must be one of logging"),
        ("hydra/job_logging=default", "handlers.file.class='logging.FileHandler': must be one"),
        ("hydra.job_logging.handlers.console.stream=ext://os.environ", "must be one of ext"),
        ("hydra.launcher._target_=os.system", "must be a plugin"),
        ("hydra.verbose=3.5", "hydra.verbose=3.5: true, false, a logger's name or a list"),
        ("hydra.job_logging.root.level=LOUD", "Unable to configure root logger (Unknown level:"),
        ("--experimental-rerun=x.pickle", "reads a pickle"),
        *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in ALIKE),
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


def test_a_sweep_s_folder_that_cannot_be_made(cli: Cli):
    done = cli(
        "--multirun", "protocol=smoke", "tracker=none", "seed=0,1", "paths.results=/proc/none"
    )
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert done.err.startswith("/proc/none: cannot be written (")


EVIL = "{_target_: pathlib.Path.touch, self: {_target_: pathlib.Path, _args_: [WITNESS]}}"
LOG = "{class: logging.FileHandler, filename: WITNESS, formatter: simple}"
GLOBAL = "# @package _global_\n"
# what a file `optimizer/shared.yaml` may hold -> the part of it that is refused
SHARED = {
    "callback": (f"{GLOBAL}hydra: {{callbacks: {{x: {EVIL}}}}}\n", "hydra"),
    "log file": (f"{GLOBAL}hydra: {{job_logging: {{handlers: {{console: {LOG}}}}}}}\n", "hydra"),
    "log file, of Hydra": (
        f"{GLOBAL}hydra:\n  hydra_logging: {{handlers: {{a: {LOG}}}}}\n",
        "hydra",
    ),
    "folder of a sweep": (f"{GLOBAL}hydra: {{sweep: {{dir: WITNESS}}}}\n", "hydra"),
    "package": ("# @package hydra.job\nenv_set: {PATH: WITNESS}\n", "hydra.job"),
    "package from the root": ("# @package _global_.hydra.job\nenv_set: {A: b}\n", "hydra.job"),
    "launcher": (f"{GLOBAL}defaults:\n  - override /hydra/launcher: slurm\n", "/hydra/launcher"),
    "launcher as a file": (f"{GLOBAL}defaults:\n  - /hydra/launcher/slurm\n", "/hydra/launcher"),
    "file put at hydra": ("defaults:\n  - /task/sst2@_global_.hydra.job\n", "_global_.hydra.job"),
    "file named by a choice": ("defaults:\n  - /${model}\n", "/${model}"),
    "merge": (f"{GLOBAL}a: &a {{hydra: {{job: {{name: x}}}}}}\n<<: *a\n", "hydra"),
    "target": ("_target_: pathlib.Path.touch\nself: {_target_: pathlib.Path}\n", "_target_"),
    "nested target": (
        f"_target_: bszo.FirstOrder\n_partial_: true\nalgorithm: {EVIL}\n",
        "_target_",
    ),
}


@pytest.mark.parametrize(
    ("what", "multirun"),
    [*((what, False) for what in SHARED), ("callback", True), ("log file", True)],
)
def test_a_shared_file_runs_no_code_and_writes_no_file(
    tmp_path: Path, cli: Cli, what: str, multirun: bool
):
    """A YAML file that someone sends, found by --config-dir: what it names would leave a file."""
    text, refused = SHARED[what]
    witness, shared = tmp_path / "witness", tmp_path / "shared" / "optimizer"
    shared.mkdir(parents=True)
    (shared / "shared.yaml").write_text(text.replace("WITNESS", str(witness)))
    both = ("--multirun", "optimizer=mezo,shared") if multirun else ("optimizer=shared",)
    results = f"paths.results={tmp_path / 'r'}"
    small = ("protocol=smoke", "tracker=none", "task.num_train=16", "task.num_validation=8")
    done = cli(f"--config-dir={tmp_path / 'shared'}", *both, results, *small)
    lines = [line for line in done.err.splitlines() if refused in line]
    assert done.code == 1 and lines, done.err
    assert multirun or len(done.err.splitlines()) == 1
    assert not witness.exists()


def test_a_folder_of_one_s_own_adds_no_launcher(tmp_path: Path, cli: Cli):
    """Not even the default one, whose file Hydra itself has in no folder."""
    for name in ("basic", "mine"):
        file = tmp_path / "hydra" / "launcher" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("_target_: hydra_plugins.processes_launcher.ProcessesLauncher\n")
    for argument in ("protocol=smoke", "hydra/launcher=mine"):
        done = cli(f"--config-dir={tmp_path}", argument, f"paths.results={tmp_path / 'r'}")
        assert (done.code, done.err.count("\n")) == (1, 1)
        assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--config-path=FOLDER",),
        ("-cp", "FOLDER"),
        ("--config-di=FOLDER",),
        ("hydra.searchpath=[FOLDER]",),
        ("+task@hydra.callbacks=sst2",),
        ("--config-dir",),
    ],
)
def test_no_other_way_to_a_folder_of_one_s_own(
    tmp_path: Path, refused: Refused, arguments: tuple[str, ...]
):
    given = [argument.replace("FOLDER", str(tmp_path)) for argument in arguments]
    assert "--config-dir" in refused(*given)


def test_conf_itself_may_configure_hydra_and_nothing_here_is_hydra_s_own():
    """Public parts of Hydra alone: what is not public is the first to break at an upgrade."""
    for folder in ("experiments", "hydra_plugins"):
        for file in (CONF.parent / folder).rglob("*.py"):
            assert "hydra._internal" not in file.read_text().replace('"hydra._internal', "")
    config = composition(["hydra/launcher=slurm", "hydra.launcher.setup=[module load cuda]"])
    assert "hydra" not in config
