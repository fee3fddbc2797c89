"""A linear probe: a head over the last hidden state trains, and the language model is frozen unless
it trains too.

    score(o) = s(o) + mean_j (w_o . h_j + b_o)

Here s(o) is the model's own score of option o, h_j is the last hidden state at the j-th position
where o's tokens are read, and w and b are 0 at the start, so that training begins with the scores
of zero-shot, unless `bszo.models.fit_probe` fits them to the training rows at once. For options of
one token of a causal model whose logits are a plain product, this is the same as a head with one
row a label, which starts as the label words' rows of the output embedding (Malladi et al. 2023,
arXiv 2305.17333, appendix).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bszo.errors import ModelError, one_line
from bszo.models.batch import Batch
from bszo.models.encode import Encoded
from bszo.models.head import at_positions
from bszo.models.language_model import LanguageModel
from bszo.models.states import body_of, last_states

FILE = "probe.safetensors"


class Probe(nn.Module):
    """The model and its head, one row an option; `width` is that of the last hidden state."""

    def __init__(self, base: nn.Module, width: int, num_options: int, *, frozen: bool) -> None:
        super().__init__()
        first = next(base.parameters())
        self.config: Any = base.config
        self.frozen = frozen
        self.base = base.requires_grad_(False) if frozen else base
        self.probe = nn.Linear(width, num_options, device=first.device, dtype=first.dtype)
        nn.init.zeros_(self.probe.weight)
        nn.init.zeros_(self.probe.bias)

    def save_pretrained(self, folder: Path) -> None:
        """Save the head as safetensors, and the model beside it unless it is frozen."""
        from safetensors.torch import save_file

        if not self.frozen:
            base: Any = self.base
            base.save_pretrained(folder)
        save_file(self.probe.state_dict(), folder / FILE)


class ProbedModel(LanguageModel):
    """The model with a linear probe, which has no random start.

    Args:
        model: what the probe reads; a plain model of transformers.
        num_options: of every example.
        frozen: the head alone trains; otherwise every parameter does.

    Attributes:
        plain: the model without the head.

    Raises:
        ModelError: fewer than two options, or a model whose last hidden state cannot be read.
    """

    def __init__(self, model: LanguageModel, num_options: int, *, frozen: bool = True) -> None:
        if num_options < 2:
            raise ModelError(
                "tuning=linear-probe: tells options apart, and this task has the model write its"
                " answers"
            )
        self.plain = model
        self._body = body_of(model.module)
        if model.width is None:
            raise ModelError(
                f"tuning=linear-probe: {model.name} has no base model to read a last hidden state"
                " from"
            )
        super().__init__(
            Probe(model.module, model.width, num_options, frozen=frozen),
            model.tokenizer,
            style=model.style,
            max_length=model.limit,
            name=model.name,
            traits=model.traits,
        )

    def set_head(self, weight: Tensor, bias: Tensor) -> None:
        """Have w, (O, H), and b, (O,), rounded to the parameters' type."""
        head: Any = self.module.probe
        with torch.no_grad():
            head.weight.copy_(weight)
            head.bias.copy_(bias)

    def features(self, encoded: Sequence[Encoded], *, max_tokens: int) -> tuple[Tensor, Tensor]:
        return self.plain.features(encoded, max_tokens=max_tokens)

    def _score(self, score: Callable[..., Tensor], batch: Batch) -> Tensor:
        module: Any = self.module
        with last_states(self._body) as states:
            scores = score(
                module.base, batch, causal=self.style == "causal", shortcut=self.traits.shortcut
            )
        hidden = at_positions(states[-1], batch).to(module.probe.weight)
        extra = module.probe(hidden).float().to(scores.device)  # (N, O)
        options = torch.arange(scores.shape[1], device=scores.device)[None, :, None]
        at_tokens = torch.where(batch.present, extra[batch.position, options], 0.0)  # (B, O, L)
        return scores + at_tokens.sum(-1) / batch.present.sum(-1).clamp(min=1)


def load_probe(model: LanguageModel, folder: Path) -> ProbedModel:
    """The model with the probe that `Probe.save_pretrained` wrote; ModelError: no such file, or of
    other shapes."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(folder / FILE)
        probed = ProbedModel(model, len(state["weight"]))
        module: Any = probed.module
        module.probe.load_state_dict(state)
    except (OSError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"probe {folder / FILE}: does not fit {model.name}: {one_line(error)}"
        ) from error
    return probed
