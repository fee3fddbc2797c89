"""The README's table of a real model is that of the results."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHOWN = ("method", "lr", "test %", "minus MeZO")


def rows(page: Path) -> list[list[str]]:
    """The cells of every line of every table."""
    lines = page.read_text(encoding="utf-8").splitlines()
    return [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]


def test_the_real_model_s_scores_are_the_table_s():
    table, readme = rows(ROOT / "results/tables/table_real.md"), rows(ROOT / "README.md")
    heads = table[0]
    columns = [heads.index(name) for name in SHOWN]
    known: dict[str, list[str]] = {}
    # the first section is that of 1,000 passes
    for row in (row for row in table if len(row) == len(heads)):
        known.setdefault(row[0].removesuffix(" (bf16-sr)"), [row[i] for i in columns[1:]])
    start = readme.index(list(SHOWN))
    shown = {row[0]: row[1:] for row in readme[start + 2 :] if len(row) == len(SHOWN)}
    assert len(shown) >= 6 and shown == {name: known[name] for name in shown}
