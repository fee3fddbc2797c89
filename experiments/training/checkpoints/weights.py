"""Checkpoints of a run's weights and state: each is written whole and read back bit for bit.

The last two are kept, and the best parameters in a file of their own.

    step-00000100.safetensors   parameters and optimizer state as tensors; all else as JSON in the
                                file's own header
    best-00000060.safetensors   the parameters of the best evaluation so far
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bszo.errors import one_line
from bszo.files import written_whole
from bszo.models import tensors_fingerprint
from bszo.models.on_disk import empty_like
from experiments.training.build import Parts
from experiments.training.checkpoints.serialize import CheckpointError, pack, unpack

FORMAT_VERSION = 1
KEPT = 2
PARAMETER = "parameter."

log = logging.getLogger("experiments")


class Checkpoints:
    """The checkpoints of one run, in a folder of their own.

    Args:
        folder: named by the run's signature; made by the first `save`.
        signature: of the run; a checkpoint with another one is refused.
        parts: the run's model and optimizer.

    Raises:
        CheckpointError: from `save`: the folder cannot be written, or the state holds what no
            checkpoint can.
    """

    def __init__(self, folder: Path, signature: str, parts: Parts) -> None:
        self.folder, self.signature, self.parts = folder, signature, parts
        module = parts.model.module
        self.named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        # step of the best parameters that this process wrote, or read as sound
        self._best_kept: int | None = None

    def start(self) -> None:
        """Prepare for a run that begins at step 0; called once, before that step."""

    def save(
        self, state: Mapping[str, Any], step: int, best_step: int | None, best: Sequence[Tensor]
    ) -> None:
        """Write the run's state after `step` steps, and delete all checkpoints but the last two.

        Args:
            state: what the run knows, plain values and tensors; parameters and optimizer are added
                here.
            best_step: of the parameters `best`, in the module's order.
        """
        with unwritable(self._path("step", step)):
            self._save_best(best_step, best)
            self._write(
                "step",
                step,
                {"state": dict(state) | self._rest(), "best_step": best_step},
                self._moved(),
            )
            self._prune(step)

    def load(self) -> tuple[dict[str, Any], list[Tensor]] | None:
        """Restore parameters and optimizer from the newest sound checkpoint.

        A damaged checkpoint is skipped with a warning.

        Returns:
            The run's state and the best parameters; None where no checkpoint is sound.
        """
        paths = sorted(self.folder.glob("step-*.safetensors"), reverse=True)
        for path in paths:
            try:
                return self._load(path)
            except CheckpointError as error:
                log.warning("%s; going back to the one before", error)
        if paths:
            log.warning("no checkpoint of this run is sound: it starts from the beginning")
        return None

    def remove(self) -> None:
        """Delete all checkpoints: the run is over and its record is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _load(self, path: Path) -> tuple[dict[str, Any], list[Tensor]]:
        with sound(path):
            plain, tensors = self._read(path)
            state = unpack(plain["state"], tensors)
            best = self._restore(plain, state, tensors)
        return state, best

    # what theta and the optimizer are restored from; TrajectoryCheckpoints answers otherwise

    def _rest(self) -> dict[str, Any]:
        return {"optimizer": self.parts.optimizer.state_dict()}

    def _moved(self) -> dict[str, Tensor]:
        return {PARAMETER + name: parameter for name, parameter in self.named.items()}

    def _save_best(self, best_step: int | None, best: Sequence[Tensor]) -> None:
        # a file of that name may be a damaged one
        if best_step is not None and best_step != self._best_kept:
            tensors = {PARAMETER + name: kept for name, kept in zip(self.named, best, strict=True)}
            self._write("best", best_step, {}, tensors)
            self._best_kept = best_step

    @torch.no_grad()
    def _restore(
        self, plain: dict[str, Any], state: dict[str, Any], tensors: dict[str, Tensor]
    ) -> list[Tensor]:
        """Restore theta and the optimizer; returns the best parameters."""
        values, best = self._parameters(tensors), []
        if plain["best_step"] is not None:
            path = self._path("best", plain["best_step"])
            with sound(path):
                found = self._parameters(self._read(path)[1])
                own = map(empty_like, self.named.values())
                best = [mine.copy_(value) for mine, value in zip(own, found, strict=True)]
            self._best_kept = plain["best_step"]
        self.parts.optimizer.load_state_dict(state.pop("optimizer"))
        for parameter, value in zip(self.named.values(), values, strict=True):
            parameter.copy_(value)
        return best

    def _parameters(self, tensors: dict[str, Tensor]) -> list[Tensor]:
        found = [tensors[PARAMETER + name] for name in self.named]
        for name, value, parameter in zip(self.named, found, self.named.values(), strict=True):
            if value.shape != parameter.shape or value.dtype != parameter.dtype:
                raise ValueError(f"parameter {name} is {value.dtype} {tuple(value.shape)}")
        return found

    def _path(self, kind: str, step: int) -> Path:
        return self.folder / f"{kind}-{step:08d}.safetensors"

    def _write(
        self, kind: str, step: int, plain: dict[str, Any], tensors: dict[str, Tensor]
    ) -> None:
        tensors = dict(tensors)
        if "state" in plain:
            plain = plain | {"state": pack(plain["state"], tensors)}
        plain |= {"format_version": FORMAT_VERSION, "signature": self.signature, "step": step}
        text = json.dumps(plain, allow_nan=False)
        on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        with written_whole(self._path(kind, step)) as temporary:
            save_file(on_cpu, temporary, metadata={"plain": text, "sha256": checksum(text, on_cpu)})

    def _read(self, path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
        if metadata.get("sha256") != checksum(metadata.get("plain", ""), tensors):
            raise ValueError("it does not match its checksum")
        plain = json.loads(metadata["plain"])
        if (plain["format_version"], plain["signature"]) != (FORMAT_VERSION, self.signature):
            raise ValueError(f"format {plain['format_version']} of run {plain['signature']}")
        return plain, tensors

    def _prune(self, step: int) -> None:
        """Delete all but the last checkpoints and the best parameters that they name.

        What a kill left half-written is deleted, too, and checkpoints of later steps: they were
        damaged and skipped.
        """
        paths = sorted(self.folder.glob("step-*.safetensors"))
        kept = [path for path in paths if path <= self._path("step", step)][-KEPT:]
        needed = set()
        for path in kept:
            with suppress(CheckpointError), sound(path), safe_open(path, "pt") as file:
                needed.add(
                    self._path("best", json.loads(file.metadata()["plain"])["best_step"] or 0)
                )
        needed |= set(kept)
        for path in [*self.folder.glob("*-*.safetensors"), *self.folder.glob(".*.tmp")]:
            if path not in needed:
                path.unlink(missing_ok=True)


def checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all that a checkpoint holds, in hex."""
    return hashlib.sha256(
        f"{text}\n{tensors_fingerprint(sorted(tensors.items()))[:16]}".encode()
    ).hexdigest()


@contextmanager
def sound(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file makes its readers raise into a CheckpointError of one line."""
    try:
        yield
    except (
        OSError,
        SafetensorError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise CheckpointError(
            f"{path.name}: not a sound checkpoint of this run ({one_line(error)})"
        ) from error


@contextmanager
def unwritable(path: Path) -> Iterator[None]:
    """Turn the error of a full or read-only disk into a CheckpointError of one line."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or one_line(error)
        raise CheckpointError(f"{path}: cannot be written ({why})") from error
