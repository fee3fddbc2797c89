"""Partitions of the parameters into blocks, found in the module tree: no model family's names are
known here."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

from torch import Tensor, nn

from bszo.errors import OptimError

Split = Literal["tensor", "linear", "halves", "transformer"]
Unit = tuple[str, list[Tensor]]


class Block(NamedTuple):
    """One block: a name to show, and the numbers of its parameters in the optimizer's order."""

    name: str
    indices: tuple[int, ...]


def repeated_modules(module: nn.Module) -> tuple[str, nn.ModuleList | nn.Sequential]:
    """Return the path and the ModuleList or Sequential with the most parameter elements, among
    those whose children are all of one class. One with a single child counts only where there is no
    other.

    Raises:
        OptimError: there is none.
    """
    found = [
        (len(part) > 1, sum(p.numel() for p in part.parameters()), name, part)
        for name, part in module.named_modules()
        if isinstance(part, (nn.ModuleList, nn.Sequential))
        and len({type(child) for child in part}) == 1
    ]
    if not any(size for _, size, _, _ in found):
        raise OptimError(f"{type(module).__name__} has no list of repeated modules")
    _, _, name, stack = max(found, key=lambda item: item[:2])
    return name, stack


def partition(params: Sequence[Tensor], by: Split, module: nn.Module | None = None) -> list[Block]:
    """Return the blocks of `params`, input side first. Each parameter is in exactly one, and none
    is empty.

    What lies beside the repeated modules is two blocks more: "embeddings" (subtrees that look
    something up; tied weights belong here) and "head" (all the rest).

    Args:
        params: the trainable parameters, in the optimizer's order.
        by: says what a block is. transformer: each repeated module. halves: its attention, with the
            norm before it, and the remainder. linear: each layer of it with a weight matrix, with
            the norms that follow it. tensor: each parameter.
        module: the module that owns the parameters; `tensor` needs none.

    Raises:
        OptimError: no module, no repeated modules or no attention in it, or no parameter in any of
            them.
    """
    if by not in get_args(Split):
        raise OptimError(f"blocks={by!r}: one of none, {', '.join(get_args(Split))} is valid")
    if by == "tensor":
        return [Block(f"tensor {i}", (i,)) for i in range(len(params))]
    if module is None:
        raise OptimError(
            f"blocks={by!r}: needs module=, in which they are found; without it tensor is valid"
        )
    number = {id(p): i for i, p in enumerate(params)}
    try:
        stack_name, stack = repeated_modules(module)
    except OptimError as error:
        raise OptimError(f"blocks={by!r}: {error}; none or tensor is valid") from error
    blocks: list[Block] = []
    inside = False
    for name, owned in _units(module, stack_name, stack, by):
        indices = tuple(number.pop(id(p)) for p in owned if id(p) in number)
        blocks += [Block(name, indices)] if indices else []
        inside |= bool(indices) and name.startswith(f"{stack_name}.")
    if number:
        i = min(number.values())
        raise OptimError(
            f"params: parameter {i} of shape {tuple(params[i].shape)} is not one of the module's"
        )
    if not inside:
        raise OptimError(
            f"blocks={by!r}: no trainable parameter lies in the {len(stack)} modules of"
            f" {stack_name}; none or tensor is valid"
        )
    return blocks


def _units(module: nn.Module, stack_name: str, stack: nn.Module, by: Split) -> Iterator[Unit]:
    """Yield names and parameters, input side first; a parameter that comes twice belongs where it
    comes first."""
    beside = list(_beside(module, stack))
    lookups = [
        child for child in beside if any(isinstance(part, nn.Embedding) for part in child.modules())
    ]
    yield "embeddings", [p for child in lookups for p in child.parameters()]
    split = {"transformer": _whole, "halves": _halves, "linear": _linears}[by]
    for number, layer in stack.named_children():
        yield from split(f"{stack_name}.{number}", layer)
    yield "head", list(module.parameters())


def _beside(module: nn.Module, stack: nn.Module) -> Iterator[nn.Module]:
    """Yield the largest subtrees that do not hold the stack."""
    for child in module.children():
        if not any(part is stack for part in child.modules()):
            yield child
        elif child is not stack:
            yield from _beside(child, stack)


def _whole(name: str, layer: nn.Module) -> Iterator[Unit]:
    yield name, list(layer.parameters())


def _halves(name: str, layer: nn.Module) -> Iterator[Unit]:
    attention = [child for child in layer.children() if "attention" in type(child).__name__.lower()]
    if not attention:
        raise OptimError(
            f"blocks='halves': {type(layer).__name__} has no child that is an attention; "
            "none, transformer, linear or tensor is valid"
        )
    norms = [child for child in layer.children() if "norm" in type(child).__name__.lower()]
    yield f"{name} attention", [p for child in (*attention, *norms[:1]) for p in child.parameters()]
    yield f"{name} mlp", list(layer.parameters())


def _linears(name: str, layer: nn.Module) -> Iterator[Unit]:
    units: list[Unit] = []
    vectors: list[Tensor] = []  # of norms that come before any matrix
    for path, part in _layers(name, layer):
        if _has_matrix(part):
            units.append((path, vectors + list(part.parameters())))
            vectors = []
        else:
            (units[-1][1] if units else vectors).extend(part.parameters(recurse=False))
    yield from units
    yield name, vectors


def _layers(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield modules in the order of the tree, and none below one with a matrix: an adapter belongs
    to the layer that it adapts."""
    yield path, module
    if not _has_matrix(module):
        for name, child in module.named_children():
            yield from _layers(f"{path}.{name}", child)


def _has_matrix(module: nn.Module) -> bool:
    weights = [getattr(module, "weight", None), *module.parameters(recurse=False)]
    return any(isinstance(weight, Tensor) and weight.ndim >= 2 for weight in weights)
