"""Drift of a walk: how far N steps at lr 0, which learn nothing, carry the weights away, and which
perplexity these then have.

    python -m scripts.study.drift --model ../shared/models/stories260k-llama --text story.txt
    python -m scripts.study.drift                      # a shipped tiny model, on its own text
    python -m scripts.study.drift --model synthetic    # one matrix, N(0, 0.02); no perplexity

It writes results/measured/walk/<model>.json after every point. Curves that are complete there are
not walked again. `experiments.check_drift` asks the same of the model of a run, at one number of
steps.
"""

import argparse
import copy
import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from bszo import BSZO, MeZO
from bszo.files import written_whole
from bszo.models import LanguageModel, load_model
from bszo.perturb.directions import gaussian
from experiments.records.provenance import of_script
from experiments.tables.sources import MEASURED
from experiments.training.drift import drift

WALKS: dict[str, Callable[..., Any]] = {
    "three-leg": partial(MeZO, perturbation="three-leg"),
    "two-leg": partial(BSZO, perturbation="two-leg"),
    "exact": partial(MeZO, perturbation="copy"),
}
SYNTHETIC = "synthetic"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def written_by(model: LanguageModel, count: int) -> Tensor:
    """Return (1, count) tokens that the model draws itself, from a generator of its own, so that it
    knows the text."""
    generator = torch.Generator().manual_seed(0)
    start = model.tokenizer.bos_token_id
    ids = torch.tensor([[start if start is not None else model.pad_id]])
    while ids.shape[1] < count:
        probability = model.module(input_ids=ids, use_cache=False).logits[0, -1].softmax(-1)
        ids = torch.cat([ids, torch.multinomial(probability, 1, generator=generator)[None]], dim=1)
    return ids


def tokens_of(model: LanguageModel, text: Path | None, count: int) -> Tensor:
    """Return (1, T) tokens: at most `count`, and at most as many as the model has positions."""
    count = min(count, model.limit)
    if text is None:
        return written_by(model, count)
    return model.tokenizer(text.read_text(encoding="utf-8"), return_tensors="pt").input_ids[
        :, :count
    ]


def perplexity(module: nn.Module, ids: Tensor) -> float:
    """Return exp of the mean negative log-probability a token, in fp32 from the module's logits."""
    logits = module(input_ids=ids, use_cache=False).logits[0, :-1].float()
    loss = nn.functional.cross_entropy(logits, ids[0, 1:]).item()
    return math.exp(loss) if loss < 700 else math.inf


class Matrix(nn.Module):
    """A layer that is called as a language model is, with ids that it does not read."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(256, 256, bias=False)
        with torch.no_grad():
            self.layer.weight.normal_(0.0, 0.02, generator=torch.Generator().manual_seed(0))

    def forward(self, **inputs: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self.layer(torch.ones(1, 256, dtype=self.layer.weight.dtype)))


def subject(args: argparse.Namespace) -> tuple[str, nn.Module, Tensor | None]:
    """Return what walks: its name, the module, and the text that it is scored on."""
    if args.model == SYNTHETIC:
        return SYNTHETIC, Matrix(), None
    model = load_model(args.model, dtype="float32", kind="causal")
    with torch.no_grad():
        ids = tokens_of(model, args.text, args.tokens)
    named = args.model.removeprefix("asset:").removeprefix("cache:")
    name = Path(args.model).name if named == args.model else named.partition("@")[0]
    return name, model.module, ids


def log_spaced(last: int) -> list[int]:
    """Return 0, 1, 2, 5, 10, 20, 50, ... and the last step."""
    steps = [digit * 10**power for power in range(len(str(last))) for digit in (1, 2, 5)]
    return [0, *(step for step in steps if step < last), last]


@torch.no_grad()
def walk(
    module: nn.Module, how: str, eps: float, last: int, ids: Tensor | None
) -> Iterator[dict[str, Any]]:
    """Yield the points of one curve. At lr 0 nothing depends on the loss, so that none is
    computed."""
    start = [p.detach().clone() for p in module.parameters()]
    optimizer = WALKS[how](module.parameters(), lr=0.0, eps=eps, seed=0)
    for step in log_spaced(last):
        while optimizer.num_steps < step:
            optimizer.step(lambda: 0.0)
        score = math.inf if ids is None else perplexity(module, ids)
        yield {
            "step": step,
            "drift": drift(module.parameters(), start),
            "perplexity": score if math.isfinite(score) else None,
        }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        default="asset:tiny-mistral",
        help=f"folder of a causal model, asset:NAME, cache:NAME@HEX, or {SYNTHETIC}",
    )
    parser.add_argument(
        "--text", type=Path, help="UTF-8 file; by default the model writes it itself, in fp32"
    )
    parser.add_argument("--tokens", type=int, default=256, help="of the text, at most")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--walks", nargs="+", default=list(WALKS), choices=list(WALKS))
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--eps", nargs="+", type=float, default=[1e-4, 1e-3])
    parser.add_argument("--out", type=Path, default=MEASURED / "walk")
    return parser.parse_args()


def main() -> None:
    """Walk every curve that is not complete yet."""
    args = parse()
    torch.set_num_threads(1)
    # the compiled kernel, where a model is too large to keep its z for a step
    gaussian.COMPILE_FROM = 0
    name, subject_module, ids = subject(args)
    setting = {
        "model": name,
        "num_parameters": sum(p.numel() for p in subject_module.parameters()),
        "text": args.text.name if args.text else "none" if ids is None else "its own",
        "num_tokens": 0 if ids is None else ids.shape[1],
    }
    path = args.out / f"{name}.json"
    report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if report.get("setting") != setting:
        report = {"setting": setting, "curves": {}}
    for dtype, eps, how in ((d, e, w) for d in args.dtypes for e in args.eps for w in args.walks):
        key = f"{dtype} {eps:g} {how} {args.steps}"
        if report["curves"].get(key, {}).get("complete"):
            continue
        module = copy.deepcopy(subject_module).to(DTYPES[dtype])
        curve: dict[str, Any] = {
            "dtype": dtype,
            "eps": eps,
            "walk": how,
            "points": [],
            "complete": False,
            "provenance": of_script("scripts.study.drift", None),
        }
        report["curves"][key] = curve
        for point in walk(module, how, eps, args.steps, ids):
            curve["points"].append(point)
            curve["complete"] = point["step"] == args.steps
            with written_whole(path) as temporary:
                temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        first, final = curve["points"][0], curve["points"][-1]
        print(f"{key}: drift {final['drift']:.3g}", end="" if ids is not None else "\n", flush=True)
        if ids is not None:
            before, after = (point["perplexity"] or math.inf for point in (first, final))
            print(f", perplexity {before:.3g} -> {after:.3g}", flush=True)


if __name__ == "__main__":
    main()
