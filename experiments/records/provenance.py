"""Where a number comes from: commit, command, versions, hardware. No host, no user, no absolute
path (docs/threats.md, "A record that tells who made it")."""

import hashlib
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
from experiments import ROOT

PACKAGES = ("torch", "transformers", "safetensors", "datasets", "hydra-core")

_PART = r"[^\s'\",;:=()\[\]{}/\\]"
_ABSOLUTE = re.compile(
    rf"(?<![\w.~/:)\]}}-])(?:~[^\s/\\]*|[A-Za-z]:(?=\\))?(?:[/\\]+{_PART}*)*[/\\]+({_PART}+)"
)
_SECRET = re.compile("KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
LEAST_SECRET = 8  # characters; shorter values stand in any text by chance
COMMON = ("root", "localhost")  # names of nobody
_WHOLE_FILE_BYTES = 64 << 20
# of a file that is larger, evenly spread, the first at its beginning and the last at its end
_PIECES = 64


def scrub(text: str) -> str:
    """The text with every absolute path cut to its last name (`/home/me/x.json` becomes
    `.../x.json`), and no secret.

    A secret is the value of an environment variable that is called one.
    """
    for name, value in os.environ.items():
        if len(value) >= LEAST_SECRET and _SECRET.search(name):
            text = text.replace(value, "...")
    return _ABSOLUTE.sub(r".../\1", text)


def anonymous(text: str) -> str:
    """`scrub`, and no user's, home's or machine's name as a word of its own."""
    text = scrub(text)
    for name in _own_names():
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "...", text)
    return text


def folder_name(path: Path) -> str:
    """The last name of a path, unless it is a name of whose path it is."""
    name = path.resolve().name
    return "folder" if name in _own_names() else name


def _own_names() -> list[str]:
    """What tells who runs this, and where; the host's full name before its first part."""
    host = platform.node()
    names = {os.environ.get(key, "") for key in ("USER", "LOGNAME", "USERNAME")} | {
        host,
        host.split(".")[0],
    }
    names |= {Path(os.environ.get("HOME", "")).name}
    return sorted(names - {"", *COMMON}, key=len, reverse=True)


def scrub_all(value: Any) -> Any:
    """`scrub` on every string inside a plain structure."""
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, Mapping):
        return {key: scrub_all(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [scrub_all(item) for item in value]
    return value


def content_id(path: Path) -> str:
    """`<name>@<12 hex>`: a folder or file by what it holds, the same wherever it lies.

    Files of 64 MiB or more count with their size and 64 pieces of a MiB: reading 26 GB to name a
    model would take longer than loading it, and one that was fine-tuned differs from its base in
    layers between the ends, too.
    """
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path).as_posix()}\0{size}\0".encode())
        with file.open("rb") as stream:
            if size < _WHOLE_FILE_BYTES:
                digest.update(stream.read())
            else:
                piece = _WHOLE_FILE_BYTES // _PIECES
                for i in range(_PIECES):
                    stream.seek(i * (size - piece) // (_PIECES - 1))
                    digest.update(stream.read(piece))
    return f"{folder_name(path)}@{digest.hexdigest()[:12]}"


def _git(*arguments: str) -> str | None:
    try:
        command = ["git", "-C", str(ROOT), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _versions() -> dict[str, str | None]:
    # bszo is its own word for it: a checkout that runs without being installed has no metadata
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
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(torch.device(device))
        hardware |= {"gpu": properties.name, "gpu_memory_bytes": properties.total_memory}
        hardware |= {"cuda": torch.version.cuda}
    return hardware


def _public_override(override: str) -> str:
    """Whole words are taken out of values that may be paths alone: `root` is a key as well as a
    user."""
    key, equals, value = override.partition("=")
    return key + equals + (anonymous(value) if re.search(r"[/\\~]", value) else scrub(value))


def provenance(overrides: Sequence[str], device: str, num_processes: int = 1) -> dict[str, Any]:
    """Everything that says how to get this number again, as plain JSON values.

    Args:
        overrides: the run's Hydra overrides; absolute paths in them are cut to their last name.
        device: "cpu" or "cuda".
        num_processes: that torchrun started.
    """
    launch = "python" if num_processes == 1 else f"torchrun --nproc-per-node {num_processes}"
    changes = _git("status", "--porcelain", "--", ".", ":!results")  # records change no code
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if changes is None else bool(changes),
        "command": (
            f"{launch} -m experiments.run {shlex.join(map(_public_override, overrides))}".strip()
        ),
        "versions": _versions(),
        "hardware": _hardware(device),
        "byte_order": sys.byteorder,
    }
