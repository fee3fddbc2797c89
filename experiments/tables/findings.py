"""The numbers in results/findings.md: `{name}` there is the text of the function of that name."""

from experiments.tables import of_studies, of_tables
from experiments.tables.command import Inputs
from experiments.tables.evidence import Evidence

FINDINGS = {function.__name__: function for function in (*of_tables.FINDINGS, *of_studies.FINDINGS)}


def written(template: str, inputs: Inputs) -> str:
    """A text with its numbers; KeyError where it names one that nothing here makes."""
    evidence = Evidence(inputs)
    used = {name for name in FINDINGS if f"{{{name}}}" in template}
    return template.format_map({name: FINDINGS[name](evidence) for name in used})
