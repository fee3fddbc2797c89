"""docs/threats.md and the code name each other: no guard without a threat, no threat without a
guard."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "threats.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^### (.+)$", PAGE, re.MULTILINE)
CITED = re.compile(r'docs/threats\.md,\s+"([^"]+)"')


def cited() -> dict[str, list[str]]:
    """Heading -> the files that name it."""
    found: dict[str, list[str]] = {}
    for folder in ("bszo", "experiments", "hydra_plugins"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for heading in CITED.findall(file.read_text(encoding="utf-8")):
                found.setdefault(re.sub(r"\s+", " ", heading), []).append(str(file))
    return found


def test_each_guard_names_a_threat_of_the_page_and_each_threat_has_a_guard():
    assert HEADINGS and sorted(cited()) == sorted(HEADINGS)


def test_the_index_names_every_page():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = {file.name for file in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert set(re.findall(r"\]\(([\w-]+\.md)\)", index)) == pages
