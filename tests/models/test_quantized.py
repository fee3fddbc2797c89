"""A quantised base answers with the numbers that its integers stand for, and stays as it is."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import bszo
from bszo.errors import MissingExtra, ModelError, OptimError
from bszo.models import (
    EachLoss,
    LanguageModel,
    ProbedModel,
    load_model,
    parameter_groups,
    tuning,
    weights_fingerprint,
)
from bszo.models.quantized import LIBRARIES, is_quantized, parts_of
from bszo.models.saved import save_tuned
from bszo.models.scales import load_scales, scales, scales_of
from bszo.tasks import Example
from experiments import CONF
from experiments.config.compose import compose
from experiments.training.build import make_optimizer

EXAMPLES = [
    Example("x:0", "the movie was", (" great", " terrible"), 1),
    Example("x:1", "It was", (" great", " terrible"), 0),
]
# of a normal distribution between -1 and 1; Dettmers et al. 2023, appendix E
LEVELS = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


def nf4(matrix: np.ndarray, stored: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """What two weights a byte stand for, the first in its upper half: of each 64 in a row the
    largest size times a level. And how far a weight is from the nearest such number."""
    packed, size = stored[0].reshape(-1), np.abs(matrix).reshape(-1, 64).max(axis=1, keepdims=True)
    np.testing.assert_allclose(stored[1], size[:, 0], rtol=1e-6)
    numbers = np.array(LEVELS)[np.stack([packed >> 4, packed & 15], axis=1)].reshape(-1, 64) * size
    choices = np.array(LEVELS) * size[..., None]
    nearest = np.abs(matrix.reshape(-1, 64, 1) - choices).min(-1)
    return numbers.reshape(matrix.shape), nearest.reshape(matrix.shape)


def int8(matrix: np.ndarray, stored: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The integers of a row times its scale, 127.5 of which are the row's largest size. And how far
    a weight is from the nearest such number."""
    scale = np.abs(matrix).max(axis=1, keepdims=True) / 127.5
    np.testing.assert_allclose(stored[1].reshape(scale.shape), scale, rtol=1e-6)
    nearest = np.round(matrix / scale).clip(-128, 127) * scale
    return stored[0] * scale, np.abs(matrix - nearest)


BY_HAND: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {"nf4": nf4, "int8": int8}


def installed(kind: str) -> None:
    """Skip a test where the library that quantises is not installed."""
    for library in (LIBRARIES[kind], "accelerate"):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed (bszo[quantized])")


def load(kind: Any, **arguments: Any) -> LanguageModel:
    return load_model("asset:tiny-mistral", dtype="float32", quantization=kind, **arguments)


def dense(kind: str, quantized: LanguageModel) -> LanguageModel:
    """The model in fp32, its matrices what the integers of a quantised one stand for by hand; each
    number is as near to the weight as can be."""
    model, count = load("none"), 0
    with torch.no_grad():
        for name, parameter in quantized.module.named_parameters():
            if is_quantized(parameter):
                stored = [value.numpy() for _, value in parts_of(name, parameter)]
                weight = model.module.get_parameter(name)
                matrix = weight.double().numpy()
                numbers, nearest = BY_HAND[kind](matrix, stored)
                np.testing.assert_allclose(np.abs(matrix - numbers), nearest, rtol=0, atol=1e-6)
                weight.copy_(torch.from_numpy(numbers))
                count += 1
    assert count == 3 * 7  # every matrix of every layer
    return model


def frozen(model: LanguageModel) -> dict[str, Tensor]:
    """A copy of what does not train: integers and scales of matrices, and all else; peft renames
    the layers that it wraps."""
    return {
        part.replace(".base_layer", ""): value.clone()
        for name, parameter in model.module.named_parameters()
        if not parameter.requires_grad
        for part, value in parts_of(name, parameter)
    }


