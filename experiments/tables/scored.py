"""Tables of accuracies: the blocks of an artefact's sweeps, and the same at equal budgets."""

import string
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from experiments.sweeps.grid import PROFILES, load, read
from experiments.tables.accuracy import Block, Kind, blocks, section
from experiments.tables.artefacts import Artefact
from experiments.tables.budgets import BUDGETS, before_training
from experiments.tables.inputs import Inputs
from experiments.tables.layout import Section, not_shown

KindOf = Callable[[str], Kind]  # a sweep's letter -> what its block shows


def sections(artefact: Artefact, kind_of: KindOf, inputs: Inputs) -> list[Section]:
    """Build the sections of what was run, and of the paper's numbers whether or not anything was
    run beside them."""
    found = _blocks(artefact, kind_of, inputs, lambda kind: kind)
    return [section(block) for profile, block in found if profile == "paper" or block.used]


def equal_sections(artefact: Artefact, kind_of: KindOf, inputs: Inputs) -> list[Section]:
    """Build the sections of what was run at an equal number of forward passes, then at equal wall-
    clock time."""
    made = []
    for budget in BUDGETS:
        scored = partial(
            replace,
            published=lambda point: None,
            scoring=budget.scoring,
            untrained=before_training,
            notes=(budget.note,),
        )
        for _, block in _blocks(artefact, kind_of, inputs, scored):
            if block.used:
                block.title += f", {budget.words}"
                made.append(section(block))
    return made or [Section("Not run yet", ("how",), (("make run-tableN",),))]


def _blocks(
    artefact: Artefact, kind_of: KindOf, inputs: Inputs, changed: Callable[[Kind], Kind]
) -> Iterator[tuple[str, Block]]:
    """Yield (profile, block) for every sweep, profile and setting; titles name the sweep where
    there are several."""
    for letter, sweep in zip(string.ascii_lowercase, artefact.sweeps, strict=False):
        node = read(sweep)
        for profile in (name for name in PROFILES if name in node["profiles"]):
            kind = changed(kind_of(letter))
            for block in blocks(load(sweep, profile), inputs.records(profile), kind):
                if len(artefact.sweeps) > 1:
                    block.title = f"({letter}) {node['title']}. {block.title}"
                inputs.used |= block.used
                block.notes += not_shown(block.doubles, block.outdated)
                yield profile, block
