"""docs/your-own-optimizer.md, followed word by word in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "your-own-optimizer.md").read_text(encoding="utf-8")
CODE, IMPORT, ROW = re.findall(r"```python\n(.*?)```", PAGE, re.S)
(SETTINGS,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
# `python -m pytest` and `python -m experiments.run`, which need a fresh interpreter but not two
BOTH = """
import runpy, sys, pytest
end = sys.argv.index("--")
assert pytest.main(sys.argv[1:end]) == 0
sys.argv[:] = ["experiments.run", *sys.argv[end + 1:]]
runpy.run_module("experiments.run", run_name="__main__")
"""
COPIED = ("bszo", "conf", "experiments", "tests/optim")


def inserted(path: Path, before: str, text: str) -> None:
    """Put a text in front of the first place where `before` stands."""
    old = path.read_text(encoding="utf-8")
    assert before in old
    path.write_text(old.replace(before, text + before, 1), encoding="utf-8")


def test_a_method_from_an_empty_file_to_a_passing_suite(tmp_path: Path):
    heavy = shutil.ignore_patterns("assets")
    for folder in COPIED:
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=heavy)
    (tmp_path / "bszo/models/assets").symlink_to(ROOT / "bszo/models/assets")
    for file in ("pyproject.toml", "tests/conftest.py", "tests/squares.py"):
        shutil.copy(ROOT / file, tmp_path / file)

    (tmp_path / "bszo/optim/mezo_clipped.py").write_text(CODE, encoding="utf-8")
    package, table = tmp_path / "bszo/optim/__init__.py", tmp_path / "tests/optim/conftest.py"
    inserted(package, "__all__", IMPORT)
    inserted(package, '    "StepReport",', '    "ClippedMeZO",\n')
    inserted(table, "    FirstOrder,\n", "    ClippedMeZO,\n")
    inserted(table, '    "sgd": Method', ROW)
    (tmp_path / "conf/optimizer/mezo-clipped.yaml").write_text(SETTINGS, encoding="utf-8")

    def python(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    suite = ("-p", "no:cacheprovider", "-k", "mezo-clipped", "tests/optim/test_contract.py")
    run = ("optimizer=mezo-clipped", "optimizer.lr=1e-3", "protocol=smoke", "tracker=none")
    said = python("-c", BOTH, *suite, "--", *run, f"paths.results={tmp_path / 'results'}")
    passed = re.search(r"(\d+) passed", said)
    assert passed and int(passed[1]) >= 19 and "failed" not in said
    assert "selected" in said


def test_the_method_is_one_that_a_reader_takes_in_at_a_glance():
    body = CODE.split("class ", 1)[1].splitlines()
    assert len(body) < 40
