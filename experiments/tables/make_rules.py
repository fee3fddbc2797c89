"""The registry of artefacts as rules of the Makefile."""

from experiments.tables.artefacts import ARTEFACTS, Artefact


def make_lines() -> str:
    """The registry as variables and rules for the Makefile."""
    tables = [a.name for a in ARTEFACTS.values() if not a.drawn]
    figures = [a.name for a in ARTEFACTS.values() if a.drawn]
    lines = [
        "# written by python -m experiments.render --make",
        f"TABLES := {' '.join(tables)}",
        f"FIGURES := {' '.join(figures)}",
        f"RECORDED := {' '.join(a.name for a in ARTEFACTS.values() if a.sweeps)}",
    ]
    for artefact in ARTEFACTS.values():
        lines += ["", *_rules(artefact)]
    return "\n".join(lines) + "\n"


def _rules(artefact: Artefact) -> list[str]:
    name = artefact.name
    files = [f"results/{pattern}" for pattern in artefact.files]
    if artefact.drawn:
        files.append("scripts/figures/*.py")
    lines = [f"outputs/made/{name}: $(wildcard {' '.join(files)})"]
    if artefact.sweeps:
        lines.append(f"SWEEPS_{name} := {' '.join(artefact.sweeps)}")
        if artefact.picked:
            picked = " ".join(f"{key}={value}" for key, value in artefact.picked.items())
            lines.append(f"PICK_{name} := {picked}")
        return lines
    lines += [f"plan-{name}:", f'\t@echo "{name}: {artefact.plan}"']
    if not artefact.commands:
        return [*lines, f"run-{name}: {name}", "\t@:"]  # a recipe, or make takes the pattern's
    lines.append(f"run-{name}: $(READY)")
    for profile, commands in artefact.commands.items():
        lines += [f"ifeq ($(PROFILE),{profile})"] if profile else []
        lines += [f"\t$(RUN) -m {command}" for command in commands]
        lines += ["else"] if profile else []
    lines += ["endif"] * (len(artefact.commands) - 1)
    return [*lines, f"\t@$(MAKE) --no-print-directory {' '.join(together(artefact))}"]


def together(artefact: Artefact) -> list[str]:
    """What is rendered after a measurement: the artefact, and others that read its first file."""
    others = [other.name for other in ARTEFACTS.values() if artefact.files[0] in other.files]
    return [artefact.name, *(name for name in others if name != artefact.name)]
