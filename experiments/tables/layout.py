"""Layout of a table as Markdown, CSV and LaTeX; the first line of each file says what made it."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Section:
    """One rectangle of text under a heading.

    Attributes:
        title: the heading.
        columns: the names of the columns.
        rows: one text for each column.
        bold: (row, column) of the cells that stand out.
        notes: lines under the rectangle.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    bold: frozenset[tuple[int, int]] = frozenset()
    notes: tuple[str, ...] = field(default=())


def markdown(title: str, sections: Sequence[Section], made: str) -> str:
    lines = [f"<!-- {made} -->", f"# {title}"]
    for section in sections:
        rows = [
            [f"**{t}**" if (i, j) in section.bold else t for j, t in enumerate(row)]
            for i, row in enumerate(section.rows)
        ]
        lines += ["", f"## {section.title}", "", *rectangle(section.columns, rows)]
        lines += [text for note in section.notes for text in ("", note)]
    return "\n".join(lines) + "\n"


def rectangle(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of one Markdown table."""
    return [_line(columns), _line(["---"] * len(columns)), *map(_line, rows)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def comma_separated(sections: Sequence[Section], made: str) -> str:
    """Return all sections below each other, with the section's title in the first column."""
    out = io.StringIO()
    out.write(f"# {made}\n")
    writer = csv.writer(out, lineterminator="\n")
    header: tuple[str, ...] | None = None
    for section in sections:
        if section.columns != header:
            header = section.columns
            writer.writerow(["section", *header])
        writer.writerows([section.title, *row] for row in section.rows)
    return out.getvalue()


_ESCAPED = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "$": r"\$",
}


def escaped(text: str) -> str:
    """Escape a text so that LaTeX prints it as it is."""
    return "".join(_ESCAPED.get(letter, letter) for letter in text)


def latex(title: str, sections: Sequence[Section], made: str) -> str:
    """Return one `table` environment for each section, with the rules of booktabs."""
    lines = [f"% {made}"]
    for section in sections:
        lines += [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escaped(f'{title}: {section.title}')}}}",
            rf"\begin{{tabular}}{{{'l' * len(section.columns)}}}",
            r"\toprule",
            " & ".join(map(escaped, section.columns)) + r" \\",
            r"\midrule",
        ]
        for i, row in enumerate(section.rows):
            cells = [
                rf"\textbf{{{escaped(t)}}}" if (i, j) in section.bold else escaped(t)
                for j, t in enumerate(row)
            ]
            lines.append(" & ".join(cells) + r" \\")
        lines += [
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\\ {escaped(note)}" for note in section.notes),
            r"\end{table}",
        ]
    return "\n".join(lines) + "\n"


def not_shown(doubles: Iterable[str], outdated: Iterable[str]) -> list[str]:
    """Return a line about each kind of records that a table does not show: those that a later run
    of the same configuration replaces, and those of other rows or weights than a later run had."""
    why = {
        "Replaced by a later run of the same configuration": sorted(doubles),
        "Left out, for a later run was of other rows or weights": sorted(outdated),
    }
    return [f"{said}: {len(of)} ({', '.join(of)})." for said, of in why.items() if of]
