"""Language model: one interface over masked and causal models, from examples to option scores,
losses and answers."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bszo.errors import ModelError
from bszo.half import fast_products
from bszo.models.batch import Batch, buckets, by_length, collate
from bszo.models.causal import CausalEncoder
from bszo.models.encode import Encoded
from bszo.models.head import at_positions
from bszo.models.masked import MaskedEncoder
from bszo.models.module import num_positions
from bszo.models.packing import Way, common_beginning, in_few_rows, room, texts_of
from bszo.models.scores import option_logits, option_scores
from bszo.models.states import body_of, last_states, mean_over_tokens, width_of
from bszo.models.traits import Traits
from bszo.tasks import Example, Task, scored

# Packed, an evaluation batch has at most so many of its positions, or it is not packed.
ENOUGH = 0.8


class LanguageModel:
    """A pretrained module with its tokenizer, scoring the options of examples.

    score(option) = mean log-probability of its tokens after the prompt (causal), or of its token at
    the mask (masked); loss = mean softmax cross entropy over each example's scores.

    Args:
        module: an LM of `transformers`, plain or wrapped by adapters.
        tokenizer: its fast tokenizer.
        style: "masked" or "causal".
        max_length: most tokens of a row; the model's own number of positions bounds it too.
        name: a label for logs and records.
        traits: what its scores may rely on, as `find_traits` has found it.

    Attributes:
        limit: the tokens a row may really have.
        rewarded: the task whose reward takes the place of the cross entropy; None leaves it.
        label_bias: (O,) added to the scores of every example's options (`bszo.models.label_bias`);
            None adds nothing.

    Raises:
        ModelError: a slow tokenizer, one without a mask token for a masked model, or max_length
            below 2.
    """

    def __init__(
        self,
        module: nn.Module,
        tokenizer: Any,
        *,
        style: Literal["causal", "masked"],
        max_length: int,
        name: str,
        traits: Traits = Traits(),  # noqa: B008 (a constant)
    ) -> None:
        if not tokenizer.is_fast:
            raise ModelError(
                f"{name}: its tokenizer gives no character offsets; a tokenizer.json is needed"
            )
        if max_length < 2:
            raise ModelError(f"model.max_length={max_length}: must be at least 2")
        self.module = module
        self.tokenizer = tokenizer
        self.style: Literal["causal", "masked"] = style
        self.name = name
        self.traits = traits
        self.rewarded: Task | None = None
        self.label_bias: Tensor | None = None
        # a step reads its batch several times: (batch, the ways to pack it, apart, packed)
        self._last: tuple[Batch, tuple[Way, ...], bool, Batch] | None = None
        self.limit = min(max_length, num_positions(module) or max_length)
        self._encoder = (CausalEncoder if style == "causal" else MaskedEncoder)(
            tokenizer, self.limit
        )
        # the model never looks at padding, so that any id will do
        ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        self.pad_id: int = next(i for i in ids if i is not None)

    @property
    def device(self) -> torch.device:
        """The device of the input embeddings, on which inputs must lie."""
        return next(self.module.parameters()).device

    @property
    def width(self) -> int | None:
        """Of the last hidden state; None of a model that shows none. It takes a pass to see."""
        ids = torch.full((1, 2), self.pad_id, device=self.device)
        return width_of(self.module, ids)

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """Tokenise examples, each prompt + option once; `Encoded.truncated` says which were cut.

        Raises:
            ModelError: an option without a token, a masked option of several, or no room for an
                option.
        """
        return self._encoder(examples)

    def collate(self, encoded: Sequence[Encoded], *, step: int | None = None) -> Batch:
        """One padded batch on the model's device; ModelError if empty. `step` is for models that
        draw answers, anew at each step (GenerativeModel); where options are scored nothing is."""
        del step
        return collate(encoded, pad_id=self.pad_id, device=self.device)

    def scores(self, batch: Batch) -> Tensor:
        """Mean log-probability of each option, (B, O) float32; -inf where an example has no such
        option."""
        return self._biased(self._unpadded(option_scores, batch))

    def loss(self, batch: Batch) -> Tensor:
        """Mean softmax cross entropy over the options' scores, or - mean reward of the best
        options, a float32 scalar."""
        batch = self._tight(batch)
        if self.rewarded is not None:
            return -self._rewards(self.rewarded, batch).mean()
        return F.cross_entropy(self._comparable(batch), batch.labels)

    def losses(self, batch: Batch) -> Tensor:
        """The loss of each example, (B,) float32, of a pass in which no two examples share a token;
        `loss` is their mean."""
        batch = self._tight(batch, apart=True)
        if self.rewarded is not None:
            return -self._rewards(self.rewarded, batch)
        return F.cross_entropy(self._comparable(batch), batch.labels, reduction="none")

    def _rewards(self, task: Task, batch: Batch) -> Tensor:
        """(B,) float32: of each example's best option, the lowest where several are equal."""
        assert task.reward is not None
        with torch.no_grad():
            chosen = self._comparable(batch).argmax(-1).tolist()
        names = task.label_names
        gold = [(names[label],) for label in batch.labels.tolist()]
        found = scored(task.reward, [names[option] for option in chosen], gold)
        return torch.tensor(found, dtype=torch.float32)

    def examples(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the example of each position, in two tensors of integers: of all positions of the
        rows that `losses` reads, (R, T), and of the N that the output layer is asked for, (1, N).

        Raises:
            ModelError: rows of several lengths, of a model that takes each length in a pass.
        """
        if not (self.traits.padded or bool(batch.attention_mask.all())):
            raise ModelError(
                f"{self.name}: padding moves its scores, so that rows of each length have a pass of"
                " their own, and a direction of each example's own is for one pass; a method with"
                " one direction for all examples is valid"
            )
        batch = self._tight(batch, apart=True)
        return batch.owners, batch.owners[batch.rows, batch.columns][None]

    def _tight(self, batch: Batch, *, apart: bool = False) -> Batch:
        """The batch almost without padding, and with beginnings that texts share once, where the
        model keeps texts apart that stand behind one another; `apart`: no two examples share."""
        ways = self.traits.packed
        if not ways:
            return batch
        if self._last is None or self._last[0] is not batch or self._last[1:3] != (ways, apart):
            self._last = batch, ways, apart, self._packed(batch, apart)
        return self._last[3]

    def _packed(self, batch: Batch, apart: bool = False) -> Batch:
        """The batch in the better of the model's ways."""
        ways = self.traits.packed
        common = 0 if apart else common_beginning(texts_of(batch))
        several = len(batch.input_ids) > len(batch.labels)  # rows that may begin alike
        way = "mask" if "mask" in ways and (several or common) else ways[0]
        return in_few_rows(batch, way, common=common)

    def _comparable(self, batch: Batch) -> Tensor:
        """Scores up to a number that an example's options share, which suffices to choose among
        them and is often far cheaper."""
        return self._biased(self._unpadded(option_logits, batch))

    def _biased(self, scores: Tensor) -> Tensor:
        return scores if self.label_bias is None else scores + self.label_bias.to(scores.device)

    def _unpadded(self, score: Callable[..., Tensor], batch: Batch) -> Tensor:
        """The scores of a batch, taken without padding where padding would move them."""
        with fast_products(self.module):
            whole = self.traits.padded or bool(batch.attention_mask.all())
            return self._score(score, batch) if whole else self._by_length(score, batch)

    def _by_length(self, score: Callable[..., Tensor], batch: Batch) -> Tensor:
        parts = [(examples, self._score(score, part)) for examples, part in by_length(batch)]
        order = torch.cat([examples for examples, _ in parts])
        return torch.cat([scores for _, scores in parts])[order.argsort()]

    def _score(self, score: Callable[..., Tensor], batch: Batch) -> Tensor:
        """The scores of a batch's options, from one forward pass."""
        causal = self.style == "causal"
        return score(self.module, batch, causal=causal, shortcut=self.traits.shortcut)

    def score_all(self, encoded: Sequence[Encoded], *, max_tokens: int) -> Tensor:
        """Scores of all examples, (len(encoded), O) float32 on the CPU, in input order, without
        gradients.

        Examples of like length share a forward pass of at most `max_tokens` padded positions, or
        about as many packed ones.

        Raises:
            ModelError: a score that is not finite, naming the example.
        """
        return self._over_buckets(self.scores, encoded, max_tokens)

    def logits(self, encoded: Sequence[Encoded], *, max_tokens: int) -> Tensor:
        """`score_all` up to a number that an example's options share.

        Neither a choice nor a loss depends on that number, and without it the logits are often far
        cheaper.
        """
        return self._over_buckets(self._comparable, encoded, max_tokens)

    def features(self, encoded: Sequence[Encoded], *, max_tokens: int) -> tuple[Tensor, Tensor]:
        """`logits` without `label_bias`, (N, O), and the last hidden state phi from which they are
        read, (N, O, H): its mean over the positions where an option's tokens are read. Float32 on
        the CPU, in input order, without gradients.

        Raises:
            ModelError: the model shows no last hidden state, or a score is not finite.
        """
        body = body_of(self.module)
        if self.width is None:
            raise ModelError(f"{self.name} has no base model to read a last hidden state from")

        def both(*arguments: Any, **flags: Any) -> Tensor:
            with last_states(body) as states:
                scores = option_logits(*arguments, **flags)
            batch: Batch = arguments[1]
            read = at_positions(states[-1], batch).float()
            return torch.cat(
                [scores[..., None], mean_over_tokens(read, batch).to(scores.device)], -1
            )

        found = self._over_buckets(lambda b: self._unpadded(both, b), encoded, max_tokens)
        return found[..., 0], found[..., 1:]

    def predict(self, encoded: Sequence[Encoded], *, max_tokens: int) -> list[int]:
        """The index of each example's best option, in input order; the lowest where several are
        equal.

        Raises:
            ModelError: a score is not finite.
        """
        return self.logits(encoded, max_tokens=max_tokens).argmax(-1).tolist() if encoded else []

    def _common(self, encoded: Sequence[Encoded]) -> int:
        """With how many tokens all texts begin, where passes that have them once are worth it."""
        if "mask" not in self.traits.packed:
            return 0
        texts = [row for example in encoded for row in example.rows]
        common = common_beginning(texts)
        return common if common * len(texts) >= (1 - ENOUGH) * sum(map(len, texts)) else 0

    def _over_buckets(
        self, score: Callable[[Batch], Tensor], encoded: Sequence[Encoded], max_tokens: int
    ) -> Tensor:
        num_options = max((len(example.options) for example in encoded), default=0)
        out: Tensor | None = None
        common = self._common(encoded)
        own = math.ceil(max_tokens * room(common) / (room(common) + common))  # beside the common
        with torch.no_grad():
            for bucket in buckets(encoded, own, common):
                batch = self.collate([encoded[i] for i in bucket])
                if self.traits.packed:
                    tight = self._packed(batch)
                    # rows of like length have a faster kernel of attention and little padding
                    if tight.input_ids.numel() <= ENOUGH * batch.input_ids.numel():
                        batch = tight
                scores = score(batch).cpu()
                if out is None:
                    shape = (len(encoded), num_options, *scores.shape[2:])
                    out = torch.full(shape, -torch.inf)
                out[bucket, : scores.shape[1]] = scores
        if out is None:
            return torch.full((0, num_options), -torch.inf)
        for example, row in zip(encoded, out, strict=True):
            if not row[: len(example.options)].isfinite().all():
                shown = row.reshape(len(row), -1)[:, 0].tolist()
                raise ModelError(
                    f"{self.name}: example {example.id} has option scores {shown}, not finite"
                )
        return out


def kind_of(model: LanguageModel) -> str:
    """What errors call a model: its name and its class."""
    return f"{model.name} ({type(model.module).__name__})"
