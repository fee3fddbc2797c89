"""transformers' Trainer, driven by any of the optimizers here."""

import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bszo.errors import OptimError, ParallelError, needs
from bszo.half import fast_products
from bszo.models import tensors_fingerprint
from bszo.optim import BSZO, FirstOrder, Hybrid, ZerothOrderOptimizer

with needs("lm"):
    from transformers import Trainer

Method = Callable[..., torch.optim.Optimizer]
# arguments that act on gradients, on the Trainer's own optimizer, or in training mode alone
WITHOUT_MEANING = (
    "optim",
    "optim_args",
    "optim_target_modules",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "gradient_checkpointing",
    "neftune_noise_alpha",
)
# arguments that the Trainer gives the method itself
UNREAD = {
    "lr": "TrainingArguments.learning_rate",
    "weight_decay": "TrainingArguments.weight_decay",
    "seed": "TrainingArguments.seed",
    "module": "the Trainer's model",
}

log = logging.getLogger(__name__)


class ZerothOrderTrainer(Trainer):
    """A Trainer whose step is optimizer.step(closure): the mean loss over the micro-batches that
    make up the step.

    The Trainer's arguments, callbacks, evaluation, checkpoints, resuming and reports are as ever;
    those that act on gradients, or choose an optimizer, have no meaning (WITHOUT_MEANING): the log
    says which were set. Micro-batches of `gradient_accumulation_steps` are weighed as the Trainer
    weighs their gradients: by tokens, where the model's loss can be. The model is in evaluation
    mode while it is measured, mixed precision has no loss scaler, which losses do not need, and
    optimizer.pt holds what the method keeps: for BSZO and MeZO a few numbers. Logs gain
    `num_forwards`, and `sigma_e` and `gain` where the method has them. `total_flos` is the
    Trainer's own count, of a forward and a backward pass a batch.

    Under torchrun each process takes its share of a step's rows, and sends one number a loss:
    neither weights nor gradients cross, and no copy of the parameters is made for them. The loss is
    the mean over the processes, as the Trainer's gradient would be, and all of them make the same
    move, bit for bit. One device a process.

    In front of another Trainer's class it makes that one's steps: `class Mine(ZerothOrderTrainer,
    Theirs)`. `bszo.integrations.trl` has it in front of TRL's.

    Args:
        method: (parameter groups, lr=, seed=, module=) -> optimizer, such as `partial(BSZO, k=4)`.
            The groups carry `args.weight_decay` (biases and norms have none); lr is
            `args.learning_rate`, seed `args.seed`. First order: `lambda groups, lr, **more:
            FirstOrder(groups, algorithm=partial(torch.optim.AdamW, lr=lr), **more)`.
        args, kwargs: as for `transformers.Trainer`.

    Raises:
        OptimError: several devices a process, torch_compile, another optimizer or its scheduler, a
            partial method with arguments that the Trainer gives; from `train`, an argument of the
            method that is out of range, a method that is no optimizer of this library, or one that
            needs more than losses of several processes.
        ParallelError: from `train`, the processes begin or end with different weights.
        NonFiniteLoss: from `train`; the parameters are where they were before that step.
    """

    def __init__(self, *args: Any, method: Method = BSZO, **kwargs: Any) -> None:
        self.method = method
        super().__init__(*args, **kwargs)
        self._refuse()
        # inputs, items in the step's batches as the Trainer counts them, number of those batches
        self._micro_batches: list[tuple[dict[str, Any], Any, int]] = []
        self._measured: nn.Module | None = None

    def _refuse(self) -> None:
        """What would be ignored in silence, or break deep inside: refused here, or said."""
        if self.optimizer is not None:
            raise OptimError(
                "optimizers: holds an optimizer; method= builds it here, and (None, None) is valid"
            )
        if self.lr_scheduler is not None:
            raise OptimError(
                "optimizers: holds a scheduler, which is another optimizer's; (None, None) is"
                " valid, with lr_scheduler_type= and lr_scheduler_kwargs= of the arguments"
            )
        if self.optimizer_cls_and_kwargs is not None:
            raise OptimError(
                "optimizer_cls_and_kwargs: names an optimizer; method= builds it here, and None is"
                " valid"
            )
        if self.args.torch_compile:
            raise OptimError(
                "torch_compile=True: compiled code does not see weights that are perturbed while it"
                " runs; False is valid"
            )
        if self.args.n_gpu > 1 or self.is_deepspeed_enabled or self.is_fsdp_enabled:
            raise OptimError(
                f"ZerothOrderTrainer: a process with {self.args.n_gpu} GPUs; one device a process"
                " (torchrun, or CUDA_VISIBLE_DEVICES=0), no DeepSpeed and no FSDP is valid"
            )
        given = self.method.keywords if isinstance(self.method, partial) else {}
        for name, source in UNREAD.items():
            if name in given:
                raise OptimError(
                    f"method: its {name}={given[name]!r:.80} would not be read; {source} is"
                )
        defaults = {field.name: field.default for field in fields(type(self.args))}
        values = {name: getattr(self.args, name) for name in WITHOUT_MEANING if name in defaults}
        if ignored := [
            f"{name}={value}" for name, value in values.items() if value and value != defaults[name]
        ]:
            log.warning(
                "ZerothOrderTrainer: without meaning here, and ignored: %s", ", ".join(ignored)
            )

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        self.accelerator.scaler = None  # it is for gradients that underflow in fp16
        # without DistributedDataParallel, which sends weights and keeps room for gradients
        prepare: Any = partial(self.accelerator.prepare_model, evaluation_mode=True)
        self.accelerator.prepare_model = prepare

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The method on the model's trainable parameters, in the Trainer's two groups."""
        if self.optimizer is None:
            module: Any = self.model if model is None else model
            decayed = set(self.get_decay_parameter_names(module))
            named = [
                (name in decayed, p) for name, p in module.named_parameters() if p.requires_grad
            ]
            groups = [
                {"params": [p for decays, p in named if decays is which], "weight_decay": rate}
                for which, rate in ((True, self.args.weight_decay), (False, 0.0))
            ]
            optimizer: Any = self.method(
                [group for group in groups if group["params"]],
                lr=self.args.learning_rate,
                seed=self.args.seed,
                module=module,
            )
            self._check(optimizer)
            self._require_same("weights at the start", module.parameters())
            # the Trainer's loop calls it without a closure
            optimizer.step = partial(self._take, optimizer.step)
            self.optimizer = optimizer
        return self.optimizer

    def _check(self, optimizer: object) -> None:
        """Refuse what takes no step by a closure's loss alone: torch's own would call it and move
        nothing."""
        if not isinstance(optimizer, (ZerothOrderOptimizer, FirstOrder, Hybrid)):
            raise OptimError(
                f"method: returns a {type(optimizer).__name__}, which backpropagates nothing by"
                " itself; FirstOrder(groups, algorithm=...) around it is valid"
            )
        name = type(optimizer).__name__
        if optimizer.per_example:
            raise OptimError(
                f"method: {name} takes a loss an example, and a Trainer's model gives one a batch;"
                " MeZO and BSZO are valid"
            )
        if self.args.world_size > 1 and not getattr(optimizer, "losses_suffice", False):
            raise OptimError(
                f"method: {name} needs gradients, and only losses cross between"
                f" {self.args.world_size} processes; one process is valid"
            )
        if self.args.world_size > 1 and getattr(optimizer, "reads_inputs", False):
            raise OptimError(
                f"method: {name} finds its directions in the whole batch, of which each of"
                f" {self.args.world_size} processes has a part; one process is valid"
            )
        if self.args.fp16 and isinstance(optimizer, (FirstOrder, Hybrid)):
            log.warning(
                "ZerothOrderTrainer: fp16=True without a loss scaler, which backpropagation needs:"
                " small gradients become 0; bf16=True needs none"
            )

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As ever; a step that an earlier call has left half done is forgotten."""
        self._micro_batches.clear()
        found = super().train(*args, **kwargs)
        trained: Any = self.model
        self._require_same(
            "weights after training", (p for p in trained.parameters() if p.requires_grad)
        )
        return found

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Set a micro-batch aside; its loss is taken, and counted, by the step."""
        model.eval()
        self._measured = model
        count = self.current_gradient_accumulation_steps
        self._micro_batches.append((self._prepare_inputs(inputs), num_items_in_batch, count))
        return torch.zeros((), device=self.args.device)

    def _take(self, step: Callable[[Callable[[], Tensor]], float], closure: None = None) -> float:
        try:
            loss = step(self._loss)
        finally:
            self._micro_batches.clear()  # a step that raises has used them up, too
        self._tr_loss += loss
        return loss

    def _loss(self) -> Tensor:
        assert self._measured is not None
        total = torch.zeros((), device=self.args.device)
        for inputs, num_items, count in self._micro_batches:
            with (
                self.compute_loss_context_manager(),
                _named_training(self),
                fast_products(self._measured),
            ):
                loss = self.compute_loss(self._measured, dict(inputs), num_items_in_batch=num_items)
            assert isinstance(loss, Tensor)
            scaled = getattr(self, "loss_is_scaled_for_ga", None)  # from transformers 5.19 on
            if scaled is None:
                by_items = self.model_accepts_loss_kwargs and num_items is not None
                scaled = by_items or self.compute_loss_func is not None
            total = total + loss.float() / (1 if scaled else count)
        return self._mean_over_processes(total)

    def _mean_over_processes(self, loss: Tensor) -> Tensor:
        """The same bits in each of them; what is not finite in one is finite in none. In one
        process the loss itself."""
        if self.args.world_size == 1:
            return loss
        mine = loss.detach().double().reshape(1)
        everyone: list[float] = self.accelerator.gather(mine).tolist()  # type: ignore[union-attr]
        return torch.tensor(sum(everyone) / len(everyone), dtype=torch.float64)

    def _require_same(self, what: str, parameters: Iterable[Tensor]) -> None:
        """ParallelError unless all processes hold the same bits."""
        if self.args.world_size == 1:
            return
        digest = tensors_fingerprint((str(i), p) for i, p in enumerate(parameters))
        number = int(digest[:12], 16)  # 48 bits: exact in a float64
        mine = torch.tensor([number], dtype=torch.float64, device=self.args.device)
        if self.accelerator.gather(mine).unique().numel() > 1:  # type: ignore[union-attr]
            raise ParallelError(
                f"process {self.args.process_index} of {self.args.world_size}: the processes differ"
                f" in their {what}; the same ones on one kind of device are valid"
            )

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Refuse a checkpoint without the method's state: its directions would be those of step 0
        again, and the schedule would begin anew."""
        if checkpoint is not None and not (Path(checkpoint) / "optimizer.pt").is_file():
            raise OptimError(
                f"{checkpoint}: has no optimizer.pt (save_only_model=True), so that a run cannot go"
                " on from it; its weights can be the start of a new run"
            )
        super()._load_optimizer_and_scheduler(checkpoint)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The Trainer's card, with the method that has trained in place of `args.optim`."""
        super().create_model_card(*args, **kwargs)
        card = Path(str(self.args.output_dir)) / "README.md"
        if self.optimizer is None or not card.is_file():
            return
        method: Any = getattr(self.optimizer, "optimizer", self.optimizer)
        line = f"- optimizer: {type(method).__name__} of bszo, {method.num_forwards} forward passes"
        text = card.read_text(encoding="utf-8")
        text = re.sub(r"^- optimizer: .*(\nNo additional.*)?$", line, text, flags=re.MULTILINE)
        card.write_text(text, encoding="utf-8")

    def _clip_grad_norm(self, model: nn.Module) -> None:
        """There is none to clip."""

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> None:
        """There is none to report."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what the method has to say to the logs of training."""
        if "loss" in logs and self.optimizer is not None:
            # accelerate wraps it
            method: Any = getattr(self.optimizer, "optimizer", self.optimizer)
            logs["num_forwards"] = method.num_forwards
            if method.last is not None and method.last.noise_var is not None:
                logs["sigma_e"] = math.sqrt(method.last.noise_var)
            if method.last is not None and method.last.gain is not None:
                logs["gain"] = method.last.gain
        with _named_training(self) if "loss" in logs else nullcontext():
            super().log(logs, start_time)


@contextmanager
def _named_training(trainer: Any) -> Iterator[None]:
    """TRL's trainers keep their metrics under "train" or "eval" as the model's own flag says: it
    says training while a step is measured, and every layer below stays in evaluation mode."""
    if not hasattr(trainer, "_metrics"):
        yield
        return
    trainer.model.training = True
    try:
        yield
    finally:
        trainer.model.training = False
