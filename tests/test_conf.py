"""Every configuration file composes, fits the signatures that it configures, and holds no second
default."""

import inspect
import itertools
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from experiments import CONF
from experiments.config.compose import compose, composition
from experiments.config.schema import SUPPLIED, RunConfig, parse
from experiments.config.typed import locate
from experiments.records.signing import scientific
from tests.compositions import OPTIMIZERS, few_probes, with_files

GROUPS = sorted(
    folder.name
    for folder in CONF.iterdir()
    if folder.is_dir() and folder.name not in ("hydra", "rates", "sweep", "tuned")
)
CHOICES = [(group, file.stem) for group in GROUPS for file in sorted((CONF / group).glob("*.yaml"))]
OTHERS = [choice for choice in CHOICES if choice[0] != "optimizer"]  # these are built, below
FIDELITIES = sorted(file.stem for file in (CONF / "fidelity").glob("*.yaml"))
TUNED = sorted((CONF / "tuned").glob("*/*.yaml"))


# choices that need something beside them
NEEDING = {
    "model=local": ("model.path=x",),
    "data=local": ("data.root=x",),
    "tuning=scales": ("model.quantization=nf4",),
    "tuning=in-context": ("protocol=zero-shot",),
    "tuning=zero-shot": ("protocol=zero-shot",),
}


def _together() -> list[tuple[str, ...]]:
    """Every choice of every group but optimizers in some composition: alone with what it needs, or
    beside one of each other group, for Hydra takes as long for one."""
    plain = [
        [f"{group}={choice}" for group, choice in OTHERS if group == of]
        for of in dict.fromkeys(group for group, _ in OTHERS)
    ]
    free = [[choice for choice in choices if choice not in NEEDING] for choices in plain]
    rounds = itertools.zip_longest(*free)
    beside = [tuple(choice for choice in found if choice is not None) for found in rounds]
    return [*beside, *((choice, *needs) for choice, needs in NEEDING.items())]


def composed(*overrides: str) -> dict[str, Any]:
    return compose(overrides)


def raw(path: Path) -> dict[str, Any]:
    plain = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


@cache
def with_fidelity(optimizer: str, fidelity: str) -> dict[str, Any]:
    return with_files(f"optimizer={optimizer}", "seed=5", fidelity=fidelity)


def test_no_file_sets_hydra_s_mode():
    """Hydra composes all twice, once for the mode alone, which `cli` spares the tests."""
    assert composition([], with_hydra=True).hydra.mode is None


def test_the_issue_s_choices_are_there():
    assert {"adamw", "bszo", "bszo-b", "hizoo", "lozo", "mezo", "mezo-adam"} <= set(OPTIMIZERS)
    assert set(FIDELITIES) == {"official", "paper", "corrected"}
    names = {f"{group}={choice}" for group, choice in CHOICES}
    assert {
        "protocol=paper",
        "protocol=mini",
        "protocol=smoke",
        "precision=bf16",
        "tracker=none",
    } <= names
    assert {
        f"task={task}" for task in ("sst2", "rte", "cb", "copa", "wic", "wsc", "trec", "boolq")
    } <= names
    assert {
        "data=hub",
        "data=local",
        "data=mini",
        "tuning=full",
        "model=local",
        "model=opt-13b",
    } <= names


@pytest.mark.parametrize("choices", _together(), ids=" ".join)
def test_every_choice_composes_and_fits_its_signature(choices: tuple[str, ...]):
    assert isinstance(parse(composed(*choices)), RunConfig)


def test_every_choice_is_composed():
    composed_there = {choice for choices in _together() for choice in choices}
    assert composed_there >= {f"{group}={choice}" for group, choice in OTHERS}


def test_a_choice_is_the_node_of_its_name():
    """What tests/compositions.py stands on."""
    for fidelity in FIDELITIES:
        plain = composed("optimizer=lozo", f"fidelity={fidelity}", "seed=5")
        assert plain == with_fidelity("lozo", fidelity)
        other = with_files("seed=5", f"fidelity={fidelity}", optimizer="lozo")
        other["optimizer"]["lr"] = plain["optimizer"]["lr"]  # conf/tuned has one
        assert plain == other


