"""The numbers in results/findings.md: `{name}` there is the text of the function of that name."""

from string import Formatter

from experiments.tables import findings_studies as of_studies
from experiments.tables import findings_tables as of_tables
from experiments.tables.evidence import Evidence
from experiments.tables.inputs import Inputs

FINDINGS = {function.__name__: function for function in (*of_tables.FINDINGS, *of_studies.FINDINGS)}


class UnknownFinding(ValueError):
    """What is in braces is no finding."""


def written(template: str, inputs: Inputs) -> str:
    """A text with its numbers. UnknownFinding where it names one that nothing makes, or its braces
    do not match."""
    try:
        named = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise UnknownFinding(str(error)) from error
    if strange := named - FINDINGS.keys():
        raise UnknownFinding(
            f"{{{min(strange)}}} names no finding of experiments/tables/findings.py"
        )
    evidence = Evidence(inputs)
    return template.format_map({name: FINDINGS[name](evidence) for name in named})