def losses_of_a_step(model: LanguageModel) -> tuple[list[float], dict[str, Tensor]]:
    """The two losses of a step of MeZO with LoRA, and the adapter behind it."""
    model = tuning.lora(model, seed=0)
    batch = model.collate(model.encode(EXAMPLES))
    seen: list[float] = []

    def closure() -> Tensor:
        seen.append(float(loss := model.loss(batch)))
        return loss

    groups = parameter_groups(model.module, 0.0)
    bszo.MeZO(groups, module=model.module, lr=0.1, eps=1e-2, seed=0).step(closure)
    # an adapter's matrices have other names in the wrapper of a quantised layer
    return seen, {n: p.detach() for n, p in model.module.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("kind", sorted(BY_HAND))
def test_scores_and_a_step_are_those_of_the_dequantised_matrices(kind: str):
    installed(kind)
    model = load(kind)
    other = dense(kind, model)
    batch = model.collate(model.encode(EXAMPLES))
    with torch.no_grad():
        found, wanted = model.scores(batch), other.scores(batch)
        assert (wanted - load("none").scores(batch)).abs().max() > 1e-3
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6)
    before = frozen(model)
    losses, adapter = losses_of_a_step(model)
    others, same = losses_of_a_step(other)
    assert len(losses) == 2 and losses[0] != losses[1]
    np.testing.assert_allclose(losses, others, rtol=0, atol=2e-6)
    assert adapter.keys() == same.keys()
    for name, value in adapter.items():  # g = (l+ - l-) / (2 eps), of which 2e-6 are 1e-4
        torch.testing.assert_close(value, same[name], rtol=0, atol=2e-4)
    after = frozen(model)
    assert before.keys() <= after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


EVERY = sorted(path.stem for path in (CONF / "optimizer").glob("*.yaml"))
FEW = ["adamw", "bszo", "forward-grad", "hizoo", "mezo-each"]


