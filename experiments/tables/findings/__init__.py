"""Findings: the numbers of results/findings.md, from records and from the cells of tables."""
