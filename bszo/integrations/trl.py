"""TRL's trainers for supervised fine-tuning and for preferences, driven by any of the optimizers
here.

What TRL keeps for the logs (entropy, token accuracy, rewards, tokens seen) is that of a step's
first pass; the passes at other points count nothing.
"""

from collections import defaultdict
from typing import Any

from torch import Tensor, nn

from bszo.errors import needs
from bszo.integrations.transformers import ZerothOrderTrainer

with needs("trl"):
    from trl import DPOTrainer, SFTTrainer


class _OncePerStep(ZerothOrderTrainer):
    """A step's passes measure the loss, and the first of them TRL's metrics as well."""

    _counted = False  # has a pass of this step been counted?

    def _take(self, *args: Any, **kwargs: Any) -> float:
        self._counted = False
        return super()._take(*args, **kwargs)

    def _loss(self) -> Tensor:
        trainer: Any = self
        if not self._counted:
            self._counted = True
            return super()._loss()
        kept, tokens = trainer._metrics["train"], trainer._total_train_tokens
        trainer._metrics["train"] = defaultdict(list)
        try:
            return super()._loss()
        finally:
            trainer._metrics["train"], trainer._total_train_tokens = kept, tokens


class ZerothOrderSFTTrainer(_OncePerStep, SFTTrainer):  # type: ignore[misc]
    """TRL's SFTTrainer, whose step is optimizer.step(closure).

    Args:
        method: as for `ZerothOrderTrainer`.
        args, kwargs: as for `trl.SFTTrainer`; `bf16=False` in its configuration keeps a loss in
            fp32 that differences are taken of.

    Raises:
        MissingExtra: trl is not installed.
        OptimError: see `ZerothOrderTrainer`.

    Source: von Werra et al., https://github.com/huggingface/trl.
    """


class ZerothOrderDPOTrainer(_OncePerStep, DPOTrainer):  # type: ignore[misc]
    """TRL's DPOTrainer, whose step is optimizer.step(closure):

        L = - mean log sigmoid(beta ((log p(y_w) - log p_0(y_w)) - (log p(y_l) - log p_0(y_l))))

    for the chosen answer y_w and the rejected one y_l. The reference p_0 is the same at every point
    of a step: `precompute_ref_log_probs=True` takes its passes once, before training, and halves
    the price of a step.

    Args:
        method: as for `ZerothOrderTrainer`.
        args, kwargs: as for `trl.DPOTrainer`; `bf16=False` as for SFT.

    Raises:
        MissingExtra: trl is not installed.
        OptimError: see `ZerothOrderTrainer`.

    Source: Rafailov et al. 2023, arXiv 2305.18290, equation 7.
    """

    def __init__(self, model: Any, ref_model: Any = None, *args: Any, **kwargs: Any) -> None:
        # p_0 without dropout: TRL takes it out of layers alone, and some models drop by a function
        for module in (model, ref_model):
            if isinstance(module, nn.Module):
                module.eval()
        super().__init__(model, ref_model, *args, **kwargs)
