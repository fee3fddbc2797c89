"""What `bszo tune` and `bszo find-lr` are told of, and build: rows, model and optimizer."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bszo.allocator import keep_freed_memory
from bszo.cli.adapters import ADAPTERS, attached
from bszo.cli.methods import METHODS, arguments_of
from bszo.cli.rows import Rows, read_rows
from bszo.errors import ConfigError, OptimError
from bszo.models import (
    EachLoss,
    Encoded,
    LanguageModel,
    ProbedModel,
    fit_probe,
    load_model,
    parameter_groups,
    resolve_device,
)
from bszo.models.load import KINDS
from bszo.tasks import batches

DTYPES = ("float32", "bfloat16", "float16")
MOST_TOKENS = 16_384  # padded positions of a pass that scores
MOST_THREADS = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, rows, method and what they need."""
    parser.add_argument(
        "model", metavar="MODEL", help="a folder, a name on the hub, a GGUF file, or asset:tiny-opt"
    )
    parser.add_argument("rows", metavar="ROWS.jsonl", type=Path, help="one JSON object a line")
    rows = parser.add_argument_group("rows")
    rows.add_argument(
        "--prompt",
        required=True,
        help='what a row asks, such as "{sentence} It was", with its fields in braces; a masked'
        " model's holds <mask>",
    )
    rows.add_argument(
        "--options", required=True, nargs="+", metavar="TEXT", help="the answers, in label order"
    )
    rows.add_argument(
        "--label",
        default="label",
        metavar="FIELD",
        help="the field with the right answer: its number from 0, or its name (label)",
    )
    rows.add_argument(
        "--labels", nargs="+", metavar="NAME", help="names of the labels (default: the options)"
    )
    held = rows.add_mutually_exclusive_group()
    held.add_argument(
        "--held-out",
        type=int,
        metavar="N",
        help="rows that do not train and score the model (default: a fifth, at most 500)",
    )
    held.add_argument("--test", type=Path, metavar="FILE", help="other rows that score the model")
    method = parser.add_argument_group("method")
    method.add_argument("--method", default="bszo", metavar="NAME", help=", ".join(METHODS))
    method.add_argument("--lr", type=float, metavar="RATE", help="default: the method's")
    method.add_argument(
        "--eps", type=float, metavar="LENGTH", help="default: the method's; 1e-3 in 16 bits"
    )
    method.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="another of its arguments"
    )
    method.add_argument("--batch-size", type=int, default=16, metavar="ROWS", help="(16)")
    method.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of batches, directions, adapters (0)"
    )
    model = parser.add_argument_group("model")
    model.add_argument("--tuning", default="full", choices=ADAPTERS, help="what trains (full)")
    model.add_argument("--parameters", nargs="+", metavar="NAME", help="of named, such as '*bias'")
    model.add_argument("--rank", type=int, metavar="N", help="of lora (8)")
    model.add_argument("--alpha", type=float, metavar="A", help="of lora (16)")
    model.add_argument("--num-tokens", type=int, metavar="N", help="of prefix and prompt (5)")
    model.add_argument(
        "--start",
        default="zero",
        choices=("zero", "fitted"),
        help="of linear-probe: fitted to the training rows at once, with --steps 0 all there is",
    )
    model.add_argument(
        "--quantization", default="none", choices=("none", "nf4", "int8"), help="of a frozen base"
    )
    model.add_argument("--dtype", choices=DTYPES, help="float32 on a CPU, bfloat16 on a GPU")
    model.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1")
    model.add_argument(
        "--offload", metavar="DIR", help="of a disk: parameters stand there instead of in memory"
    )
    model.add_argument(
        "--kind", default="auto", choices=KINDS, help="what it is, where its files do not say"
    )
    model.add_argument("--max-length", type=int, default=2048, metavar="TOKENS", help="(2048)")
    model.add_argument(
        "--threads", type=int, metavar="N", help="of torch on a CPU; 1 suits a tiny model"
    )


@dataclass(frozen=True)
class Parts:
    """Rows, model and optimizer of a run, ready to go.

    Attributes:
        train, held: the rows as the model reads them.
        node: by which a replay builds the optimizer and the adapter again; the suite's form.
    """

    rows: Rows
    model: LanguageModel
    optimizer: Any
    train: list[Encoded]
    held: list[Encoded]
    node: dict[str, Any]
    batch_size: int
    seed: int

    def closure(self, encoded: list[Encoded]) -> Callable[[], Any]:
        """() -> the loss of one batch, as the method's step takes it."""
        model, batch = self.model, self.model.collate(encoded)
        if self.optimizer.per_example:
            return EachLoss(model, batch)
        return lambda: model.loss(batch)

    def closures(self) -> Any:
        """One closure a step, without end; the order is the seed's."""
        for indices in batches(len(self.train), self.batch_size, self.seed):
            yield self.closure([self.train[i] for i in indices])


