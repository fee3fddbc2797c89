"""Schema of a run's configuration: its fixed parts, typed. All defaults are in conf/."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, with_config

from bszo.errors import ConfigError
from experiments.config.tunings import (
    Full,
    InContext,
    Named,
    Prefix,
    Scales,
    Tuning,
    drop_unsaid,
)
from experiments.config.typed import check_arguments, check_targets, check_values, typed

_FORBID = ConfigDict(extra="forbid")
MOST_THREADS = 1024
PATHS = (
    "model.path",
    "data.root",
    "checkpoint.weights",
    "paths.results",
    "paths.runs",
    "paths.wandb",
)
MOST_PATH_BYTES = 3500  # of 4096 that Linux takes; files below it have names of their own
MOST_NAME_BYTES = 255
MOST_TITLE_BYTES = 64


@with_config(_FORBID)
@dataclass(frozen=True)
class Precision:
    """The type in which parameters are stored and computed, and how a change of them is rounded.
    Losses are float32. `eps` is the length of a perturbation where nothing else names one."""

    dtype: Literal["float32", "float16", "bfloat16"]
    rounding: Literal["nearest", "stochastic"]
    eps: float


@with_config(_FORBID)
@dataclass(frozen=True)
class Protocol:
    """What precedes training, how long it is and how to select; conf/protocol has each."""

    label_bias: Literal["none", "fitted"]
    num_steps: int
    max_forwards: int | None
    batch_size: int
    eval_every: int
    patience: int | None
    lr_schedule: Literal["constant", "linear"]
    max_eval_examples: int | None
    eval_max_tokens: int
    checkpoint_every: int | None
    on_nonfinite: Literal["stop", "skip"]

    def __post_init__(self) -> None:
        low = {"num_steps": 0, "max_forwards": 0, "batch_size": 1, "eval_every": 1, "patience": 1}
        low |= {"max_eval_examples": 1, "eval_max_tokens": 1, "checkpoint_every": 1}
        for name, least in low.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"protocol.{name}={value}: must be at least {least}")


@with_config(_FORBID)
@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds of the parameters: all of them, or the log by which they are found
    again.

    `weights` is a folder for the selected parameters of a run that ended well: a new folder in it,
    named by signature.
    """

    kind: Literal["full", "trajectory"]
    weights: str | None


@with_config(_FORBID)
@dataclass(frozen=True)
class Fidelity:
    """Where the paper, its code and good practice differ; conf/fidelity says where each acts."""

    eps: float
    perturbation: Literal[
        "exact", "streaming", "factored", "copy", "two-leg", "three-leg", "in-place", "as-published"
    ]
    noise_adaptation: Literal["always", "beyond-k", "never"]
    noise_adaptation_b: Literal["always", "beyond-k", "never"]
    noise_floor: float
    lozo_redraw: Literal["same", "as-run"]
    lozo_scale: Literal["1/r", "none"]
    lozo_m_start: Literal["zero", "first"]
    fzoo_deviation: Literal["sample", "population"]
    loren_score: Literal["unscaled", "as-run"]
    loren_updates: Literal["once", "each-probe"]
    ldsd_mean_noise: Literal["evaluated", "fresh"]
    ldsd_plus_side: Literal["kept", "again"]
    conmezo_start: Literal["zero", "noise"]
    conmezo_warmup: Literal["none", "as-run"]
    agzo_scale: Literal["gaussian", "none"]
    zo_sign: Literal["element", "scalar"]
    subzero_scale: Literal["sqrt(mn)/r", "none"]
    zo_muon_vector_lr: float | None
    zo_muon_redraw: Literal["once", "each-probe"]
    hizoo_smoothing: float
    state_dtype: Literal["float32", "parameter"]
    label_words: Literal["corrected", "as-run"]
    train_rows: Literal["permuted", "first"]


@with_config(_FORBID)
@dataclass(frozen=True)
class Tracker:
    """Where a run's numbers are copied to while it goes on."""

    kind: Literal["none", "wandb"]
    mode: Literal["auto", "offline", "online"]
    project: str
    log_every: int
    progress: Literal["auto", "always", "never"]

    def __post_init__(self) -> None:
        if self.log_every < 1:
            raise ConfigError(f"tracker.log_every={self.log_every}: must be at least 1")


@with_config(_FORBID)
@dataclass(frozen=True)
class Paths:
    """The folders that a run writes to."""

    results: str
    runs: str
    wandb: str

    def __post_init__(self) -> None:
        if empty := [name for name, value in vars(self).items() if not value]:
            raise ConfigError(f"paths.{empty[0]}=: must be a folder")
        for name, value in vars(self).items():
            try:
                object.__setattr__(self, name, str(Path(value).expanduser()))
            except RuntimeError as error:  # ~ of nobody, or without a home
                raise ConfigError(f"paths.{name}={value}: {error}") from error


@with_config(_FORBID)
@dataclass(frozen=True)
class Directions:
    """What is done to the directions of any zeroth-order method; the optimizer checks it with its
    module."""

    sparsity: float
    mask_scope: Literal["layer", "global"]
    mask_interval: int
    blocks: Literal["none", "transformer", "halves", "linear", "tensor"]

    def __post_init__(self) -> None:  # before a model is loaded
        if not 0 <= self.sparsity < 1:
            raise ConfigError(
                f"directions.sparsity={self.sparsity}: the share of zeros is in [0, 1); 0 is dense"
            )
        if self.mask_interval < 1:
            raise ConfigError(f"directions.mask_interval={self.mask_interval}: must be at least 1")

    @property
    def dense(self) -> bool:
        """True where the method is as it is: every entry of a direction counts, in one estimate."""
        return self.sparsity == 0 and self.blocks == "none"