@pytest.mark.parametrize(
    ("scheme", "names"),
    [
        ("lora", FEW),
        pytest.param("lora", EVERY, marks=pytest.mark.exhaustive),
        ("prefix", ["bszo"]),
        ("prompt", ["bszo"]),
        ("linear-probe", ["bszo"]),
    ],
)
def test_every_method_trains_beside_a_frozen_base(scheme: str, names: list[str]):
    installed("nf4")
    base = load("nf4")
    model: Any = ProbedModel(base, 2) if scheme == "linear-probe" else getattr(tuning, scheme)(base)
    trained = {n: p for n, p in model.module.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(0.01)  # the gradient of A is 0 where B is
    start = {name: parameter.detach().clone() for name, parameter in trained.items()}
    before, batch = frozen(model), model.collate(model.encode(EXAMPLES))
    for name in names:
        for key, value in start.items():
            trained[key].data.copy_(value)
        node = compose([f"optimizer={name}", "seed=1"])["optimizer"]
        optimizer: Any = make_optimizer(node, model)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2
        closure: Any = (
            EachLoss(model, batch) if optimizer.per_example else lambda: model.loss(batch)
        )
        if name == "forward-grad":
            with pytest.raises(OptimError, match=r"nf4 has no rule for jvp.*MeZO, is valid"):
                optimizer.step(closure)
            continue
        optimizer.step(closure)
        assert any(not torch.equal(trained[key], value) for key, value in start.items()), name
        after = frozen(model)
        assert all(torch.equal(value, after[part]) for part, value in before.items()), name


def test_the_fingerprint_covers_scales_and_is_that_of_the_next_load():
    installed("nf4")
    model = load("nf4")
    found = weights_fingerprint(model.module)
    assert found == weights_fingerprint(load("nf4").module)
    assert found != weights_fingerprint(load("none").module)
    first: Any = next(p for p in model.module.parameters() if is_quantized(p))
    first.quant_state.absmax[0] *= 1.5
    assert weights_fingerprint(model.module) != found


def test_what_is_not_quantised_is_refused(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(
        ModelError, match=r"^model\.quantization=int3: must be one of none, nf4, int8"
    ):
        load("int3")
    model = load("nf4") if importlib.util.find_spec("bitsandbytes") else None
    if model is not None:
        with pytest.raises(ModelError, match="no trainable parameter"):
            parameter_groups(model.module, 0.0)
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(MissingExtra, match=r"pip install 'bszo\[quantized\]' installs it"):
        load("int8")


def nf4_made(packed: Tensor, scale: np.ndarray) -> np.ndarray:
    """A level a weight, times the scale of its block of 64."""
    both = np.stack([packed.numpy().reshape(-1) >> 4, packed.numpy().reshape(-1) & 15], axis=1)
    return np.array(LEVELS)[both].reshape(-1, 64) * scale[:, None]


def int8_made(integers: Tensor, scale: np.ndarray) -> np.ndarray:
    """An integer a weight, times the scale of its row."""
    return integers.numpy() * scale


def integers_of(model: LanguageModel) -> dict[str, Tensor]:
    """What does not train of each quantised matrix."""
    named = [(n, p) for n, p in model.module.named_parameters() if is_quantized(p)]
    return {name: next(parts_of(name, p))[1].clone() for name, p in named}


NUM_SCALES = {
    "nf4": 3 * (3 * 64 * 64 + 3 * 64 * 170) // 64,
    "int8": 3 * (64 + 32 + 32 + 64 + 170 + 170 + 64),
}


@pytest.mark.parametrize(
    ("kind", "made_of", "lr", "eps"),
    [("nf4", nf4_made, 1e-3, 1e-2), ("int8", int8_made, 1e-8, 1e-5)],
)
def test_the_scales_of_a_step_are_those_of_a_dense_model(
    kind: str, made_of: Any, lr: float, eps: float, tmp_path: Path
):
    """Both losses of a step are those of matrices that have s + eps z and s - eps z for their
    scales, z as the step moved along it; the integers stay."""
    installed(kind)
    model = scales(load(kind))
    trained = scales_of(model.module)
    assert sum(p.numel() for p in trained.values()) == NUM_SCALES[kind]
    assert all(p.dtype == torch.float32 for p in trained.values())
    start = {name: p.detach().double().numpy() for name, p in trained.items()}
    codes = integers_of(model)
    batch, other = model.collate(model.encode(EXAMPLES)), load("none")
    seen: list[float] = []

    def closure() -> Tensor:
        seen.append(float(loss := model.loss(batch).detach()))
        return loss

    groups = parameter_groups(model.module, 0.0)
    optimizer = bszo.MeZO(groups, module=model.module, lr=lr, eps=eps, seed=0)
    optimizer.step(closure)
    slope = (seen[0] - seen[1]) / (2 * eps)
    assert abs(seen[0] - seen[1]) > 0.01
    for sign, loss in zip((1, -1), seen, strict=True):
        for name, parameter in trained.items():
            layer = name.removesuffix(".scale")
            z = (start[name] - parameter.detach().double().numpy()) / (lr * slope)
            weight = other.module.get_parameter(f"{layer}.weight")
            made = made_of(codes[f"{layer}.weight"], start[name] + sign * eps * z)
            weight.data.copy_(torch.from_numpy(made.reshape(weight.shape)))
        assert float(other.loss(batch).detach()) == pytest.approx(loss, abs=1e-4)
    after = integers_of(model)
    assert all(torch.equal(after[name], value) for name, value in codes.items())
    save_tuned(model, tmp_path / "kept")
    back = scales_of(load_scales(load(kind), tmp_path / "kept").module)
    assert all(torch.equal(back[name], value) for name, value in trained.items())
    with pytest.raises(ModelError, match=r"do not fit tiny-mistral: its tensors have other names"):
        load_scales(load(kind), _renamed(tmp_path / "kept"))
    with pytest.raises(ModelError, match=r"^tuning=scales: .*model\.quantization=nf4 is valid"):
        scales(other)


def test_int8_that_rounds_its_scales_at_every_pass_is_refused():
    installed("int8")
    model = load_model("asset:tiny-mistral", dtype="bfloat16", quantization="int8")
    line = r"^tuning=scales: tiny-mistral computes in bfloat16, to which a layer in int8 rounds its"
    with pytest.raises(ModelError, match=line):
        scales(model)


def _renamed(folder: Path) -> Path:
    stored = load_file(folder / "scales.safetensors")
    save_file({f"x.{name}": value for name, value in stored.items()}, folder / "scales.safetensors")
    return folder