def build(arguments: argparse.Namespace) -> Parts:
    """Everything, in the order in which it can fail soonest.

    Raises:
        BszoError: one line about the argument, row, file or model that cannot be used.
    """
    keep_freed_memory()
    if arguments.threads is not None:
        if not 1 <= arguments.threads <= MOST_THREADS:
            raise ConfigError(f"--threads {arguments.threads}: 1 to {MOST_THREADS} is valid")
        torch.set_num_threads(arguments.threads)
    if not 0 <= arguments.seed < 2**63:
        raise ConfigError(f"--seed {arguments.seed}: 0 to {2**63 - 1} is valid")
    device = resolve_device(arguments.device)
    dtype = arguments.dtype or ("bfloat16" if device.startswith("cuda") else "float32")
    cls, found = arguments_of(
        arguments.method,
        arguments.set,
        lr=arguments.lr,
        eps=arguments.eps,
        dtype=dtype,
        seed=arguments.seed,
    )
    choice = _choice(arguments)
    rows = read_rows(
        arguments.rows,
        prompt=arguments.prompt,
        options=arguments.options,
        label=arguments.label,
        label_names=arguments.labels,
        test=arguments.test,
        num_held=arguments.held_out,
    )
    batches(len(rows.train), arguments.batch_size, arguments.seed)  # refuses a size
    model = load_model(
        arguments.model,
        kind=arguments.kind,
        dtype=dtype,
        device=device,
        max_length=arguments.max_length,
        packed=False if choice["method"] in ("prefix", "prompt") else None,
        quantization=arguments.quantization,
        offload=arguments.offload,
    )
    if model.style != rows.style:
        raise ConfigError(
            f"--prompt: is for a {rows.style} model and {model.name} is {model.style};"
            f" {'with one <mask>' if model.style == 'masked' else 'without <mask>'} it is valid"
        )
    model = attached(model, choice, num_labels=len(rows.task.label_names), seed=arguments.seed)
    train, held = model.encode(rows.train), model.encode(rows.held)
    if arguments.start == "fitted":
        assert isinstance(model, ProbedModel)
        probe = fit_probe(model, train, max_tokens=MOST_TOKENS)
        model.set_head(probe.weight, probe.bias)
        choice["start"] = "fitted"
    if cut := sum(example.truncated for example in (*train, *held)):
        print(f"{cut} rows are longer than {model.limit} tokens and were cut", file=sys.stderr)
    groups = parameter_groups(model.module, _decay(found))
    try:
        optimizer = cls(groups, module=model.module, **found)
    except OptimError as error:  # its message begins with the argument's name
        raise ConfigError(f"{arguments.method}: {error}") from error
    node = {"_target_": f"bszo.{cls.__name__}", "_partial_": True, **found}
    node |= {"dtype": dtype, "threads": torch.get_num_threads()}
    if choice["method"] != "full":
        node["tuning"] = {
            "choice": choice,
            "num_labels": len(rows.task.label_names),
            "seed": arguments.seed,
        }
        if arguments.quantization != "none":
            node["quantization"] = arguments.quantization
    return Parts(rows, model, optimizer, train, held, node, arguments.batch_size, arguments.seed)


def _choice(arguments: argparse.Namespace) -> dict[str, Any]:
    """What trains, as plain data."""
    method = arguments.tuning
    if arguments.quantization != "none" and method in ("full", "named"):
        raise ConfigError(
            f"--quantization {arguments.quantization}: the base is frozen, and --tuning lora,"
            " prefix, prompt or scales is valid"
        )
    if (method == "named") != bool(arguments.parameters):
        raise ConfigError(
            f"--tuning {method}: --parameters NAME ... goes with --tuning named, which needs it"
        )
    if arguments.start == "fitted" and method != "linear-probe":
        raise ConfigError(
            f"--start fitted: it goes with --tuning linear-probe, here it is {method}"
        )
    usual = {"rank": 8, "alpha": 16.0, "num_tokens": 5}
    said = {name: value for name in usual if (value := getattr(arguments, name)) is not None}
    for name in sorted(said.keys() - ADAPTERS[method].keys()):
        takes = " or ".join(tuning for tuning in ADAPTERS if name in ADAPTERS[tuning])
        other = f"; that of --method is --set rank={said[name]}" if name == "rank" else ""
        raise ConfigError(
            f"--{name.replace('_', '-')} {said[name]:g}: it goes with --tuning {takes}, here it is"
            f" {method}{other}"
        )
    given = {**vars(arguments), **usual, **said}
    return {"method": method, **{name: given[name] for name in ADAPTERS[method]}}


def _decay(found: dict[str, Any]) -> float:
    """The weight decay, by which parameters are grouped; the optimizer says if it is none."""
    decay = found.get("weight_decay", 0.0)
    return float(decay) if isinstance(decay, (int, float)) else 0.0


def say_begin(parts: Parts, arguments: argparse.Namespace) -> None:
    """What is about to run, and the first row as the model reads it."""
    group, first = parts.optimizer.param_groups[0], parts.rows.train[0]
    eps = f", eps {group['eps']:g}" if "eps" in group else ""
    rate = "" if arguments.lr is not None else " (the method's default; bszo find-lr tests others)"
    trainable = sum(p.numel() for p in parts.optimizer.trainable())
    method = f"{arguments.method} on {trainable:,} parameters of {parts.model.name}"
    method += f": lr {group['lr']:g}{rate}{eps}"
    if not arguments.steps:
        method = f"a linear probe of {parts.model.name}, fitted"
    print(f"{method}; {len(parts.train)} rows train, {len(parts.held)} score")
    answers = " | ".join(map(repr, first.options))
    print(f"a row reads {first.prompt!r} + {answers}", flush=True)
