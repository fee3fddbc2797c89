"""transformers' Trainer with these optimizers: the same steps as a plain loop, and its features as
users know them."""

import json
import re
import runpy
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import OPTConfig, OPTForCausalLM, Trainer, TrainerCallback, TrainingArguments

import bszo.models
from bszo import BSZO, EachMeZO, FirstOrder, MeZO, MeZOAdam
from bszo.errors import NonFiniteLoss, OptimError
from bszo.integrations.transformers import ZerothOrderTrainer

ROOT = Path(__file__).resolve().parents[2]
BELIEF = {"eps": 1e-2, "prior_var": 10.0, "noise_var": 1.0}


def model(dropout: float = 0.2) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = OPTConfig(
            vocab_size=16,
            hidden_size=8,
            ffn_dim=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=16,
            word_embed_proj_dim=8,
            dropout=dropout,
            pad_token_id=1,
        )
        return OPTForCausalLM(config)


def rows(count: int) -> list[dict[str, list[int]]]:
    """Of unequal numbers of tokens that count, so that a mean of means is not the mean."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 16, (count, 9), generator=generator)
    labels = ids.clone()
    for i, row in enumerate(labels):
        row[: 1 + i % 6] = -100
    return [
        {"input_ids": a.tolist(), "labels": b.tolist()} for a, b in zip(ids, labels, strict=True)
    ]


class Watch(TrainerCallback):
    """What a callback sees: the first parameter around the step, the rates, the logs."""

    def __init__(self) -> None:
        self.moved: list[bool] = []
        self.logs: list[dict[str, float]] = []
        self.training: list[bool] = []
        self.before: Tensor | None = None

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.before = next(kwargs["model"].parameters()).detach().clone()
        self.training.append(kwargs["model"].training)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self.before is not None
        self.moved.append(not torch.equal(self.before, next(kwargs["model"].parameters())))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.logs.append(dict(logs))


def trainer(out: Path, method: Any, count: int = 12, network: Any = None, **arguments: Any) -> Any:
    defaults = {
        "max_steps": 3,
        "per_device_train_batch_size": 2,
        "learning_rate": 0.05,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "seed": 3,
    }
    args = TrainingArguments(str(out), **{**defaults, **arguments})
    data: Any = {"train_dataset": rows(count), "eval_dataset": rows(4)}
    return ZerothOrderTrainer(network or model(), args, method=method, **data)


def sgd(groups: Any, lr: float, **more: Any) -> FirstOrder:
    return FirstOrder(groups, algorithm=partial(torch.optim.SGD, lr=lr), **more)


def bits(module: Any) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


@pytest.mark.parametrize("accumulation", [1, 3])
def test_it_takes_the_steps_of_a_plain_loop(tmp_path: Path, accumulation: int) -> None:
    """Every step sees all rows, so their order is no matter: the loss is the mean over all tokens
    that count."""
    method, count = partial(BSZO, **BELIEF), 2 * accumulation
    tested = trainer(
        tmp_path,
        method,
        count,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=3,
        max_steps=-1,
        lr_scheduler_type="constant",
    )
    watch = Watch()
    tested.add_callback(watch)
    tested.train()
    plain, data = model().eval(), rows(count)
    ids, labels = (torch.tensor([row[key] for row in data]) for key in ("input_ids", "labels"))
    matrices = [
        p
        for name, p in plain.named_parameters()
        if "norm" not in name and not name.endswith("bias")
    ]
    vectors = [p for p in plain.parameters() if all(p is not matrix for matrix in matrices)]
    optimizer = method([*matrices, *vectors], lr=0.05, seed=3)  # the order numbers their noise
    for log in watch.logs[:3]:
        logits = plain(input_ids=ids).logits[:, :-1]
        expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
        optimizer.step(lambda: plain(input_ids=ids, labels=labels).loss)
        assert log["loss"] == pytest.approx(float(expected), rel=1e-4)
    for p, q in zip(tested.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=3e-4)
    assert tested.state.global_step == 3 and watch.logs[2]["num_forwards"] == 9


class Stream(torch.utils.data.IterableDataset[Any]):
    """Rows whose number the Trainer does not know."""

    def __init__(self, count: int) -> None:
        self.rows = rows(count)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)


@pytest.mark.parametrize("by_items", [True, False])
def test_what_an_epoch_leaves_over_is_weighed_as_the_trainer_does(
    tmp_path: Path, by_items: bool
) -> None:
    """Five batches in steps of three: two of an epoch are left for the first step of the next. SGD,
    here and there."""
    args = TrainingArguments(
        str(tmp_path),
        max_steps=4,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=3,
        learning_rate=0.5,
        optim="sgd",
        max_grad_norm=0.0,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        logging_steps=1,
    )
    ours: Any = ZerothOrderTrainer(model(0.0), args, method=sgd, train_dataset=Stream(5))
    theirs: Any = Trainer(model(0.0), args, train_dataset=Stream(5))
    for one in (ours, theirs):
        one.model_accepts_loss_kwargs = by_items
        one.train()
    for p, q in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    losses = [
        [log["loss"] for log in one.state.log_history if "loss" in log] for one in (ours, theirs)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_step_that_was_broken_off_is_forgotten(tmp_path: Path) -> None:
    """Between its micro-batches, where no step has begun: the next call to train must not measure
    them."""

    class Stop(TrainerCallback):
        def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            raise KeyboardInterrupt

    tested = trainer(tmp_path, partial(MeZO, eps=1e-2), gradient_accumulation_steps=2)
    tested.add_callback(stop := Stop())
    with pytest.raises(KeyboardInterrupt):
        tested.train()
    tested.remove_callback(stop)
    tested.train()
    fresh = trainer(tmp_path, partial(MeZO, eps=1e-2), gradient_accumulation_steps=2)
    fresh.train()
    assert all(map(torch.equal, bits(tested.model), bits(fresh.model)))


def test_callbacks_schedulers_evaluation_and_logs(tmp_path: Path) -> None:
    watch = Watch()
    tested = trainer(
        tmp_path,
        partial(BSZO, **BELIEF),
        lr_scheduler_type="linear",
        max_steps=4,
        eval_strategy="steps",
        eval_steps=2,
        gradient_accumulation_steps=2,
    )
    tested.add_callback(watch)
    tested.train()
    training = [log for log in watch.logs if "loss" in log]
    assert [log["learning_rate"] for log in training] == pytest.approx(
        [0.05, 0.0375, 0.025, 0.0125]
    )
    assert watch.moved == [True] * 4 and watch.training == [False] * 4
    assert all(
        log["sigma_e"] > 0 and 0 < log["gain"] <= 1 and "grad_norm" not in log for log in training
    )
    assert [log["num_forwards"] for log in training] == [3 * (i + 1) for i in range(4)]
    assert len([log for log in watch.logs if "eval_loss" in log]) == 2
    assert all(p.grad is None for p in tested.model.parameters())


@pytest.mark.parametrize(
    "method",
    [
        partial(BSZO, **BELIEF),
        partial(MeZOAdam, eps=1e-2),
        lambda groups, **more: MeZO(groups, eps=1e-2, **more).restrict(
            sparsity=0.5, mask_interval=2, blocks="transformer"
        ),
        lambda groups, lr, **more: FirstOrder(
            groups, algorithm=partial(torch.optim.AdamW, lr=lr), **more
        ),
    ],
    ids=["bszo", "mezo-adam", "restricted", "first-order"],
)
def test_resuming_is_bit_for_bit(tmp_path: Path, method: Any) -> None:
    """In the middle of an epoch and of a mask's interval, with a schedule, over dropout that never
    acts."""
    settings = {
        "max_steps": 6,
        "lr_scheduler_type": "cosine",
        "save_strategy": "steps",
        "save_steps": 3,
        "gradient_accumulation_steps": 2,
        "weight_decay": 0.1,
    }
    whole = trainer(tmp_path, method, **settings)
    whole.train()
    resumed = trainer(tmp_path, method, network=model(dropout=0.0), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert all(map(torch.equal, bits(whole.model), bits(resumed.model)))
    assert (
        resumed.state.log_history[-2]["num_forwards"] == whole.state.log_history[-2]["num_forwards"]
    )


def test_transformers_before_5_19_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Trainer, "loss_is_scaled_for_ga")
    tested = trainer(tmp_path, partial(MeZO, eps=1e-2), max_steps=1)
    tested.train()
    assert tested.state.global_step == 1


def test_a_checkpoint_holds_no_state_that_is_not_needed(tmp_path: Path) -> None:
    trainer(tmp_path, partial(BSZO, **BELIEF), save_strategy="steps", save_steps=3).train()
    assert (tmp_path / "checkpoint-3" / "optimizer.pt").stat().st_size < 5_000
    state = torch.load(tmp_path / "checkpoint-3" / "optimizer.pt", weights_only=True)
    assert state["state"] == {}


def test_mixed_precision_without_a_scaler(tmp_path: Path) -> None:
    """fp16 asks accelerate for a scaler, which would wait for gradients."""
    tested = trainer(
        tmp_path, partial(BSZO, **BELIEF), bf16=True, save_strategy="steps", save_steps=3
    )
    seen: list[torch.dtype] = []
    layer = tested.model.model.decoder.layers[0].fc1
    layer.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    before = bits(tested.model)
    tested.train()
    assert set(seen) == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in tested.model.parameters())
    assert not all(map(torch.equal, before, bits(tested.model)))
    assert (
        tested.accelerator.scaler is None and not (tmp_path / "checkpoint-3" / "scaler.pt").exists()
    )
    tested.accelerator.scaler = object()  # type: ignore[assignment]
    tested.create_accelerator_and_postprocess()
    assert tested.accelerator.scaler is None


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    network = model()
    adam = torch.optim.Adam(network.parameters())
    with pytest.raises(OptimError, match="optimizers: holds an optimizer"):
        ZerothOrderTrainer(
            network, TrainingArguments(str(tmp_path), use_cpu=True), optimizers=(adam, None)
        )
    scheduler = torch.optim.lr_scheduler.ConstantLR(adam)
    with pytest.raises(
        OptimError, match="optimizers: holds a scheduler, which is another optimizer's"
    ):
        ZerothOrderTrainer(
            network, TrainingArguments(str(tmp_path), use_cpu=True), optimizers=(None, scheduler)
        )
    with pytest.raises(OptimError, match="optimizer_cls_and_kwargs: names an optimizer"):
        ZerothOrderTrainer(
            network,
            TrainingArguments(str(tmp_path), use_cpu=True, report_to="none"),
            optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 0.1}),
        )
    with pytest.raises(OptimError, match="torch_compile=True: compiled code does not see"):
        trainer(tmp_path, MeZO, torch_compile=True)
    sources = {"lr": "learning_rate", "weight_decay": "weight_decay", "seed": "seed"}
    for name, source in sources.items():
        says = f"method: its {name}=1 would not be read; TrainingArguments.{source} is"
        with pytest.raises(OptimError, match=says):
            trainer(tmp_path, partial(MeZO, **{name: 1}))  # type: ignore[arg-type]
    with pytest.raises(OptimError, match="k=0"):
        trainer(tmp_path, partial(BSZO, k=0)).train()
    with pytest.raises(OptimError, match="method: EachMeZO takes a loss an example"):
        trainer(tmp_path, EachMeZO).train()
    with pytest.raises(
        OptimError, match=r"method: returns a SGD, .* FirstOrder\(groups, algorithm=...\) around it"
    ):
        trainer(tmp_path, lambda groups, lr, **more: torch.optim.SGD(groups, lr=lr)).train()
    with torch.no_grad():
        network.lm_head.weight.fill_(float("nan"))
    broken = trainer(
        tmp_path, partial(MeZO, eps=1e-2), network=network, gradient_accumulation_steps=2
    )
    with pytest.raises(NonFiniteLoss, match="step 0"):
        broken.train()
    assert broken._micro_batches == [], "a later step must not measure them again"


def test_what_has_no_meaning_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer(tmp_path, MeZO)
    assert caplog.messages == []
    trainer(
        tmp_path, MeZO, optim="sgd", adam_beta2=0.99, max_grad_norm=0.1, gradient_checkpointing=True
    )
    assert (
        caplog.messages[-1]
        == "ZerothOrderTrainer: without meaning here, and ignored: optim=OptimizerNames.SGD, "
        "adam_beta2=0.99, max_grad_norm=0.1, gradient_checkpointing=True"
    )
    for method, said in ((MeZO, False), (sgd, True)):
        caplog.clear()
        tested = trainer(tmp_path, method)
        tested.args.fp16 = True  # which accelerate refuses on a CPU
        tested.create_optimizer()
        assert any("backpropagation needs" in message for message in caplog.messages) == said


def test_the_example_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local model, a local JSONL, as its first line says."""
    lines = [
        json.dumps({"text": f"the film was {'good' if i % 2 else 'bad'}", "id": i})
        for i in range(32)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    folder = Path(bszo.models.__file__).parent / "assets" / "tiny-opt"
    monkeypatch.setattr(
        sys,
        "argv",
        ["trainer.py", str(folder), str(tmp_path / "rows.jsonl"), str(tmp_path / "out")],
    )
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    ran = runpy.run_path(str(ROOT / "examples" / "trainer.py"))
    losses = [log["loss"] for log in ran["trainer"].state.log_history if "loss" in log]
    assert losses[-1] < 0.85 * losses[0]
    assert (
        OPTForCausalLM.from_pretrained(tmp_path / "out").num_parameters()
        == ran["model"].num_parameters()
    )
    assert len((ROOT / "examples" / "trainer.py").read_text().splitlines()) <= 45


def test_the_readme_s_lines_run(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n([^`]*ZerothOrderTrainer.*?)```", readme, re.DOTALL)
    network = model()
    before = bits(network)
    args = TrainingArguments(str(tmp_path), max_steps=2, use_cpu=True, report_to="none")
    exec(lines, {"model": network, "args": args, "rows": rows(12), "BSZO": BSZO})
    assert not all(torch.equal(a, b) for a, b in zip(before, bits(network), strict=True))


def test_a_checkpoint_without_the_method_s_state_is_refused(tmp_path: Path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 3}
    trainer(tmp_path, BSZO, save_only_model=True, **settings).train()
    with pytest.raises(OptimError, match=r"checkpoint-2: has no optimizer\.pt \(save_only_model"):
        trainer(tmp_path, BSZO, **settings).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-2")
        )


def test_the_model_card_names_the_method(tmp_path: Path) -> None:
    trained = trainer(tmp_path, MeZO)
    trained.train()
    trained.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert "- optimizer: MeZO of bszo, 6 forward passes" in card
    assert "adam" not in card.lower()


def test_trl_s_trainers_see_training_and_their_layers_do_not(tmp_path: Path) -> None:
    """TRL files a metric under what the model's flag says while its loss is taken."""
    trained = trainer(tmp_path, MeZO)
    seen: list[tuple[bool, bool]] = []
    compute, trained._metrics = trained.compute_loss, {"train": {}, "eval": {}}

    def watched(network: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append((network.training, any(part.training for part in network.children())))
        return compute(network, *args, **kwargs)

    trained.compute_loss = watched
    trained.train()
    assert seen and set(seen) == {(True, False)}
    seen.clear()
    trained.evaluate()
    assert set(seen) == {(False, False)}
