"""What a notebook is: stripped in git, a question first, an answer last, no torch and no Hydra."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

from scripts.maintain.report import NOTEBOOKS

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
ALLOWED = {
    "notebooks",
    "experiments",
    "scripts",
    "pandas",
    "numpy",
    "matplotlib",
    "IPython",
    "PIL",
    "io",
    "json",
    "os",
    "sys",
    "collections",
    "itertools",
    "pathlib",
    "typing",
}
OURS = (
    "experiments.records.record",
    "experiments.tables",
    "experiments.sweeps",
    "scripts.figures.style",
)


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_there_are_three_in_order():
    assert [path.name[:2] for path in PATHS] == ["1-", "2-", "3-"]


def test_outputs_are_stripped(path: Path):
    cells = nbformat.read(path, as_version=4).cells
    assert all(
        cell.outputs == [] and cell.execution_count is None
        for cell in cells
        if cell.cell_type == "code"
    )


def test_question_first_and_answer_last(path: Path):
    first, *_, last = nbformat.read(path, as_version=4).cells
    assert re.match(r"# \d\. [^\n]+\n\n\*\*Question\.\*\* [^\n]+\?\n", first.source)
    assert last.cell_type == "code" and last.source.endswith("answer(lines)")
    assert first.metadata["tags"] == ["question"] and last.metadata["tags"] == ["answer"]


@pytest.mark.parametrize("file", [*PATHS, NOTEBOOKS / "reading.py"], ids=lambda file: file.name)
def test_only_records_are_read(file: Path):
    if file.suffix == ".py":
        source = file.read_text(encoding="utf-8")
    else:
        cells = nbformat.read(file, as_version=4).cells
        source = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    names = {
        alias.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    names |= {
        node.module or ""
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
    }
    assert {name.split(".")[0] for name in names} <= ALLOWED
    assert all(
        name.startswith(OURS) or name == "experiments"
        for name in names
        if name.split(".")[0] in ("experiments", "scripts")
    )
