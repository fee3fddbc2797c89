"""The tables in git are those that the code makes of the records in git, captions included."""

from pathlib import Path

import pytest

from experiments.render import render_all
from experiments.tables.artefacts import ARTEFACTS

TABLES = Path(__file__).resolve().parents[2] / "results" / "tables"


@pytest.mark.parametrize("name", [name for name, made in ARTEFACTS.items() if not made.drawn])
def test_a_table_is_the_one_that_its_command_renders(name: str, tmp_path: Path):
    render_all([ARTEFACTS[name]], None, tmp_path)
    made = sorted(tmp_path.rglob("*.md"))
    assert made
    for file in made:
        committed = (TABLES / file.name).read_text(encoding="utf-8")
        assert file.read_text(encoding="utf-8") == committed, f"python -m experiments.render {name}"
