"""What trains, from the command line to the record: every scheme, zero-shot, in-context, and what
is refused."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bszo.errors import ConfigError
from bszo.models import (
    EachLoss,
    ProbedModel,
    load_model,
    load_probe,
    saved,
    tuning,
    weights_fingerprint,
)
from bszo.tasks import Example
from bszo.trajectory import read
from experiments.records.signing import signature
from experiments.replay import main as replay
from experiments.training.build import make_optimizer
from tests.compositions import OPTIMIZERS, few_probes, with_files
from tests.experiments.conftest import Cli
from tests.experiments.runs import configuration
from tests.squares import square

SMALL = (
    "data=mini",
    "data.num_train=40",
    "data.num_test=12",
    "task.num_train=16",
    "task.num_validation=12",
    "tracker=none",
    "tracker.progress=never",
    "protocol=smoke",
    "device=cpu",
)
TRAINED = {  # in tiny-mistral: 3 layers, hidden 64, 2 of 4 heads for keys and values
    "lora": 3 * (8 * 64 + 64 * 8 + 8 * 64 + 32 * 8),
    "prefix": 5 * 3 * 2 * 32,
    "prompt": 10 * 64,
    "linear-probe": 2 * 64 + 2,
}
EXAMPLES = [
    Example("x:0", "the movie was", (" great", " terrible"), 1),
    Example("x:1", "It was", (" great", " terrible"), 0),
]
Runs = Callable[[], list[dict[str, Any]]]


@pytest.mark.parametrize("scheme", sorted(TRAINED))
def test_a_run_trains_the_scheme_s_parameters_and_its_log_gives_them_again(
    scheme: str, cli: Cli, runs: Runs, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    made, replayed = tmp_path / "made", tmp_path / "replayed"
    arguments = (
        *SMALL,
        "model=tiny-mistral",
        f"tuning={scheme}",
        "optimizer=mezo",
        "optimizer.lr=1e-2",
        "seed=3",
        "checkpoint=trajectory",
        f"paths.results={tmp_path}",
        f"checkpoint.weights={made}",
    )
    assert cli(*arguments).code == 0
    (record,) = runs()
    assert record["model"]["num_parameters"] == TRAINED[scheme]
    assert record["config"]["tuning"]["method"] == record["choices"]["tuning"] == scheme
    folder = made / record["signature"]
    if scheme == "linear-probe":
        file = folder / "probe.safetensors"
    else:
        back = saved.load_tuned(load_model("asset:tiny-mistral", dtype="float32"), folder)
        trained = [p for p in back.module.parameters() if p.requires_grad]
        assert sum(p.numel() for p in trained) == TRAINED[scheme]
        (file,) = folder.glob("*model.safetensors")
    (log,) = (tmp_path / "trajectories").glob("*.bszo")
    assert read(log).finished and len(read(log).steps) == record["num_steps"]
    assert not any((tmp_path / "checkpoints").iterdir())
    capfd.readouterr()
    to = ("--to", str(record["best_step"]), "--out", str(replayed))
    assert replay([str(log), "--base", "asset:tiny-mistral", *to]) == 0
    assert capfd.readouterr().err == ""
    found, wanted = load_file(replayed / file.name), load_file(file)
    assert found.keys() == wanted.keys() and all(
        torch.equal(found[name], wanted[name]) for name in found
    )


def test_a_run_of_named_parameters_moves_them_alone_and_its_log_gives_them_again(
    cli: Cli, runs: Runs, tmp_path: Path
):
    made, replayed = tmp_path / "made", tmp_path / "replayed"
    arguments = (
        *SMALL,
        "model=tiny-mistral",
        "tuning=named",
        "tuning.parameters=['*.q_proj.weight','*norm.weight']",
        "optimizer=bszo",
        "optimizer.lr=1e-2",
        "checkpoint=trajectory",
        f"paths.results={tmp_path}",
        f"checkpoint.weights={made}",
    )
    assert cli(*arguments).code == 0
    (record,) = runs()
    assert record["choices"]["tuning"] == "named"
    assert record["config"]["tuning"]["parameters"] == ["*.q_proj.weight", "*norm.weight"]
    assert record["model"]["num_parameters"] == 3 * 64 * 64 + 7 * 64
    before = load_model("asset:tiny-mistral", dtype="float32").module.state_dict()
    after = load_file(made / record["signature"] / "model.safetensors")
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {n for n in after if n.endswith(("q_proj.weight", "norm.weight"))}
    (log,) = (tmp_path / "trajectories").glob("*.bszo")
    to = ("--to", str(record["best_step"]), "--out", str(replayed))
    assert replay([str(log), "--base", "asset:tiny-mistral", *to]) == 0
    again = load_file(replayed / "model.safetensors")
    assert all(torch.equal(again[name], after[name]) for name in after)


BLOCKS = "no trainable parameter lies in the 3 modules of"
LAYERS = "no trainable parameter is the weight of a linear layer alone"
# methods that move some parameters only: where those train, and what is said where none does
WHERE = {
    "hybrid": (("full", "lora"), BLOCKS),
    "mezo-bcd": (("full", "lora"), BLOCKS),
    "mezo-each": (("full", "lora", "linear-probe"), LAYERS),
    "bszo-each": (("full", "lora", "linear-probe"), LAYERS),
}


# a scheme with every second method; every method meets schemes of either kind
@pytest.mark.parametrize(("scheme", "half"), square(["full", *sorted(TRAINED)], range(2)))
def test_every_method_trains_every_scheme(scheme: str, half: int):
    """Or says that no block holds what trains."""
    base = load_model("asset:tiny-mistral", dtype="float32")
    for name in OPTIMIZERS[half::2]:
        node = few_probes(with_files("seed=1", optimizer=name)["optimizer"])
        model: Any = copy.deepcopy(base)
        if scheme != "full":
            model = (
                ProbedModel(model, 2)
                if scheme == "linear-probe"
                else getattr(tuning, scheme)(model)
            )
        if scheme == "lora":  # the gradient of A is 0 where B is
            for parameter in model.module.parameters():
                parameter.data += 0.01 * parameter.requires_grad
        batch = model.collate(model.encode(EXAMPLES))
        before = {key: p.detach().clone() for key, p in model.module.named_parameters()}
        schemes, refusal = WHERE.get(name, ((scheme,), ""))
        if scheme not in schemes:
            with pytest.raises(ConfigError, match=refusal):
                make_optimizer(node, model)
            continue
        optimizer: Any = make_optimizer(node, model)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2
        closure: Any = lambda m=model, b=batch: m.loss(b)  # noqa: E731
        if optimizer.per_example:
            closure = EachLoss(model, batch)
        loss = float(optimizer.step(closure))
        moved = {
            key for key, p in model.module.named_parameters() if not torch.equal(p, before[key])
        }
        trained = {key for key, p in model.module.named_parameters() if p.requires_grad}
        some = name in ("mezo-bcd", "mezo-each", "bszo-each")
        assert moved and (moved <= trained if some else moved == trained), name
        assert float(optimizer.step(closure)) != loss, name


def test_what_an_earlier_run_did_not_leave_is_said(cli: Cli, tmp_path: Path):
    arguments = (*SMALL, "optimizer=mezo", f"paths.results={tmp_path}")
    assert cli(*arguments).code == 0
    again = cli(*arguments, "checkpoint=trajectory", f"checkpoint.weights={tmp_path / 'kept'}")
    assert again.code == 0
    assert again.err.count("the earlier run left none; move its record away to run it again") == 2


def test_full_tuning_keeps_the_signature_of_its_records(tmp_path: Path):
    config = configuration(tmp_path, tmp_path)
    assert config["tuning"] == {"method": "full"}
    # where weights are kept moves no number
    assert signature(config) == signature({**config, "checkpoint": {}})


def test_zero_shot_and_in_context_train_nothing(cli: Cli, runs: Runs, tmp_path: Path):
    for choice in (("tuning=zero-shot",), ("tuning=in-context", "tuning.num_shots=3")):
        extra = (
            "model=tiny-opt",
            "protocol=zero-shot",
            "protocol.max_eval_examples=12",
            f"paths.results={tmp_path}",
        )
        assert cli(*SMALL, *choice, *extra).code == 0
    records = runs()
    assert len(records) == 2 and len({r["signature"] for r in records}) == 2
    for record in records:
        assert (record["num_steps"], record["num_forwards"], record["test_accuracy"]) == (
            0,
            0,
            None,
        )
        assert 0 <= record["zero_shot_accuracy"] <= 1


def test_prompts_that_are_cut_are_said(cli: Cli, runs: Runs, tmp_path: Path):
    """28 rows do not fit in front of one in a model of 256 positions."""
    choice = ("tuning=in-context", "tuning.num_shots=28", "model=tiny-opt", "protocol=zero-shot")
    done = cli(
        *SMALL,
        *choice,
        "task.num_train=28",
        "protocol.max_eval_examples=12",
        f"paths.results={tmp_path}",
    )
    (record,) = runs()
    cut, count = (record["data"][key]["test"] for key in ("num_truncated", "num_examples"))
    assert done.code == 0 and cut == count > 0
    assert f"{cut} of {count} test prompts were cut to fit the model" in done.err


def test_written_answers_run_on_either_objective(cli: Cli, runs: Runs, tmp_path: Path):
    extra = (
        "model=tiny-opt",
        "task=squad",
        "task.max_new_tokens=4",
        "tuning=prefix",
        "optimizer=mezo",
    )
    for objective in ("likelihood", "f1"):
        assert (
            cli(*SMALL, *extra, f"task.objective={objective}", f"paths.results={tmp_path}").code
            == 0
        )
    for record in runs():
        losses = [point["train_loss"] for point in record["curve"][1:]]
        low, high = (-1, 0) if record["config"]["task"]["objective"] == "f1" else (0, 50)
        assert all(low <= loss <= high for loss in losses)
        assert 0 <= record["test_accuracy"] <= 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ("tuning=lora", "tuning.rank=99"),
            "tuning.rank=99: must be 1 to 64, the smaller side of tiny-roberta's",
        ),
        (("tuning=lora", "tuning.rank=x"), "tuning.rank='x': should be a valid integer"),
        (
            ("tuning=prefix", "tuning.num_tokens=999"),
            "tuning.num_tokens=999: must be at least 1 and at most 254",
        ),
        (
            ("tuning=named", "tuning.parameters=['*.q']"),
            "tuning.parameters: tiny-roberta has no parameter whose name matches '*.q'; it has ",
        ),
        (
            ("tuning=named", "tuning.parameters=3"),
            "tuning.parameters=3: should be a valid array",
        ),
        (
            ("tuning=adapters",),
            "tuning=adapters: no such choice; choose one of full, in-context, linear-probe, lora",
        ),
        (
            ("tuning=in-context",),
            "protocol.num_steps=4: tuning=zero-shot and tuning=in-context train nothing;",
        ),
        (
            ("tuning=in-context", "protocol=zero-shot"),
            "tuning.num_shots=32: must be 0 to 16, the number of training",
        ),
        (
            ("tuning=prefix", "optimizer=adamw", "optimizer.gradient_checkpointing=true"),
            (
                "optimizer.gradient_checkpointing=true: a layer's second pass would put its keys"
                " behind the prefix again"
            ),
        ),
        (
            ("optimizer=adamw", "optimizer.algorithm.betas=[0.9]"),
            "optimizer.algorithm: cannot be built with lr=",
        ),
        (
            ("optimizer=hybrid", "optimizer.algorithm.lr=x"),
            "optimizer.algorithm: cannot be built with lr=x",
        ),
        (
            ("precision=bf16-sr", "optimizer=adamw"),
            "precision.rounding=stochastic: torch's optimizers round to the",
        ),
        (
            ("precision=bf16-sr", "optimizer=hybrid"),
            "precision.rounding=stochastic: torch's optimizers round to the",
        ),
        (
            ("task=squad",),
            "task=squad: tiny-roberta is masked and writes no answers; take a causal model",
        ),
        (
            ("task=squad", "model=tiny-opt", "tuning=linear-probe"),
            "tuning=linear-probe: tells options apart",
        ),
        (
            ("task=squad", "model=tiny-opt", "task.objective=f1", "optimizer=adamw"),
            (
                "task.objective=f1: has no gradient, which this optimizer needs;"
                " task.objective=likelihood has one"
            ),
        ),
        (
            ("task=sst2", "task.objective=accuracy", "optimizer=adamw"),
            (
                "task.objective=accuracy: has no gradient, which this optimizer needs;"
                " task.objective=null has one"
            ),
        ),
        (
            ("task=squad", "model=tiny-opt", "task.objective=f1", "optimizer=forward-grad"),
            (
                "task.objective=f1: has no gradient, which this optimizer needs;"
                " task.objective=likelihood has one"
            ),
        ),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    arguments: tuple[str, ...], says: str, cli: Cli, tmp_path: Path
):
    outcome = cli(*SMALL, *arguments, f"paths.results={tmp_path}")
    assert outcome.code == 1
    assert outcome.err.splitlines()[-1].startswith(says)
    assert not list(tmp_path.rglob("*.json"))


def test_an_adapter_s_refusal_is_one_line_too(cli: Cli, tmp_path: Path):
    """peft asks transformers under an old name, of which Python would warn in front of the line
    that counts."""
    outcome = cli(
        *SMALL, "tuning=lora", "optimizer=lozo", "optimizer.rank=9", f"paths.results={tmp_path}"
    )
    says = "optimizer.rank=9: the trained matrices' smaller sides are 8 at most; 1 to 8 is valid"
    assert outcome.code == 1 and outcome.err.splitlines() == [says]


def test_a_key_that_came_later_is_in_no_signature_or_log_from_before():
    from experiments.config.compose import compose
    from experiments.config.schema import parse
    from experiments.training.build import by_content

    plain, named = (
        parse(compose(["tuning=lora", "model=tiny-opt", *more]))
        for more in ((), ("+tuning.target_modules=[fc1]",))
    )
    before = {"method": "lora", "rank": 8, "alpha": 16.0}
    assert by_content(plain)["tuning"] == plain.log_node["tuning"]["choice"] == before
    assert by_content(named)["tuning"] == {**before, "target_modules": ("fc1",)}


def test_a_bias_of_each_label_is_fitted_before_training(
    cli: Cli, runs: Runs, tmp_path: Path
) -> None:
    """It is in the record, in the signature, and in the scores before training; a run without it
    has the signature that it had before there was one."""
    arguments = (*SMALL, "model=tiny-mistral", "optimizer=mezo", f"paths.results={tmp_path}")
    assert cli(*arguments).code == 0
    assert cli(*arguments, "protocol.label_bias=fitted").code == 0
    by_bias = {"label_bias" in record["model"]: record for record in runs()}
    without, fitted = by_bias[False], by_bias[True]
    assert without["signature"] != fitted["signature"]
    assert "label_bias" not in without["config"]["protocol"]
    assert fitted["config"]["protocol"]["label_bias"] == "fitted"
    first, second = fitted["model"]["label_bias"]
    assert first == pytest.approx(-second, abs=1e-6) and abs(first) > 1e-3
    assert fitted["curve"][0]["validation_loss"] != without["curve"][0]["validation_loss"]
    assert fitted["num_forwards"] == without["num_forwards"]


def test_a_probe_is_fitted_before_training_and_the_model_may_train_with_it(
    cli: Cli, runs: Runs, tmp_path: Path
) -> None:
    """One that starts at 0 and alone has the signature and the record of those before the keys."""
    probe = (*SMALL, "model=tiny-mistral", "tuning=linear-probe", "optimizer=mezo")
    probe += (f"paths.results={tmp_path}", f"checkpoint.weights={tmp_path / 'made'}")
    fitted = (*probe, "tuning.start=fitted")
    assert cli(*probe).code == 0
    assert cli(*fitted, "tuning.trains=all", "optimizer.lr=1e-6").code == 0
    done = cli(*fitted, "protocol=zero-shot")
    assert done.code == 0 and "(a probe, fitted)" in done.err
    by_tuning = {len(record["config"]["tuning"]): record for record in runs()}
    zero, only, every = (by_tuning[count] for count in (1, 2, 3))
    assert zero["config"]["tuning"] == {"method": "linear-probe"} and "probe" not in zero["model"]
    losses = dict(map(tuple, every["model"]["probe"]["held_out_losses"]))
    assert losses[every["model"]["probe"]["spread"]] == min(losses.values())
    assert only["model"]["probe"] == every["model"]["probe"]
    assert only["num_forwards"] == 0 and only["zero_shot_accuracy"] is not None
    first = [record["curve"][0]["validation_loss"] for record in (zero, only, every)]
    assert first[0] != first[1] == first[2]
    assert only["model"]["num_parameters"] == TRAINED["linear-probe"] == 130
    assert every["model"]["num_parameters"] > 100_000
    folder = tmp_path / "made" / every["signature"]
    back = load_probe(load_model(str(folder), dtype="float32"), folder)
    assert weights_fingerprint(back.module) != every["model"]["fingerprint"]  # it has trained
