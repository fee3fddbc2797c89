"""Building of a run's parts from its configuration: rows, model, encoded examples, optimizer."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from bszo.allocator import keep_freed_memory
from bszo.errors import BszoError, ConfigError, ModelError, OptimError, one_line
from bszo.models import (
    Encoded,
    GenerativeModel,
    LanguageModel,
    ProbedModel,
    fit_label_bias,
    fit_probe,
    parameter_groups,
    resolve_device,
    weights_fingerprint,
)
from bszo.models.gguf import ENDING, origin_of
from bszo.models.locate import named_folder
from bszo.models.quantized import described
from bszo.tasks import (
    Example,
    GenerationTask,
    Row,
    Splits,
    Task,
    demonstrated,
    fingerprint,
    make_splits,
    overlaps,
)
from experiments.config.schema import RunConfig
from experiments.config.tunings import LinearProbe, Scales, drop_unsaid
from experiments.records.content import ROWS, content_id
from experiments.training.folders import with_home
from experiments.training.threads import num_threads

log = logging.getLogger("experiments")


@dataclass(frozen=True)
class Parts:
    """The parts of a run: its model, its optimizer and its encoded examples.

    `data` and `model_facts` are what the record says about the rows and the model.
    """

    model: LanguageModel
    optimizer: torch.optim.Optimizer
    train: list[Encoded]
    validation: list[Encoded]
    test: list[Encoded]
    data: dict[str, Any]
    model_facts: dict[str, Any]

    @property
    def begins_with(self) -> str:
        """What the model is before the first step."""
        fitted = [name for name in ("label_bias", "probe") if name in self.model_facts]
        shown = " and ".join(f"a {name.replace('_', ' ')}" for name in fitted)
        return f"{shown}, fitted" if fitted else "zero-shot"


def by_content(config: RunConfig) -> dict[str, Any]:
    """The configuration as signature and record have it, with local folders named by what they
    hold."""
    plain = asdict(config)
    drop_unsaid(plain["tuning"])
    return named_by_content(plain)


def named_by_content(plain: dict[str, Any]) -> dict[str, Any]:
    """The same for a configuration of plain mappings, which is changed in place and returned.

    Only its groups model, data and task are read.
    """
    path = _model_folder(str(plain["model"].get("path", "")))
    # a folder without a configuration is no model: the build says so, and it may hold anything
    if path is not None and (_is_gguf(path) or (path / "config.json").is_file()):
        plain["model"]["path"] = _content_id(path, "model.path")
    for key in ("device_map", "offload"):  # they say where a model is, as device does
        plain["model"].pop(key, None)
    if plain["data"].get("root"):
        rows = with_home(plain["data"]["root"], "data.root") / str(plain["task"].get("name"))
        if rows.is_dir():
            plain["data"]["root"] = _content_id(rows, "data.root", ROWS)
    return plain


def made_there(
    records: Sequence[dict[str, Any]], model: Mapping[str, Any], data: Mapping[str, Any]
) -> list[Any]:
    """Those of the records whose runs had this model and these rows.

    Args:
        records: of any model and any rows.
        model, data: the nodes of a configuration. The folders that they name are compared by what
            they hold.
    """

    def place(task: str) -> tuple[Any, Any]:
        named = named_by_content({"model": dict(model), "data": dict(data), "task": {"name": task}})
        return named["model"].get("path"), named["data"].get("root")

    places = {task: place(task) for task in {record["choices"]["task"] for record in records}}
    return [
        record
        for record in records
        if places[record["choices"]["task"]]
        == (record["config"]["model"].get("path"), record["config"].get("data", {}).get("root"))
    ]


def _is_gguf(path: Path) -> bool:
    return path.name.endswith(ENDING) and path.is_file()


def _model_folder(path: str) -> Path | None:
    """The folder or GGUF file of a model; None if there is none, which the build will say."""
    try:
        return named_folder(path)
    except ModelError:
        return None


def _content_id(path: Path, key: str, only: str = "*") -> str:
    try:
        return content_id(path, only)
    except OSError as error:
        raise ConfigError(f"{key}={path}: cannot be read ({error.strerror})") from error


def build(config: RunConfig) -> Parts:
    """Build every part of a run.

    The rows come first, since a fault in them is found at the least cost.

    Raises:
        BszoError: one line about the row, file, model or argument that cannot be used.
    """
    keep_freed_memory()
    device = resolve_device(config.device)
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: torch finds no GPU here; choose cpu or auto")
    if config.threads is not None:
        torch.set_num_threads(num_threads(config.threads, 0))
    task: Task = _make(config.task)
    splits = make_splits(
        task, _make(config.data), order=config.fidelity.train_rows, seed=config.data["seed"]
    )
    model = _model(config, task, device)
    if config.threads is not None:
        size = sum(parameter.numel() for parameter in model.module.parameters())
        torch.set_num_threads(num_threads(config.threads, size))
    encoded = _encoded(config, task, splits, model)
    fitted = _fit(config, model, encoded["train"])
    data = {
        "fingerprints": {name: fingerprint(getattr(splits, name)) for name in encoded},
        "num_examples": {name: len(examples) for name, examples in encoded.items()},
        "num_truncated": {
            name: sum(e.truncated for e in examples) for name, examples in encoded.items()
        },
        "num_overlapping": overlaps(task, splits),
    }
    for name, count in data["num_truncated"].items():
        if count:
            log.warning(
                "%d of %d %s prompts were cut to fit the model",
                count,
                len(encoded[name]),
                name,
            )
    for name, count in data["num_overlapping"].items():
        if count:
            log.warning(
                "%d of %d %s rows have the text of a training row",
                count,
                len(getattr(splits, name)),
                name,
            )
    parameters = [parameter for parameter in model.module.parameters() if parameter.requires_grad]
    facts = {
        "fingerprint": weights_fingerprint(model.module),
        "num_parameters": sum(parameter.numel() for parameter in parameters),
        "style": model.style,
        **fitted,
    }
    folder = _model_folder(str(config.model["path"]))
    if folder is not None and (origin := origin_of(folder)):
        facts["origin"] = origin  # of weights that were quantised before
    if quantized := described(config.quantization):
        facts["quantization"] = quantized  # of the matrices that the run held frozen
    if config.model.get("offload") is not None:
        facts["on_disk"] = True  # the peak of memory counts the pages of the file that are resident
    optimizer = make_optimizer(config.optimizer_node, model)
    if task.reward is not None and not getattr(optimizer, "losses_suffice", False):
        raise ConfigError(
            f"task.objective={task.objective}: has no gradient, which this optimizer needs;"
            f" task.objective={task.LIKELIHOOD or 'null'} has one, and zeroth-order methods need"
            " none"
        )
    if isinstance(config.tuning, Scales) and not getattr(optimizer, "losses_suffice", False):
        raise ConfigError(
            "tuning=scales: trains by losses alone, for a layer in nf4 has no derivative by its"
            " scales, and this optimizer needs one; zeroth-order methods need none, such as"
            " optimizer=mezo"
        )
    return Parts(model, optimizer, **encoded, data=data, model_facts=facts)


def _fit(config: RunConfig, model: LanguageModel, train: Sequence[Encoded]) -> dict[str, Any]:
    """Give the model what is fitted to the training rows before the first step, each at one look at
    every row; what the record says of it."""
    tokens, facts = config.protocol.eval_max_tokens, {}
    if config.protocol.label_bias == "fitted":
        model.label_bias = fit_label_bias(model, train, max_tokens=tokens)
        facts["label_bias"] = model.label_bias.tolist()
    if isinstance(config.tuning, LinearProbe) and config.tuning.start == "fitted":
        assert isinstance(model, ProbedModel)
        probe = fit_probe(model, train, max_tokens=tokens)
        model.set_head(probe.weight, probe.bias)
        losses = [[spread, loss] for spread, loss in probe.losses.items()]
        facts["probe"] = {"spread": probe.spread, "held_out_losses": losses}
    return facts


def _model(config: RunConfig, task: Task, device: str) -> LanguageModel:
    """The model with its adapter, if it has one, and for a task of generation as a generator."""
    # nothing but parameters that a model has to initialise draws from the global generator
    torch.manual_seed(config.seed)
    base = _make(config.model, dtype=config.precision.dtype, device=device)
    model = config.tuning.attach(base, task.num_labels, config.seed)
    if isinstance(task, GenerationTask):
        return GenerativeModel(model, task, seed=config.seed)
    model.rewarded = task if task.reward is not None else None
    return model


def _encoded(
    config: RunConfig, task: Task, splits: Splits, model: LanguageModel
) -> dict[str, list[Encoded]]:
    """The examples of every split as the model sees them, with demonstrations in front if the
    configuration asks for them."""
    most = config.protocol.max_eval_examples

    def read(rows: Sequence[Row]) -> list[Example]:
        words = config.fidelity.label_words
        return [task.example(row.values, model.style, words, where=row.where) for row in rows]

    def scored(name: str) -> list[Example]:
        examples = read(getattr(splits, name))
        first = {example.label for example in examples[:most]}
        if len(first) == 1 < len({example.label for example in examples}):  # one answer would do
            other = next(i for i, e in enumerate(examples, 1) if e.label not in first)
            raise ConfigError(
                f"protocol.max_eval_examples={most}: the first {most} rows of {name} have one label"
                f" only; null, or {other} and more, is valid"
            )
        return examples[:most]

    train = read(splits.train)
    shots = config.tuning.shots(train, config.seed)
    examples = {"train": train, "validation": scored("validation"), "test": scored("test")}
    return {
        name: model.encode([demonstrated(e, shots, model.style) for e in part])
        for name, part in examples.items()
    }


def _make(node: dict[str, Any], **supplied: Any) -> Any:
    """What a node's `_target_` makes of its keys and of what is supplied here."""
    try:
        return instantiate({**node, **supplied}, _convert_="all")
    except InstantiationException as error:  # Hydra wraps what the constructor raised
        if isinstance(error.__cause__, BszoError):
            raise error.__cause__ from None
        raise


