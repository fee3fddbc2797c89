"""From a typed configuration to the parts of a run: rows, model, encoded examples, optimizer."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

import bszo.models
from bszo.errors import BszoError, ConfigError, OptimError
from bszo.models import Encoded, LanguageModel, parameter_groups, weights_fingerprint
from bszo.tasks import Row, Task, fingerprint, make_splits
from experiments.provenance import content_id
from experiments.schema import RunConfig


@dataclass(frozen=True)
class Parts:
    """All that a run needs; `data` and `model_facts` are what its record says about them."""

    model: LanguageModel
    optimizer: torch.optim.Optimizer
    train: list[Encoded]
    validation: list[Encoded]
    test: list[Encoded]
    data: dict[str, Any]
    model_facts: dict[str, Any]


def resolve_device(device: str) -> str:
    """ "cuda" or "cpu"; auto takes the GPU where there is one."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def by_content(config: RunConfig) -> dict[str, Any]:
    """The configuration for signature and record: local folders named by what they hold."""
    plain = asdict(config)
    path = Path(str(plain["model"].get("path", ""))).expanduser()
    asset = str(plain["model"].get("path", "")).removeprefix("asset:")
    if str(path).startswith("asset:"):
        path = Path(bszo.models.__file__).parent / "assets" / asset
    if path.is_dir() and path.name:
        plain["model"]["path"] = content_id(path)
    plain["model"].pop("device_map", None)  # where it runs, like device
    if plain["data"].get("root"):
        rows = Path(plain["data"]["root"]).expanduser() / str(plain["task"].get("name"))
        if rows.is_dir():
            plain["data"]["root"] = content_id(rows)
    return plain


def build(config: RunConfig) -> Parts:
    """Build every part, rows first: they are the cheapest to be wrong.

    Raises:
        BszoError: one line about the row, file, model or argument that cannot be used.
    """
    device = resolve_device(config.device)
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: torch finds no GPU here; choose cpu or auto")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    task: Task = _make(config.task)
    splits = make_splits(task, _make(config.data), order=config.fidelity.train_rows, seed=config.data["seed"])
    torch.manual_seed(config.seed)  # for parameters that a model has to initialise, and nothing else
    model: LanguageModel = _make(config.model, dtype=config.precision.dtype, device=device)
    most = config.protocol.max_eval_examples

    def encode(rows: Sequence[Row]) -> list[Encoded]:
        words = config.fidelity.label_words
        return model.encode([task.example(row.values, model.style, words, where=row.where) for row in rows])

    encoded = {
        "train": encode(splits.train),
        "validation": encode(splits.validation[:most]),
        "test": encode(splits.test[:most]),
    }
    data = {
        "fingerprints": {name: fingerprint(getattr(splits, name)) for name in encoded},
        "num_examples": {name: len(examples) for name, examples in encoded.items()},
        "num_truncated": {name: sum(e.truncated for e in examples) for name, examples in encoded.items()},
    }
    parameters = [parameter for parameter in model.module.parameters() if parameter.requires_grad]
    facts = {
        "fingerprint": weights_fingerprint(model.module),
        "num_parameters": sum(parameter.numel() for parameter in parameters),
        "style": model.style,
    }
    optimizer = make_optimizer(config.optimizer, model)
    return Parts(model, optimizer, **encoded, data=data, model_facts=facts)


def _make(node: dict[str, Any], **supplied: Any) -> Any:
    try:
        return instantiate({**node, **supplied}, _convert_="all")
    except InstantiationException as error:  # Hydra wraps what the constructor raised
        if isinstance(error.__cause__, BszoError):
            raise error.__cause__ from None
        raise


def make_optimizer(node: dict[str, Any], model: LanguageModel) -> torch.optim.Optimizer:
    """Matrices decay, biases and norms do not: the groups carry it, for every method alike."""
    inner = node.get("algorithm", {})
    groups = parameter_groups(model.module, node.get("weight_decay", inner.get("weight_decay", 0.0)))
    try:
        return _make(node)(groups, module=model.module)
    except OptimError as error:  # its message begins with the argument's name
        raise ConfigError(f"optimizer.{error}") from error
    except (ValueError, InstantiationException) as error:  # from torch's own optimizers
        raise ConfigError(f"optimizer: {' '.join(str(error.__cause__ or error).split())}") from error
