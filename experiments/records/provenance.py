"""Provenance of a number: commit, command, versions and hardware.

It names no host, no user and no absolute path (docs/threats.md, "A record that tells who made it").
"""

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bszo import __version__
from bszo.half import HALF, is_native
from bszo.perturb import compiled
from experiments import ROOT
from experiments.records.privacy import anonymous, scrub

PACKAGES = ("torch", "transformers", "safetensors", "datasets", "hydra-core")


def _git(*arguments: str) -> str | None:
    try:
        # a run that is killed in `git status` would leave the index locked
        command = ["git", "--no-optional-locks", "-C", str(ROOT), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _versions() -> dict[str, str | None]:
    # bszo says its own version: a checkout that runs without being installed has no metadata
    found: dict[str, str | None] = {"python": platform.python_version(), "bszo": __version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = re.findall(
            r"^model name\s*:\s*(.+)$", cpuinfo.read_text(errors="replace"), re.MULTILINE
        )
        if names:
            return names[0].strip()
    return platform.processor() or platform.machine()


def _hardware(device: str) -> dict[str, Any]:
    hardware: dict[str, Any] = {
        "device": device,
        "cpu": _cpu_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "widened": [str(dtype).removeprefix("torch.") for dtype in HALF if not is_native(dtype)],
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "noise": compiled.maker(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(torch.device(device))
        hardware |= {"gpu": properties.name, "gpu_memory_bytes": properties.total_memory}
        hardware |= {"cuda": torch.version.cuda}
    return hardware


def _public_override(override: str) -> str:
    """An override as a record may show it.

    Names of users are taken out of values that look like paths only: `root` is also a key.
    """
    key, equals, value = override.partition("=")
    return key + equals + (anonymous(value) if re.search(r"[/\\~]", value) else scrub(value))


def code_now() -> dict[str, Any]:
    """The commit that is checked out, and whether files differ from it."""
    changes = _git("status", "--porcelain", "--", ".", ":!results")  # records change no code
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if changes is None else bool(changes),
    }


def provenance(
    overrides: Sequence[str],
    device: str,
    num_processes: int = 1,
    code: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that one needs to know to get this number again, as JSON values.

    Args:
        overrides: the run's Hydra overrides. Absolute paths in them are cut to their last name.
        device: "cpu" or "cuda".
        num_processes: how many processes torchrun has started.
        code: `code_now()` of when it was loaded; None asks now.
    """
    launch = "python" if num_processes == 1 else f"torchrun --nproc-per-node {num_processes}"
    return {
        **(code_now() if code is None else code),
        "command": (
            f"{launch} -m experiments.run {shlex.join(map(_public_override, overrides))}".strip()
        ),
        "versions": _versions(),
        "hardware": _hardware(device),
        "byte_order": sys.byteorder,
    }


def of_script(module: str, arguments: Sequence[str] | None) -> dict[str, Any]:
    """The provenance of what a script measures on the CPU, its command as it was typed.

    Args:
        module: of the script, such as "scripts.bench.half".
        arguments: what its `main` was given; None stands for those of the command line. Absolute
            paths in them are cut to their last name.
    """
    words = [anonymous(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    command = shlex.join(["python", "-m", module, *words])
    return {**provenance([], "cpu"), "command": command}
