"""What trains: all parameters, some by name, an adapter, or the scales of a quantised base. As
plain data it is a mapping such as {"method": "lora", "rank": 8, "alpha": 16.0}, which a log's
header holds."""

from collections.abc import Mapping
from typing import Any

from bszo.errors import ConfigError
from bszo.models import LanguageModel
from bszo.models.adapters import attach

MOST = 1_000_000  # a log may come from anyone and must not take all memory
# adapter -> its arguments
ADAPTERS: dict[str, dict[str, type]] = {
    "full": {},
    "named": {"parameters": list},
    "lora": {"rank": int, "alpha": float},
    "prefix": {"num_tokens": int},
    "prompt": {"num_tokens": int},
    "scales": {},
    "linear-probe": {},
}
# adapter -> arguments that need not be there, with what stands for them then
OPTIONAL: dict[str, dict[str, Any]] = {
    "lora": {"target_modules": None},
    "linear-probe": {"start": "zero", "trains": "head"},
}
VALID = {"start": ("zero",), "trains": ("head", "all")}


def attached(
    model: LanguageModel, choice: Mapping[str, Any], *, num_labels: int, seed: int
) -> LanguageModel:
    """The model as the choice has it train.

    Raises:
        ConfigError: a choice that is none.
        ModelError: the model cannot have it.
    """
    method = choice.get("method")
    if not isinstance(method, str) or method not in ADAPTERS:
        raise ConfigError(f"tuning={method!r:.80}: not one of {', '.join(ADAPTERS)}")
    wanted = ADAPTERS[method]
    optional = OPTIONAL.get(method, {})
    given = {k: v for k, v in choice.items() if k not in ("method", *optional)}
    if given.keys() != wanted.keys():
        raise ConfigError(
            f"tuning={method}: has {', '.join(map(repr, given)) or 'nothing'}; needs"
            f" {', '.join(wanted) or 'nothing'}"
        )
    for name, kind in wanted.items():
        value = given[name]
        if kind is list:
            _check_names(name, value)
            continue
        fits = isinstance(value, (int, kind)) and not isinstance(value, bool)
        if not fits or not 0 < value <= MOST:
            least = "more than 0, at most" if kind is float else "1 to"
            raise ConfigError(f"tuning.{name}={value!r:.80}: {least} {MOST} is valid")
    for name, unsaid in optional.items():
        given[name] = value = choice.get(name, unsaid)
        if name == "start" and value == "fitted":
            raise ConfigError(
                "tuning.start=fitted: begins with a head that was fitted to rows, which a log does"
                " not hold; the weights that the run wrote are valid"
            )
        if name in VALID and value not in VALID[name]:
            raise ConfigError(f"tuning.{name}={value!r:.80}: {' or '.join(VALID[name])} is valid")
        if name == "target_modules" and value is not None:
            _check_names(name, value)
    return attach(model, method, num_labels=num_labels, seed=seed, **given)


def _check_names(key: str, value: Any) -> None:
    if not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
        raise ConfigError(f"tuning.{key}={value!r:.80}: a list of names is valid")
