"""A model larger than memory: steps with the parameters on a disk, beside the same steps in memory.

    python -m scripts.bench.on_disk --folder DIR    # ten minutes; measured/bench/on_disk.json

A model of random weights is written to DIR, a folder of a disk. Each row is a process of its own
that loads it and takes a few steps: in memory; on the disk; and on the disk with no more memory, of
the process as a whole with its libraries, than a share of the model's bytes. The kernel holds the
last to that by a control group, which takes root; where there is none, the row says so. The losses
and the fingerprint of the weights after the last step must be the same in all of them.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

import bszo
from bszo.models import EachLoss, collate, load_model, random_model, weights_fingerprint
from bszo.models.locate import locate
from experiments.records.provenance import of_script
from experiments.tables.sources import MEASURED
from scripts.bench.setting import examples

GROUPS = Path("/sys/fs/cgroup")
# of a control group: its limit, the most that it has taken
FILES = {
    "memory": ("memory.limit_in_bytes", "memory.max_usage_in_bytes"),
    "": ("memory.max", "memory.peak"),
}
METHODS: dict[str, Callable[..., Any]] = {
    "MeZO": bszo.MeZO,
    "BSZO": bszo.BSZO,
    "mezo-each": bszo.EachMeZO,
    "mezo-each-stacked": partial(bszo.EachMeZO, stacked=True),
}
BATCH, LENGTH = 16, 32
ROWS = {  # (where the parameters are, whether memory is limited)
    "in memory": (None, False),
    "on a disk": ("disk", False),
    "on a disk, limited": ("disk", True),
    "in memory, limited": (None, True),
}


@contextmanager
def control_group(limit: int) -> Iterator[tuple[Path, Path] | None]:
    """A control group of so many bytes: where a process joins it, and where its peak is read. None
    where this machine lets no one make one."""
    for parent, (most, peak) in FILES.items():
        folder = GROUPS / parent / f"bszo-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            try:
                (folder / most).write_text(str(limit))
                group = folder / "cgroup.procs", folder / peak
            except OSError:
                group = None
            yield group
        finally:
            folder.rmdir()
        return
    yield None


def steps(folder: Path, offload: str | None, method: str, count: int) -> dict[str, Any]:
    """Losses, fingerprint and costs of the first steps of a method, taken in this process."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    model = load_model(str(folder), dtype="bfloat16", offload=offload)
    loaded = time.perf_counter() - began
    batch = collate(examples(BATCH, LENGTH), pad_id=model.pad_id, device="cpu")
    optimizer = METHODS[method](
        model.module.parameters(),
        lr=1e-6,
        eps=1e-3,
        module=model.module,
        seed=0,
        rounding="stochastic",
    )
    closure: Callable[[], Any] = (
        EachLoss(model, batch) if "each" in method else lambda: model.loss(batch)
    )
    losses, seconds, moved = [], [], []
    for _ in range(count):
        began, before = time.perf_counter(), transferred()
        losses.append(optimizer.step(closure))
        seconds.append(time.perf_counter() - began)
        moved.append([after - b for after, b in zip(transferred(), before, strict=True)])
    return {
        "losses": losses,
        "fingerprint": weights_fingerprint(model.module),
        "loading_seconds": round(loaded, 1),
        "step_seconds": [round(value, 2) for value in seconds],
        "read_bytes": [read for read, _ in moved],
        "written_bytes": [written for _, written in moved],
        "peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def transferred() -> tuple[int, int]:
    """Bytes that this process has had the disk read and write so far."""
    said = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(said["read_bytes"]), int(said["write_bytes"])


def row(options: argparse.Namespace, base: Path, name: str, limit: int) -> dict[str, Any]:
    """One row, from a process of its own."""
    where, limited = ROWS[name]
    for file in base.glob("*.safetensors"):
        forget(file)
    own = ["--row", str(base), str(options.folder) if where else "", "--steps", str(options.steps)]
    own += ["--method", options.method, "--folder", str(options.folder)]
    with control_group(limit) as group:
        if limited and group is None:
            return {"not_run": "no control group can be made here"}

        def join() -> None:
            if limited and group is not None:
                group[0].write_text(str(os.getpid()))

        ended = subprocess.run(
            [sys.executable, "-m", "scripts.bench.on_disk", *own],
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=join,
            check=False,
        )
        if ended.returncode < 0:
            return {"killed_by_signal": -ended.returncode}
        if ended.returncode:
            raise SystemExit(f"{name}: its process ended with exit code {ended.returncode}")
        found = json.loads(ended.stdout.splitlines()[-1])
        if limited and group is not None:
            found["peak_group_bytes"] = int(group[1].read_text())
        return found


def forget(file: Path) -> None:
    """Drop a file's pages from memory: those that another process has read would count as its."""
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def written_model(shape: str, folder: Path) -> tuple[Path, int]:
    """A model of random weights in a new folder, with a tokenizer, and its bytes."""
    module: Any = random_model(shape, dtype="bfloat16", device="cpu")
    base = folder / shape
    module.save_pretrained(base)
    for file in (locate("asset:tiny-opt") or Path()).glob("*token*"):
        shutil.copy(file, base)
    return base, sum(p.nbytes for p in module.parameters())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="of a disk with room for it")
    parser.add_argument("--shape", default="opt-1.3b", help="of the model (bszo.models.SHAPES)")
    parser.add_argument("--share", type=float, default=1 / 3, help="of its bytes, as memory")
    parser.add_argument("--method", choices=METHODS, default="MeZO")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--out", type=Path, default=MEASURED / "bench" / "on_disk.json")
    parser.add_argument("--row", nargs=2, metavar=("BASE", "OFFLOAD"), help="of a process's own")
    options = parser.parse_args(arguments)
    if options.row:
        base, offload = options.row
        print(json.dumps(steps(Path(base), offload or None, options.method, options.steps)))
        return
    origin = of_script("scripts.bench.on_disk", arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    base, size = written_model(options.shape, options.folder)
    limit = int(options.share * size)
    rows = {}
    try:
        for name in ROWS:
            rows[name] = row(options, base, name, limit)
            print(f"{name:20s} {rows[name]}", flush=True)
    finally:
        shutil.rmtree(base)
    ended = [(r["losses"], r["fingerprint"]) for r in rows.values() if "losses" in r]
    facts = {
        "setting": {
            "shape": options.shape,
            "dtype": "bfloat16",
            "model_bytes": size,
            "limit_bytes": limit,
            "method": options.method,
            "batch": [BATCH, LENGTH],
            "threads": 1,
        },
        "same_bits": all(end == ended[0] for end in ended) if len(ended) > 1 else None,
        "rows": rows,
        "provenance": origin,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(facts, indent=1) + "\n")
    print(f"the same losses and weights in all of them: {facts['same_bits']}; {options.out}")
    if not facts["same_bits"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