@with_config(_FORBID)
@dataclass(frozen=True)
class Parallel:
    """How the processes of torchrun split the work, and how long one waits for another."""

    queries: bool
    timeout_seconds: float

    def __post_init__(self) -> None:
        if self.timeout_seconds <= 0:
            raise ConfigError(
                f"parallel.timeout_seconds={self.timeout_seconds}: must be more than 0"
            )


@with_config(_FORBID)
@dataclass(frozen=True)
class RunConfig:
    """One resolved configuration; the dictionaries hold a `_target_` and its constructor's
    arguments."""

    seed: int
    device: Literal["auto", "cpu", "cuda"]
    threads: int | Literal["auto"] | None
    directions: Directions
    parallel: Parallel
    model: dict[str, Any]
    task: dict[str, Any]
    data: dict[str, Any]
    optimizer: dict[str, Any]
    tuning: Tuning
    precision: Precision
    protocol: Protocol
    checkpoint: Checkpoint
    fidelity: Fidelity
    tracker: Tracker
    paths: Paths

    def __post_init__(self) -> None:
        # torch ends the process for too many
        if isinstance(self.threads, int) and not 1 <= self.threads <= MOST_THREADS:
            raise ConfigError(f"threads={self.threads}: must be 1 to {MOST_THREADS}, auto, or null")
        if isinstance(self.tuning, InContext) and self.protocol.num_steps:
            raise ConfigError(
                f"protocol.num_steps={self.protocol.num_steps}: tuning=zero-shot and"
                " tuning=in-context train nothing; protocol=zero-shot goes with them"
            )
        if isinstance(self.tuning, Prefix) and self.optimizer.get("gradient_checkpointing"):
            raise ConfigError(
                "optimizer.gradient_checkpointing=true: a layer's second pass would put its keys"
                " behind the prefix again; false is valid with tuning=prefix"
            )
        if self.quantization != "none" and isinstance(self.tuning, (Full, Named, InContext)):
            raise ConfigError(
                f"model.quantization={self.quantization}: its matrices are frozen, and tuning="
                f"{self.tuning.method} adds nothing that trains; tuning=lora, prefix, prompt,"
                " linear-probe or scales is valid"
            )
        if isinstance(self.tuning, Scales) and self.quantization == "none":
            raise ConfigError(
                "tuning=scales: trains the scales of a quantised base, and model.quantization=none;"
                " model.quantization=nf4 is valid, and in fp32 int8"
            )
        if self.precision.rounding == "stochastic" and "rounding" not in self.optimizer:
            raise ConfigError(
                "precision.rounding=stochastic: torch's optimizers round to the nearest, which"
                " precision=bf16 says"
            )

    @property
    def quantization(self) -> str:
        """Of the model's matrices, "none" where they are as they were stored."""
        return self.model.get("quantization", "none")

    @property
    def optimizer_node(self) -> dict[str, Any]:
        """What `experiments.training.build.make_optimizer` needs to build the optimizer."""
        return (
            self.optimizer
            if self.directions.dense
            else {**self.optimizer, "directions": asdict(self.directions)}
        )

    @property
    def log_node(self) -> dict[str, Any]:
        """`optimizer_node`, and what builds the trained parameters where they are not the model's
        own: the adapter, and what its base is quantised to."""
        if isinstance(self.tuning, Full):
            return self.optimizer_node
        choice = asdict(self.tuning)
        drop_unsaid(choice)
        num_labels = len(self.task.get("label_names") or ())
        attached = {"choice": choice, "num_labels": num_labels, "seed": self.seed}
        base = {} if self.quantization == "none" else {"quantization": self.quantization}
        return {**self.optimizer_node, "tuning": attached, **base}


# The arguments that the runner passes itself, by group: a config file does not hold them.
SUPPLIED = {
    "model": ("dtype", "device"),
    "task": (),
    "data": (),
    "optimizer": ("params", "module", "directions"),
}


def _check_lengths(config: Mapping[str, Any]) -> None:
    """Refuse a path or a name that no file system takes, before any file is looked for."""
    for key in PATHS:
        group, _, name = key.partition(".")
        node = config.get(group)
        value = node.get(name) if isinstance(node, Mapping) else None
        parts = [len(os.fsencode(part)) for part in str(value).split("/")]
        if sum(parts) + len(parts) > MOST_PATH_BYTES or max(parts) > MOST_NAME_BYTES:
            raise ConfigError(
                f"{key}={value!s:.80}...: too long; a path has at most {MOST_PATH_BYTES} bytes,"
                f" each name in it {MOST_NAME_BYTES}"
            )
    for group in ("task", "model"):  # the names of record files have both in them
        node = config.get(group)
        name = str(node.get("name")) if isinstance(node, Mapping) else ""
        if len(os.fsencode(name)) > MOST_TITLE_BYTES:
            raise ConfigError(
                f"{group}.name={name:.80}...: must have at most {MOST_TITLE_BYTES} bytes"
            )


def parse(config: Mapping[str, Any]) -> RunConfig:
    """The typed form of a resolved configuration, every `_target_` in it checked, nothing loaded.

    Raises:
        ConfigError: the key that is unknown, missing or of the wrong type, and what would be valid.
    """
    check_values(config)
    _check_lengths(config)
    run = typed(RunConfig, config, "")
    check_targets(config)
    for group, supplied in SUPPLIED.items():
        check_arguments(config[group], group, supplied)
    return run
