"""Noise on a GPU: one Triton kernel reads theta, makes z in registers and writes once.

The hash and the inverse normal are those of `spec`, to the last few ulps. Keys travel as arguments
of the launch, so that nothing is copied to the device and no launch waits.
"""

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, Self

import torch
from torch import Tensor

_HAS_TRITON = find_spec("triton") is not None  # torch brings it along where it has CUDA
_BLOCK, _NUM_WARPS = 1024, 4  # 8 elements a thread: loads of 16 bytes in 16 bits
_ROWS = 32  # of a matrix that a program goes through with the same part of V
_SPAN = 8 * _BLOCK  # elements of a program that shifts a part of one tensor among many


def serves(theta: Tensor) -> bool:
    """Whether the kernel takes a tensor: on a GPU that Triton knows, in 16 or 32 bits."""
    return (
        _HAS_TRITON
        and theta.is_cuda
        and theta.dtype in (torch.float32, torch.bfloat16, torch.float16)
    )


def shift(
    out: Tensor,
    theta: Tensor | None,
    keys: Sequence[tuple[int, int]],
    factors: Sequence[float],
    *,
    decay: float = 1.0,
    round_key: tuple[int, int] | None = None,
    rademacher: bool = False,
    counter: Tensor | None = None,
    curvature: Tensor | None = None,
) -> None:
    """Compute out = decay theta + sum_i c_i z_i / sqrt(h), summed in fp32 and rounded once; every
    tensor is flat.

    Args:
        out: where the result goes; it may be theta itself.
        theta: the values to shift; None stands for zeros.
        keys: the keys of (seed, parameter), one a term; see `seeds.key`.
        factors: c_i, one a term.
        decay: the factor on theta.
        round_key: rounds bf16 stochastically with this key's bits.
        rademacher: z is +1 and -1 alike instead of N(0, 1).
        counter: int32, the elements' numbers in their parameter, where they are not 0, 1, 2, ...
        curvature: h, element by element; None stands for ones.
    """
    if out.numel() == 0:
        return
    terms = tuple(x for k, c in zip(keys, factors, strict=True) for x in (c, *_halves(k)))
    with _on(out.device):
        _kernels().shift[(-(-out.numel() // _BLOCK),)](
            out,
            out if theta is None else theta,
            out if counter is None else counter,
            out if curvature is None else curvature,
            out.numel(),
            float(decay) - 1.0,
            terms,
            _halves(round_key or (0, 0)),
            HAS_THETA=theta is not None,
            HAS_COUNTER=counter is not None,
            HAS_CURVATURE=curvature is not None,
            ROUND=round_key is not None,
            RADEMACHER=rademacher,
            BLOCK=_BLOCK,
            num_warps=_NUM_WARPS,
        )


def shift_low_rank(
    out: Tensor,
    theta: Tensor,
    keys: Sequence[tuple[int, int]],
    factors: Sequence[float],
    basis: tuple[int, int],
    rank: int,
    *,
    decay: float = 1.0,
    round_key: tuple[int, int] | None = None,
) -> None:
    """Compute out = decay theta + (sum_i c_i U_i) V^T of (rows, columns) matrices; U and V are made
    in registers.

    Args:
        keys: the keys of U_i (rows, rank), one a term.
        basis: the key of V (columns, rank).
        out, theta, factors, decay, round_key: see `shift`.
    """
    rows, columns = theta.shape
    terms = tuple(x for k, c in zip(keys, factors, strict=True) for x in (c, *_halves(k)))
    grid = (-(-rows // _ROWS), -(-columns // _BLOCK))
    with _on(out.device):
        _kernels().shift_low_rank[grid](
            out,
            theta,
            rows,
            columns,
            float(decay) - 1.0,
            terms,
            _halves(basis),
            _halves(round_key or (0, 0)),
            RANK=rank,
            ROUND=round_key is not None,
            ROWS=_ROWS,
            BLOCK=_BLOCK,
            num_warps=_NUM_WARPS,
        )


@dataclass(frozen=True)
class Scalars:
    """The numbers that one pass over many parameters multiplies and hashes with: one row a
    parameter, on the device.

    Attributes:
        rows: (P, 3 K + 3) int32: the keys of K terms, their factors (fp32 bits), the decay less 1,
            the key of the rounding.
        num_terms: K.
        rounds: whether bf16 is rounded stochastically.
        rademacher: z is +1 and -1 alike.
    """

    rows: Tensor
    num_terms: int
    rounds: bool = False
    rademacher: bool = False

    @classmethod
    def of(
        cls,
        keys: Sequence[Tensor],
        factors: Tensor,
        decay: Tensor,
        round_keys: Tensor | None,
        device: torch.device,
        rademacher: bool,
    ) -> Self:
        """From K tensors of (P, 2) keys, (P, K) factors and (P,) decays; one copy, which no launch
        waits for."""
        none = torch.zeros(decay.numel(), 2, dtype=torch.int32, device="cpu")
        floats = torch.cat([factors, decay[:, None] - 1.0], 1).to(torch.float32).view(torch.int32)
        rows = torch.cat([*keys, floats, none if round_keys is None else round_keys], 1)
        return cls(
            rows.pin_memory().to(device, non_blocking=True),
            len(keys),
            round_keys is not None,
            rademacher,
        )


class Table:
    """Tensors of one type on one GPU that one launch shifts: out_t = decay theta_t + sum_i c_i z_i.

    Args:
        thetas: contiguous, aligned to 16 bytes.
        outs: where the results go, likewise; the same tensors for a move in place.
        parameters: the row of each tensor in `Scalars`.
    """

    def __init__(
        self, thetas: Sequence[Tensor], outs: Sequence[Tensor], parameters: Sequence[int]
    ) -> None:
        device, self.dtype = thetas[0].device, thetas[0].dtype
        self.addresses = [t.data_ptr() for t in thetas]
        host = partial(torch.tensor, device="cpu")
        sizes = host([t.numel() for t in thetas])
        blocks = (sizes + _SPAN - 1) // _SPAN
        ends = blocks.cumsum(0)
        self.firsts = [0, *ends.tolist()]  # block at which each tensor begins
        addresses = host([self.addresses, [t.data_ptr() for t in outs]])
        self.wide = addresses.to(device)  # (2, T) int64
        # (3, T)
        self.narrow = (
            torch.stack([sizes, ends - blocks, host(parameters)]).to(torch.int32).to(device)
        )
        self.tensor_of = (
            host(range(len(thetas)), dtype=torch.int32).repeat_interleave(blocks).to(device)
        )

    @staticmethod
    def takes(tensors: Sequence[Tensor]) -> bool:
        """Whether one table, and so one launch, can hold all of these tensors."""
        of_a_kind = len({(t.dtype, t.device) for t in tensors}) == 1
        return of_a_kind and all(
            serves(t) and t.is_contiguous() and t.data_ptr() % 16 == 0 and t.numel() < 1 << 31
            for t in tensors
        )

    def launch(self, start: int, stop: int, scalars: Scalars) -> None:
        """Shift the tensors from number `start` up to, not including, `stop`."""
        first, last = self.firsts[start], self.firsts[stop]
        if first == last:
            return
        with _on(self.wide.device):
            _kernels().shift_many[(last - first,)](
                self.wide,
                self.narrow,
                self.tensor_of,
                scalars.rows,
                first,
                self.wide.shape[1],
                DTYPE=_kernels().TYPES[self.dtype],
                TERMS=scalars.num_terms,
                ROUND=scalars.rounds,
                RADEMACHER=scalars.rademacher,
                SPAN=_SPAN,
                BLOCK=_BLOCK,
                num_warps=_NUM_WARPS,
            )


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """Make this GPU the current one, on which Triton launches: a model that is spread over several
    has parameters on others."""
    return (
        nullcontext() if device.index == torch.cuda.current_device() else torch.cuda.device(device)
    )


def _halves(key: tuple[int, int]) -> tuple[float, ...]:
    """Return both 32-bit words as 16-bit halves, the high one first. They are floats, since Triton
    compiles anew for some integers and never for a float."""
    return tuple(float(half) for word in key for half in ((word >> 16) & 0xFFFF, word & 0xFFFF))


@functools.cache
def _kernels() -> Any:
    from bszo.perturb.noise import kernels  # not earlier: it is written in Triton

    return kernels