def make_optimizer(node: dict[str, Any], model: LanguageModel) -> torch.optim.Optimizer:
    """The optimizer of a node, on the trainable parameters of the model.

    The parameters are in two groups, for every method alike: matrices decay, biases and norms do
    not.
    """
    node = dict(node)
    directions = node.pop("directions", None)
    inner = node.get("algorithm", {})
    groups = parameter_groups(
        model.module, node.get("weight_decay", inner.get("weight_decay", 0.0))
    )
    try:
        optimizer = _make(node)(groups, module=model.module)
    except OptimError as error:  # its message begins with the argument's name
        raise ConfigError(f"optimizer.{error}") from error
    except (ValueError, InstantiationException) as error:  # from torch's own optimizers
        raise ConfigError(f"optimizer: {one_line(error.__cause__ or error)}") from error
    return optimizer if directions is None else _restrict(optimizer, directions)


def _restrict(optimizer: Any, directions: dict[str, Any]) -> torch.optim.Optimizer:
    if not hasattr(optimizer, "restrict"):
        raise ConfigError(
            f"directions: {type(optimizer).__name__} follows true gradients and draws none;"
            " directions.sparsity=0 directions.blocks=none is valid"
        )
    try:
        return optimizer.restrict(**directions)
    except OptimError as error:
        raise ConfigError(f"directions.{error}") from error
