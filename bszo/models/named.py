"""Named parameters alone train: those whose names match a pattern; all others are frozen.

["*bias"] is BitFit (Ben Zaken, Goldberg and Ravfogel 2021, arXiv 2106.10199). ["*_proj.weight"] are
the matrices inside the blocks of a Llama: embeddings, head and norms stay. On SmolLM2-135M MeZO
trains these alone at a learning rate at which training all parameters diverges
(results/findings.md, "A real model").
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from bszo.errors import ModelError
from bszo.models.language_model import LanguageModel
from bszo.models.quantized import is_quantized


def named(model: LanguageModel, *, parameters: Sequence[str]) -> LanguageModel:
    """The model, of whose parameters those train whose names match.

    Args:
        parameters: patterns of names as `module.named_parameters()` has them, such as
            "*layers.2*.weight": `*` stands for any text, `?` for one character, `[ab]` for one of
            these. A tied head has the name of the embeddings alone.

    Raises:
        ModelError: there is no pattern, or one that no parameter's name matches; or the base is
            quantised.

    Example:
        >>> from bszo.models import load_model
        >>> from bszo.models.named import named
        >>> model = load_model("asset:tiny-opt", dtype="float32")
        >>> model = named(model, parameters=["*bias"])
        >>> {n.rpartition(".")[2] for n, p in model.module.named_parameters() if p.requires_grad}
        {'bias'}
    """
    if not parameters:
        raise ModelError("tuning.parameters=[]: must name at least one parameter")
    found = dict(model.module.named_parameters())
    if any(map(is_quantized, found.values())):
        raise ModelError(
            f"tuning=named: the matrices of {model.name} are quantised and stay as they are;"
            " tuning=lora, prefix, prompt, linear-probe or scales is valid"
        )
    for pattern in parameters:
        if not any(fnmatchcase(name, pattern) for name in found):
            raise ModelError(
                f"tuning.parameters: {model.name} has no parameter whose name matches {pattern!r};"
                f" it has {', '.join(_samples(list(found)))}"
            )
    for name, parameter in found.items():
        parameter.requires_grad_(any(fnmatchcase(name, pattern) for pattern in parameters))
    return model


def _samples(names: Sequence[str], most: int = 4) -> list[str]:
    """The first names, and dots where there are more."""
    return [*names[:most], *(["..."] if len(names) > most else [])]
