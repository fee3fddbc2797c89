"""Findings: the numbers of results/findings.md, where `{name}` stands for the text that the
function of that name returns, and `{table_real: ..}` for a cell of that table (see `quotes`)."""

from string import Formatter

from experiments.tables.artefacts import ARTEFACTS
from experiments.tables.findings import real, studies, tables
from experiments.tables.findings.evidence import Evidence
from experiments.tables.findings.quotes import Quotes, UnknownFinding
from experiments.tables.inputs import Inputs

FINDINGS = {
    function.__name__: function
    for function in (*tables.FINDINGS, *studies.FINDINGS, *real.FINDINGS)
}
QUOTED = {name: a for name, a in ARTEFACTS.items() if not (a.drawn or a.scored)}


def written(template: str, inputs: Inputs) -> str:
    """Return a text with its numbers filled in.

    Raises:
        UnknownFinding: the text names a finding that nothing makes, or quotes a cell that the table
            does not have, or its braces do not match.
    """
    try:
        named = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise UnknownFinding(str(error)) from error
    if strange := named - FINDINGS.keys() - QUOTED.keys():
        raise UnknownFinding(f"{{{min(strange)}}} names no finding of experiments/tables/findings")
    evidence = Evidence(inputs)
    made = {name: FINDINGS[name](evidence) for name in named & FINDINGS.keys()}
    quoted = {name: Quotes(QUOTED[name], inputs) for name in named & QUOTED.keys()}
    return template.format_map({**made, **quoted})