def one_step(node: dict[str, Any]) -> tuple[float, bool]:
    """The loss of the first step of an optimizer, and whether a parameter has moved."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    before = [parameter.detach().clone() for parameter in module.parameters()]
    built: Any = instantiate(node, _convert_="all")(list(module.parameters()), module=module)
    for part in built.param_groups:
        part["lr"] = 1.0  # a step that no rounding swallows, though n / 1e6 is small here
    x, zeros = torch.randn(8, 4), torch.zeros(8, dtype=torch.long)
    reduction = "none" if built.per_example else "mean"
    loss = built.step(lambda: nn.functional.cross_entropy(module(x), zeros, reduction=reduction))
    assert isinstance(built, torch.optim.Optimizer)
    pairs = zip(before, module.parameters(), strict=True)
    return float(loss), any(not torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_composes_builds_and_steps(optimizer: str):
    for fidelity in FIDELITIES:
        config = with_fidelity(optimizer, fidelity)
        assert isinstance(parse(config), RunConfig)
        loss, moved = one_step(few_probes(config["optimizer"]))
        assert loss > 0 and moved, fidelity


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_optimizer_file_is_its_constructor_s_arguments(optimizer: str):
    node = raw(CONF / "optimizer" / f"{optimizer}.yaml")
    signature = inspect.signature(locate(node.pop("_target_"), "optimizer")).parameters
    assert node.pop("_partial_") is True
    assert set(node) == set(signature) - set(SUPPLIED["optimizer"])
    # the same number twice is a second default: a file says the constructor's, or refers to a named
    # switch
    differs = {
        name: value
        for name, value in node.items()
        if not str(value).startswith("${")
        and not isinstance(value, dict)
        and (tuple(value) if isinstance(value, list) else value) != signature[name].default
    }
    meant = {"bszo-b": {"reuse_observations": False}, "hybrid": {"weight_decay": 0.0}}
    assert differs == meant.get(optimizer, {})
    assert node["seed"] == "${seed}"


@pytest.mark.parametrize("path", TUNED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_tuned_file_sets_the_rate_of_a_pair_that_exists(path: Path):
    """By precision and task where it was chosen so, one for all where not."""
    assert path.parent.name in OPTIMIZERS
    assert ("model", path.stem) in CHOICES
    assert path.read_text().startswith("# @package _global_\n")
    plain = raw(path)
    node = plain["optimizer"].get("algorithm", plain["optimizer"])
    assert set(plain) <= {"optimizer", "rates"} and list(node) == ["lr"]
    chosen = [
        (dtype, task, rate)
        for dtype, tasks in plain.get("rates", {}).items()
        for task, rate in tasks.items()
    ]
    config = composition([f"optimizer={path.parent.name}", f"model={path.stem}"])

    def used(dtype: str, task: str) -> float:
        config.precision.dtype, config.task.name = dtype, task
        return config.optimizer.get("algorithm", config.optimizer).lr

    for dtype, task, rate in chosen or [("float32", "sst2", node["lr"])]:
        assert used(dtype, task) == rate
    assert used("float32", "multirc") > 0  # never chosen: a number all the same


def test_the_command_line_wins_over_a_tuned_rate():
    assert composed("optimizer=mezo", "optimizer.lr=0.5")["optimizer"]["lr"] == 0.5


def test_the_paper_s_set_up():
    config = parse(composed("protocol=paper", "optimizer=bszo"))
    protocol, optimizer = config.protocol, config.optimizer
    assert (protocol.num_steps, protocol.batch_size, protocol.eval_every, protocol.patience) == (
        20_000,
        16,
        500,
        8,
    )
    assert (optimizer["eps"], optimizer["k"], optimizer["m"], optimizer["noise_ema"]) == (
        1e-4,
        2,
        3,
        0.1,
    )
    assert protocol.lr_schedule == "constant"
    lozo = composed("optimizer=lozo")["optimizer"]
    assert (lozo["rank"], lozo["interval"], lozo["eps"]) == (2, 50, 1e-4)


@pytest.mark.parametrize(
    ("fidelity", "bszo", "bszo_b", "lozo", "smoothing", "state"),
    [
        ("official", ("always", 0.1), "always", ("as-run", "none"), 1e-8, "parameter"),
        ("paper", ("beyond-k", 0.0), "always", ("same", "1/r"), 1e-8, "float32"),
        ("corrected", ("always", 0.1), "always", ("same", "1/r"), 1e-10, "float32"),
    ],
)
def test_switches_reach_the_optimizers(
    fidelity: str, bszo: Any, bszo_b: str, lozo: Any, smoothing: float, state: str
):
    def chosen(optimizer: str) -> dict[str, Any]:
        return with_fidelity(optimizer, fidelity)["optimizer"]

    assert (chosen("bszo")["adapt_noise"], chosen("bszo")["noise_floor"]) == bszo
    assert chosen("bszo-b")["adapt_noise"] == bszo_b
    assert (chosen("lozo")["redraw_stream"], chosen("lozo")["scale"]) == lozo
    assert chosen("hizoo")["smoothing"] == smoothing
    assert chosen("hizoo")["state_dtype"] == chosen("mezo-adam")["state_dtype"] == state
    walk = "exact" if fidelity == "corrected" else "as-published"
    assert {chosen(name).get("perturbation", walk) for name in OPTIMIZERS} == {walk}
    assert chosen("zo-sgd-sign")["sign"] == ("scalar" if fidelity == "official" else "element")
    as_run = fidelity == "official"
    assert chosen("loren")["score"] == ("as-run" if as_run else "unscaled")
    assert chosen("loren")["updates"] == ("each-probe" if as_run else "once")
    ldsd, cone = chosen("zo-ldsd"), chosen("conmezo")
    assert ldsd["mean_noise"] == ("fresh" if as_run else "evaluated")
    assert ldsd["plus_side"] == ("again" if as_run else "kept")
    assert (cone["start"], cone["warmup"]) == (("noise", "as-run") if as_run else ("zero", "none"))
    assert chosen("agzo")["scale"] == ("gaussian" if fidelity == "corrected" else "none")
    assert chosen("subzero")["scale"] == ("none" if fidelity == "paper" else "sqrt(mn)/r")


def test_results_move_with_one_key():
    paths = composed("paths.results=elsewhere")["paths"]
    assert paths == {"results": "elsewhere", "runs": "elsewhere/runs", "wandb": "elsewhere"}


@pytest.mark.parametrize(
    ("overrides", "eps"),
    [
        (["optimizer=bszo"], 1e-4),
        (["optimizer=bszo", "precision=bf16"], 1e-3),
        (["optimizer=mezo", "precision=fp16"], 1e-3),
        (["optimizer=mezo", "precision=bf16", "fidelity=official"], 1e-4),
        (["optimizer=mezo", "precision=bf16", "fidelity=paper"], 1e-4),
        (["optimizer=mezo", "precision=bf16", "optimizer.eps=1e-4"], 1e-4),
        (["optimizer=mezo-each"], 1e-3),
    ],
)
def test_eps_is_larger_in_16_bits_unless_the_paper_is_run(overrides: list[str], eps: float):
    config = compose(overrides)
    assert config["optimizer"]["eps"] == eps
    assert "eps" not in scientific(config)["precision"] | scientific(config)["fidelity"]
