"""The pages that quote results say what the tables say: the README and docs/which-method.md.

The files in tests/findings/pages hold fragments of a page, apart by blank lines, with quotes in
place of numbers (`experiments.tables.findings.quotes`). Filled in, each must stand in the
page, however its lines are broken. Where one does not, the test prints what the page should say.
"""

from pathlib import Path

import pytest

from experiments.records.store import PACKED
from experiments.tables.findings.text import written
from experiments.tables.inputs import Inputs

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"README.md": "README.md", "which-method.md": "docs/which-method.md"}


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    return Inputs(PACKED)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_quotes_the_tables(name: str, inputs: Inputs):
    page = " ".join((ROOT / PAGES[name]).read_text(encoding="utf-8").split())
    fragments = (Path(__file__).parent / "pages" / name).read_text(encoding="utf-8")
    quoted = [" ".join(text.split()) for text in written(fragments, inputs).split("\n\n")]
    assert len(quoted) >= 5 and "(not run)" not in fragments
    assert [text for text in quoted if text not in page] == []
