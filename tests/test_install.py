"""A wheel of the project in an environment that has torch and nothing else of ours."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import bszo

ROOT = Path(__file__).resolve().parents[1]
MOST_BYTES = 4 << 20


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no build folder is left in the tree."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "bszo", source / "bszo", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--wheel-dir", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return next(out.glob("bszo-*.whl"))


def closure(package: str) -> set[str]:
    """The package and all that it requires."""
    found: set[str] = set()
    waiting = [package]
    while waiting:
        name = re.split(r"[ ;<>=!~\[(]", waiting.pop(), maxsplit=1)[0]
        if name.lower() in found:
            continue
        try:
            needed = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(name.lower())
        waiting += [line for line in needed if "extra ==" not in line]
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that sees the installed wheel, torch and what torch requires: a path of links
    to this environment's files stands for a download of a gigabyte."""
    env = tmp_path_factory.mktemp("env")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(env)], check=True)
    python = env / "bin" / "python"
    paths = sysconfig.get_paths(vars={"base": str(env), "platbase": str(env)})
    site = Path(paths["purelib"])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for name in closure("torch"):
        for file in metadata.files(name) or ():
            top = file.parts[0]
            target = Path(str(metadata.distribution(name).locate_file(top)))
            if top not in ("..", "__pycache__") and not (site / top).exists():
                (site / top).symlink_to(target)
    return python


def run(python: Path, code: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    env.pop("PYTHONPATH", None)
    command = [str(python), "-I", "-W", "ignore", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)


def test_the_wheel_promises_what_it_holds(wheel: Path) -> None:
    assert wheel.name.startswith(f"bszo-{bszo.__version__}-")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (about,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        lines = archive.read(about).decode().splitlines()
    required = [line for line in lines if line.startswith("Requires-Dist") and "extra" not in line]
    assert required == ["Requires-Dist: torch>=2.11"]
    assert "Provides-Extra: lm" in lines and "Provides-Extra: experiments" not in lines
    assert {name.split("/")[0] for name in names} <= {"bszo", about.split("/")[0]}
    assert "bszo/models/assets/tiny-opt/model.safetensors" in names
    assert wheel.stat().st_size < MOST_BYTES


def test_the_readme_s_lines_run_with_torch_alone(python: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.search(r"## As an optimizer\s.*?```python\n(.*?)```", readme, re.DOTALL)
    assert code is not None
    done = run(python, code[1])
    assert done.returncode == 0, done.stderr
    loss, num_forwards, _ = map(float, done.stdout.split())
    assert loss < 4 and num_forwards == 1500  # the loss begins at about 8


NEEDING = (
    "from bszo.models import load_model; load_model('asset:tiny-opt', dtype='float32')",
    "from bszo.models import random_model; random_model('opt-125m', dtype='float32')",
    "import bszo.integrations.transformers",
    "from bszo.tasks import HubSource; HubSource().rows(None, 'train')",
    "import sys; sys.stderr = sys.stdout\n"
    "from bszo.cli.main import main; main(['replay', 'LOG', '--base', 'M', '--out', 'O'])",
)
EACH = """
for code in {codes!r}:
    try:
        exec(code)
    except Exception as error:
        print(error)
"""


def test_what_needs_an_extra_names_it(python: Path) -> None:
    """One interpreter for all: torch alone takes seconds."""
    done = run(python, EACH.format(codes=NEEDING))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(NEEDING)
    for line in lines:
        assert re.search(r"is not installed; pip install 'bszo\[lm\]' installs it$", line), line
