"""Generation: a causal model answers questions in its own words, which token F1 scores.

The answers are greedy: at each place the model writes its most probable token. A reward may be the
mean over answers that are sampled (`bszo.models.sampling`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bszo.errors import ModelError
from bszo.half import fast_products
from bszo.models.batch import Batch, packed
from bszo.models.encode import Encoded, tokenise
from bszo.models.language_model import LanguageModel
from bszo.models.module import outermost
from bszo.models.sampling import Gumbel, seed_of
from bszo.models.traits import TOLERANCE
from bszo.tasks import Example, GenerationTask, scored, token_f1
from bszo.tasks.rewards import name_of

# which prompts may share a batch with a prompt: any other, those of the same length, or none
Company = Literal["any", "equal", "none"]


@dataclass(frozen=True)
class Question(Encoded):
    """An encoded example, with the prompt that the model goes on from and the answers that it is
    held against."""

    prompt: tuple[int, ...]
    answers: tuple[str, ...]

    @property
    def length(self) -> int:
        """Tokens in the longest row, the prompt's among them."""
        return max(super().length, len(self.prompt))


@dataclass(frozen=True)
class Questions(Batch):
    """A batch together with the questions that it was made of, and the step that it is for."""

    asked: tuple[Question, ...] = ()
    step: int | None = None


