"""A linear probe: the language model is frozen, and only a head over its last hidden state trains.

    score(o) = s(o) + mean_j (w_o . h_j + b_o)

s(o) is the model's own score of option o, h_j the last hidden state at the positions where o's
tokens are read, w and b are 0 at the start. For options of one token this is a head with one row a
label that starts as the label words' rows of the output embedding (as MeZO's, Malladi et al. 2023,
arXiv 2305.17333, appendix): training begins at zero-shot.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bszo.errors import ModelError
from bszo.models.batch import Batch
from bszo.models.language_model import LanguageModel
from bszo.models.scores import option_logits, option_scores

FILE = "probe.safetensors"


class Probe(nn.Module):
    """The frozen model and its head, one row an option."""

    def __init__(self, base: nn.Module, num_options: int) -> None:
        super().__init__()
        first = next(base.parameters())
        self.config: Any = base.config
        self.base = base.requires_grad_(False)
        self.probe = nn.Linear(
            self.config.hidden_size, num_options, device=first.device, dtype=first.dtype
        )
        nn.init.zeros_(self.probe.weight)
        nn.init.zeros_(self.probe.bias)

    def save_pretrained(self, folder: Path) -> None:
        """The head alone, as safetensors."""
        from safetensors.torch import save_file

        save_file(self.probe.state_dict(), folder / FILE)


class ProbedModel(LanguageModel):
    """The model with a linear probe; nothing about its start is random.

    Args:
        model: the model that is frozen.
        num_options: of every example.

    Raises:
        ModelError: fewer than two options, or a model whose last hidden state cannot be read.
    """

    def __init__(self, model: LanguageModel, num_options: int) -> None:
        if num_options < 2:
            raise ModelError(
                "tuning=linear-probe: tells options apart, and this task has the model write its"
                " answers"
            )
        self._body: Any = getattr(model.module, "base_model", None)
        if (
            self._body is None
            or self._body is model.module
            or not hasattr(model.module.config, "hidden_size")
        ):
            raise ModelError(
                f"tuning=linear-probe: {model.name} has no base model to read a last hidden state"
                " from"
            )
        module = Probe(model.module, num_options)
        super().__init__(
            module, model.tokenizer, style=model.style, max_length=model.limit, name=model.name
        )

    def scores(self, batch: Batch) -> Tensor:
        """The options' scores, (B, O) float32; -inf where an example has no such option."""
        return self._with_probe(option_scores, batch)

    def _comparable(self, batch: Batch) -> Tensor:
        return self._with_probe(option_logits, batch)

    def _with_probe(self, base_scores: Callable[..., Tensor], batch: Batch) -> Tensor:
        module: Any = self.module
        with self._states() as states:
            scores = base_scores(module.base, batch, causal=self.style == "causal")
        hidden = states[-1]
        rows, columns = batch.rows.to(hidden.device), batch.columns.to(hidden.device)
        # (N, O)
        extra = (
            module.probe(hidden[rows, columns].to(module.probe.weight.device))
            .float()
            .to(scores.device)
        )
        options = torch.arange(scores.shape[1], device=scores.device)[None, :, None]
        at_tokens = torch.where(batch.present, extra[batch.position, options], 0.0)  # (B, O, L)
        return scores + at_tokens.sum(-1) / batch.present.sum(-1).clamp(min=1)

    @contextmanager
    def _states(self) -> Iterator[list[Tensor]]:
        """While active, gathers the last hidden states of the base model's passes, (R, T, H)
        each."""
        states: list[Tensor] = []
        # some models call the inner decoder alone; where both run, the outer one's output comes
        # last
        parts = [
            part for part in (self._body, getattr(self._body, "decoder", None)) if part is not None
        ]
        handles = [
            part.register_forward_hook(lambda _, args, output: states.append(output[0]))
            for part in parts
        ]
        try:
            yield states
        finally:
            for handle in handles:
                handle.remove()


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
            f"probe {folder / FILE}: does not fit {model.name}: {error}".splitlines()[0]
        ) from error
    return probed
