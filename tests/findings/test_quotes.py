"""Quotes: the text of the findings takes its numbers from the cells of tables."""

import re
from pathlib import Path

import pytest

from experiments.tables.artefacts import Artefact
from experiments.tables.findings import quotes
from experiments.tables.findings.quotes import Quotes, UnknownFinding
from experiments.tables.findings.text import written
from experiments.tables.inputs import Inputs
from experiments.tables.layout import Section

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = [
    Section(
        "Runs",
        ("method", "seed", "loss", "passes"),
        (
            ("MeZO", "0", "0.562 (71.5)", "1,000"),
            ("MeZO", "1", "0.589 (68.4)", "1,000"),
            ("BSZO, k = 2", "0", "-0.5 at 3e-05", "999"),
            ("LOZO", "0", "diverged (2 of 3)", "- (1 of 3)"),
            ("LOZO", "1", "3e-05", "3e-06"),
        ),
    ),
    Section("Runs of another task", ("method", "loss"), (("MeZO", "0.7"), ("MeZO, dtype=x", "1"))),
]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Quotes:
    """Two sections of a table of one run, the title of one of which lies in that of the other."""

    def made(artefact: Artefact, inputs: Inputs) -> list[Section]:
        inputs.used.add("a run")
        return SECTIONS

    monkeypatch.setattr(quotes, "maker", lambda artefact: made)
    return Quotes(Artefact("table_some", "runs", "here:made"), Inputs(tmp_path))


@pytest.mark.parametrize(
    ("spec", "quoted"),
    [
        ("Runs > MeZO > 0 > loss", "0.562 (71.5)"),
        (" Runs > MeZO > 1 > loss # 2", "68.4"),
        ("Runs > MeZO > 0 > passes # 1", "1,000"),
        ("Runs > BSZO, k = 2 > loss # 1", "-0.5"),
        ("Runs > BSZO, k = 2 > loss # 2", "3e-05"),
        ("another > ~dtype > loss", "1"),
        # (0.562 + 0.589) / 2 = 0.5755
        ("Runs > MeZO > 0 + 1 > loss # 1", f"{0.5755:.3f}"),
        ("Runs > MeZO > 0 + 1 > passes # 1", "1000"),
    ],
)
def test_a_cell_and_a_number_in_it(table: Quotes, spec: str, quoted: str):
    assert format(table, spec) == quoted


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("Runs", "must say SECTION > ROW > COLUMN"),
        ("run > MeZO > 0 > loss", "0 of its sections are meant"),
        ("Run > MeZO > 0 > loss", "2 of its sections are meant"),
        ("Runs > HiZOO > loss", "0 of its rows are meant"),
        ("Runs > LOZO > 0 > loss # 1", "the cell is 'diverged"),
        ("Runs > LOZO > 0 > passes # 1", "the cell is '- "),
        ("Runs > LOZO > 1 + 0 > loss", "no numbers that have a mean"),
        ("Runs > MeZO + LOZO > 1 > loss # 1", "no numbers that have a mean"),
        ("Runs > MeZO > loss", "2 of its rows are meant"),
        ("Runs > MeZO > 0 > accuracy", "its columns are method, seed, loss, passes"),
        ("Runs > MeZO > 0 > loss # 3", "the cell is '0.562 \\(71.5\\)'"),
        ("Runs > MeZO > 0 > loss # x", "the cell is"),
    ],
)
def test_what_is_no_cell_or_more_than_one_is_an_error(table: Quotes, spec: str, message: str):
    with pytest.raises(UnknownFinding, match=f"{{table_some:{re.escape(spec)}}} .*{message}"):
        format(table, spec)


def test_a_table_without_a_run_says_so(tmp_path: Path):
    text = written("MeZO ends at {table_real: of 1,000 > MeZO > 0 > at 250}.", Inputs(tmp_path))
    assert text == "MeZO ends at (not run)."


def test_a_table_of_accuracies_alone_is_not_quoted(tmp_path: Path):
    with pytest.raises(UnknownFinding, match=r"\{table1\} names no finding"):
        written("{table1: a > b > c}", Inputs(tmp_path))


@pytest.mark.parametrize(
    ("heading", "typed"),
    [
        # a standard error, a ratio of the bench, and the gain in words
        ("A real model", ["0.01", "0.02", "0.2", "0.8", "1.15", "1.5"]),
        # a version, what a comparison of all runs printed, and a rate and a score of before
        ("What the mini profile shows", ["0.03", "0.1", "2.11", "27.2", "4.9", "51.1"]),
    ],
)
def test_no_score_is_typed(heading: str, typed: list[str]):
    """Numbers with a point, outside braces and code: what no table shows."""
    text = (ROOT / "results" / "findings.md").read_text(encoding="utf-8")
    part = text.partition(f"## {heading}")[2].partition("\n## ")[0]
    found = re.findall(r"\d+\.\d+", re.sub(r"\{[^}]*\}|`[^`]*`", "", part))
    assert len(part) > 5000 and sorted(found) == typed