class GenerativeModel(LanguageModel):
    """A causal model on a GenerationTask.

    loss = - mean log-probability of the first gold answer's tokens (objective=likelihood), or -
    mean reward of what the model writes (any other objective), which has no gradient: a step
    function of the parameters. With task.num_samples = N it is the mean reward of N sampled answers
    to each question, whose expectation is smooth; within a step the same is drawn at all
    parameters. A pass then has N rows a question, with their memory.

    Args:
        model: the model, tuned or not.
        task: says how long answers are, where they stop, the objective, and what is sampled.
        seed: of sampled answers.

    Raises:
        ModelError: a masked model, or one with too few positions for an answer.
    """

    def __init__(self, model: LanguageModel, task: GenerationTask, *, seed: int = 0) -> None:
        if model.style != "causal":
            raise ModelError(
                f"task={task.name}: {model.name} is masked and writes no answers; take a causal"
                " model"
            )
        super().__init__(
            model.module,
            model.tokenizer,
            style="causal",
            max_length=model.limit,
            name=model.name,
            traits=model.traits,
        )
        self.task, self.seed = task, seed
        self.room = self.limit - task.max_new_tokens  # for a prompt
        if self.room < 2:
            raise ModelError(
                f"task.max_new_tokens={task.max_new_tokens}: leaves no room in {self.limit} tokens"
            )
        self.ends = _tokens_with(self.tokenizer, task.stop)
        self.company = self._company()

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """Encode examples as LanguageModel does. A prompt that would leave no room for an answer
        loses its beginning."""
        pieces = tokenise(self.tokenizer, [example.prompt for example in examples])
        encoded: list[Encoded] = []
        for plain, example, piece in zip(super().encode(examples), examples, pieces, strict=True):
            start, ids = piece.ids[: piece.text.start], piece.ids[piece.text]
            cut = max(0, len(start) + len(ids) - self.room)
            parts = {**vars(plain), "truncated": plain.truncated or cut > 0}
            encoded.append(Question(**parts, prompt=(*start, *ids[cut:]), answers=example.answers))
        return encoded

    def collate(self, encoded: Sequence[Any], *, step: int | None = None) -> Batch:
        """One padded batch on the model's device, with its questions; ModelError if empty.

        Args:
            step: names what is drawn for sampled answers; the others need none.
        """
        return Questions(**vars(super().collate(encoded)), asked=tuple(encoded), step=step)

    def loss(self, batch: Any) -> Tensor:
        """The task's objective, a float32 scalar.

        Raises:
            ModelError: answers are sampled and the batch has no step.
        """
        reward, count = self.task.reward, self.task.num_samples
        if reward is None:
            return -self.scores(self._tight(batch))[:, 0].mean()
        if count and batch.step is None:
            raise ModelError(
                f"task.num_samples={count}: answers are drawn anew at each step, and the batch is"
                " for none; collate(encoded, step=optimizer.num_steps) is valid"
            )
        asked = [question for question in batch.asked for _ in range(max(1, count))]
        every = len(asked) * (max(question.length for question in asked) + self.task.max_new_tokens)
        texts = (
            self.sample(batch.asked, step=batch.step, max_tokens=every)
            if count
            else self.answer(asked, max_tokens=every)
        )
        found = scored(reward, texts, [question.answers for question in asked])
        return torch.tensor(-(sum(found) / len(found)))

    def losses(self, batch: Any) -> Tensor:
        """The loss of each example, (B,); ModelError where a text is written for it, in as many
        passes as it has tokens."""
        if self.task.reward is not None:
            raise ModelError(
                f"task.objective={name_of(self.task.objective)}: is of what the model writes, and a"
                " direction of each example's own is for one pass; task.objective=likelihood is"
                " valid"
            )
        return -self.scores(self._tight(batch, apart=True))[:, 0]

    def mean_f1(self, questions: Sequence[Any], *, max_tokens: int) -> float:
        """Mean over questions of the best token F1 over the gold answers, in [0, 1]."""
        texts = self.answer(questions, max_tokens=max_tokens)
        return sum(
            token_f1(text, q.answers) for text, q in zip(texts, questions, strict=True)
        ) / len(questions)

    def answer(self, questions: Sequence[Question], *, max_tokens: int) -> list[str]:
        """The texts that the model writes behind the prompts, in the order of the prompts: the most
        probable token at each place.

        A text ends at the task's stop, and blanks around it are dropped.

        Prompts of like length share a batch of at most `max_tokens` padded positions, new tokens
        included.
        """
        return self._texts(questions, None, max_tokens)

    def sample(self, questions: Sequence[Question], *, step: int, max_tokens: int) -> list[str]:
        """task.num_samples texts that the model draws for each question, one question's behind one
        another. They are a function of the parameters, the model's seed, the step, and the
        question's prompt and id; the rest is as in `answer`."""
        numbers = range(self.task.num_samples)
        asked = [question for question in questions for _ in numbers]
        seeds = [
            seed_of(self.seed, step, question.id, j) for question in questions for j in numbers
        ]
        return self._texts(asked, seeds, max_tokens)

    def _texts(
        self, questions: Sequence[Question], seeds: Sequence[int] | None, max_tokens: int
    ) -> list[str]:
        """A text behind each prompt: greedy, or drawn by a seed each."""
        texts = [""] * len(questions)
        for bucket in self._buckets(questions, max_tokens):
            prompts = [questions[i].prompt for i in bucket]
            own = None if seeds is None else [seeds[i] for i in bucket]
            for i, new in zip(bucket, self._tokens(prompts, own), strict=True):
                text = self.tokenizer.decode(new, skip_special_tokens=True)
                texts[i] = text.split(self.task.stop)[0].strip()
        return texts

    def _buckets(self, questions: Sequence[Question], max_tokens: int) -> Iterator[list[int]]:
        widths = [len(question.prompt) + self.task.max_new_tokens for question in questions]
        for bucket in packed(widths, [1] * len(widths), max_tokens):
            if self.company == "any":
                yield bucket
            elif self.company == "none":
                yield from ([i] for i in bucket)
            else:
                lengths = {len(questions[i].prompt) for i in bucket}
                yield from (
                    [i for i in bucket if len(questions[i].prompt) == length]
                    for length in sorted(lengths)
                )

    def _company(self) -> Company:
        """Find out which prompts may share a batch, by trying.

        Some models do not know padding, and some (RWKV) mix the rows of a batch while they write.
        Behind virtual tokens, padding would stand between them and the text, where rotary positions
        count it.
        """
        short, other, longer = (
            tuple(i % len(self.tokenizer) for i in range(first, first + min(length, self.room)))
            for first, length in ((7, 2), (17, 2), (7, 6))
        )
        alone = self._first_logits([short])
        near = TOLERANCE[next(self.module.parameters()).dtype] * alone[0].std().item()

        def unmoved(prompts: list[tuple[int, ...]]) -> bool:
            pairs = zip(alone, self._first_logits(prompts), strict=False)  # a text may end at once
            return all(bool(((a - b).abs() <= near).all()) for a, b in pairs)

        if not unmoved([short, other]):
            return "none"
        padded = not getattr(self.module, "prompt_encoder", None) and unmoved([short, longer])
        return "any" if padded else "equal"

    def _first_logits(self, prompts: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """The logits, (V,) float32, of up to two tokens written behind the first prompt."""
        out = self._generate(prompts, 2, output_logits=True, return_dict_in_generate=True)
        return [logits[0].float() for logits in out.logits]

    def _tokens(
        self, prompts: Sequence[tuple[int, ...]], seeds: Sequence[int] | None
    ) -> list[list[int]]:
        """The new tokens of each prompt: at each place the most probable one, or one that is drawn
        by the prompt's seed."""
        width = max(map(len, prompts))
        noise = [] if seeds is None else [Gumbel(seeds, self.task.temperature, width)]
        most = self.task.max_new_tokens
        return self._generate(prompts, most, logits_processor=noise)[:, width:].tolist()

    @torch.no_grad()
    def _generate(self, prompts: Sequence[tuple[int, ...]], most: int, **more: Any) -> Any:
        """transformers' own greedy generation, the prompts padded on the left. Noise on the logits
        makes it a draw."""
        width = max(map(len, prompts))
        ids = torch.tensor(
            [[self.pad_id] * (width - len(row)) + list(row) for row in prompts], device=self.device
        )
        mask = torch.tensor(
            [[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=self.device
        )
        module: Any = self.module
        with fast_products(module), _without_own_settings(module):
            return module.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                num_beams=1,
                eos_token_id=self.ends,
                pad_token_id=self.pad_id,
                max_new_tokens=most,
                **more,
            )


@contextmanager
def _without_own_settings(module: nn.Module) -> Iterator[None]:
    """While active, the model generates without the settings of its folder.

    These may ask for a penalty on repetition, or force and forbid tokens. That suits a chat, and is
    not greedy generation.
    """
    from transformers import GenerationConfig

    model = outermost(module)
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _tokens_with(tokenizer: Any, stop: str) -> list[int]:
    """The ids of all tokens that end a text: those that contain `stop`, and the end of the
    sequence."""
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    ends = {i for i, text in enumerate(texts) if stop in text}
    return sorted(
        ends | ({tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set())
    )
