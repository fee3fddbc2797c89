"""Layers: the table of docs/design.md, written from that of tests/test_layers.py.

python -m scripts.maintain.layers
"""

import sys
from collections.abc import Mapping

from bszo.files import written_whole
from experiments import ROOT

PAGE = ROOT / "docs" / "design.md"
BEGIN, END = "<!-- layers: python -m scripts.maintain.layers -->", "<!-- end of layers -->"
Layers = Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]


def table(layers: Layers) -> str:
    """A row a layer: what it may import of ours and of others, beside the standard library."""
    rows = ["| layer | may import of ours | of others |", "| --- | --- | --- |"]
    for layer, (ours, others) in layers.items():
        cells = (f"`{layer}`", _listed(ours), _listed(others))
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "nothing"


def page_with(text: str, layers: Layers) -> str:
    """The page with the table between its two marks. ValueError: it does not have both."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name}: the lines {BEGIN!r} and {END!r} are needed")
    return f"{before}{BEGIN}\n\n{table(layers)}\n\n{END}{after}"


def main() -> int:
    """Write the page; the exit code is 1 where it has no place for the table."""
    from tests.test_layers import LAYERS

    try:
        text = page_with(PAGE.read_text(encoding="utf-8"), LAYERS)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    with written_whole(PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
