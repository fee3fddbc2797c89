"""A constructor's signature with every argument by name, for `help`, editors and configs."""

import inspect
import typing
from typing import get_args


def spelt_out(cls: type, root: type) -> inspect.Signature:
    """The constructor's signature with `**options: Unpack[Options]` as the arguments it stands
    for."""
    _, *own = inspect.signature(cls.__init__).parameters.values()
    base = dict(inspect.signature(root.__init__).parameters)
    for parent in cls.__mro__[1:]:  # what is not every optimizer's: the nearest that names it
        if issubclass(parent, root):
            base = {**inspect.signature(parent.__init__).parameters, **base}
    hints = typing.get_type_hints(cls.__init__, include_extras=True)
    spelt: list[inspect.Parameter] = []
    for parameter in own:
        unpacked = get_args(hints.get(parameter.name))
        if parameter.kind is not parameter.VAR_KEYWORD or not unpacked:
            spelt.append(parameter)
            continue
        taken = {p.name for p in own}
        spelt += [
            base[name].replace(kind=parameter.KEYWORD_ONLY, annotation=hint)
            for name, hint in typing.get_type_hints(unpacked[0]).items()
            if name not in taken
        ]
    return inspect.Signature(spelt)
