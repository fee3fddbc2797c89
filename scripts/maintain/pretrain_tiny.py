"""Pretrain one of the tiny models that ship with the package, from nothing, on the mini world's
text.

    python -m scripts.maintain.pretrain_tiny --model tiny-roberta --out DIR

Writes configuration, weights (fp32 safetensors), a byte-level BPE tokenizer and a README with what
was measured. Two things make so small a model learn in minutes: wide starting weights with sinusoid
positions, and that the words a document comes to in the end (`documents.ANSWERS`) are asked for
more often and weigh more. Without the second, their signal drowns in the words that nobody can
predict: 3,000 steps then leave reviews' sentiment at chance.
"""

import argparse
import math
import random
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from tqdm import tqdm
from transformers import (
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from bszo.tasks import mini
from bszo.tasks.mini import documents

BOS, PAD, EOS, UNK = range(4)
MAX_TOKENS, HIDDEN, LAYERS, HEADS, VOCABULARY = 256, 64, 3, 4, 1024
HELD_OUT = 512  # documents
MASKED_SHARE, MASKED_ANSWERS, ANSWER_WEIGHT = 0.12, 0.9, 4.0
# Every answer of every prompt must be one token, with its leading blank and without.
LABEL_WORDS = (
    "terrible",
    "great",
    "bad",
    "good",
    "Yes",
    "No",
    "Maybe",
    "yes",
    "no",
    "first",
    "second",
    "Abbreviation",
    "Entity",
    "Description",
    "Human",
    "Location",
    "Number",
    "short",
    "thing",
    "what",
    "who",
    "where",
    "how",
)


def train_tokenizer(texts: Sequence[str], model: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE with RoBERTa's special ids: <s> 0, <pad> 1, </s> 2, <unk> 3, <mask> last."""
    tokenizer = Tokenizer(BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 1,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    forced = [f"{word}\n {word}" for word in LABEL_WORDS] * (len(texts) // 20)
    tokenizer.train_from_iterator([*texts, *forced], trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    front = "</s>" if model == "tiny-opt" else "<s>"
    single, pair = (
        ("<s> $A </s>", "<s> $A </s> </s> $B </s>")
        if model == "tiny-roberta"
        else (f"{front} $A", f"{front} $A $B")
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=front,
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=MAX_TOKENS,
    )


def build_model(name: str) -> PreTrainedModel:
    """The model with starting weights that let so small a network learn."""
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "pad_token_id": PAD,
        "bos_token_id": EOS if name == "tiny-opt" else BOS,
        "eos_token_id": EOS,
        "tie_word_embeddings": True,
    }
    std = 0.5 / math.sqrt(HIDDEN)
    if name == "tiny-mistral":
        config = MistralConfig(
            **shape,
            num_key_value_heads=HEADS // 2,
            intermediate_size=8 * HIDDEN // 3,
            sliding_window=None,
            max_position_embeddings=MAX_TOKENS,
            initializer_range=std,
        )
        return MistralForCausalLM(config)
    if name == "tiny-opt":
        config = OPTConfig(
            **shape,
            ffn_dim=4 * HIDDEN,
            word_embed_proj_dim=HIDDEN,
            max_position_embeddings=MAX_TOKENS,
            dropout=0.0,
            init_std=std,
        )
        model = OPTForCausalLM(config)
        positions = model.model.decoder.embed_positions.weight
    else:
        config = RobertaConfig(
            **shape,
            intermediate_size=4 * HIDDEN,
            max_position_embeddings=MAX_TOKENS + 2,
            type_vocab_size=1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=std,
        )
        model = RobertaForMaskedLM(config)
        positions = model.roberta.embeddings.position_embeddings.weight
    angles = torch.arange(len(positions))[:, None] / 10_000 ** (torch.arange(0, HIDDEN, 2) / HIDDEN)
    with torch.no_grad():
        positions.copy_(torch.cat([angles.sin(), angles.cos()], dim=1) * std)
    return model


def training_batches(
    documents: list[list[int]], tokens: int, rng: random.Random
) -> Iterator[list[list[int]]]:
    """Endless batches of about `tokens` positions: documents of similar length together, in random
    order."""
    while True:
        order = sorted(documents, key=lambda row: len(row) + 8 * rng.random())
        batches, start = [], 0
        while start < len(order):
            size = max(1, tokens // (len(order[start]) + 8))
            batches.append(order[start : start + size])
            start += size
        rng.shuffle(batches)
        yield from batches


class Objective:
    """Weighted mean cross entropy of the masked or next tokens; an answer weighs `ANSWER_WEIGHT`,
    other tokens 1."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        self.model, self.mask_id = model, len(tokenizer) - 1
        forms = [
            tokenizer.tokenize(blank + word) for word in documents.ANSWERS for blank in ("", " ")
        ]
        ids = tokenizer.convert_tokens_to_ids([pieces[0] for pieces in forms if len(pieces) == 1])
        self.answers = torch.tensor(ids)

    def loss(self, rows: Sequence[list[int]], *, weighted: bool = True) -> torch.Tensor:
        longest = max(map(len, rows))
        ids = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])
        is_answer, attention = torch.isin(ids, self.answers), (ids != PAD).long()
        if isinstance(self.model, RobertaForMaskedLM):
            inputs, chosen = self.masked(ids, is_answer)
            hidden = self.model.roberta(
                input_ids=inputs, attention_mask=attention
            ).last_hidden_state[chosen]
        else:
            chosen = (ids != PAD)[:, 1:]
            hidden = self.model.model(input_ids=ids, attention_mask=attention).last_hidden_state[
                :, :-1
            ][chosen]
            ids, is_answer = ids[:, 1:], is_answer[:, 1:]
        losses = F.cross_entropy(self.model.lm_head(hidden), ids[chosen], reduction="none")
        weights = torch.where(is_answer[chosen], ANSWER_WEIGHT if weighted else 1.0, 1.0)
        return (losses * weights).sum() / weights.sum()

    def masked(
        self, ids: torch.Tensor, is_answer: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Noisy ids, and where to predict: 80 % <mask> there, 10 % a random token, 10 % kept;
        answers all <mask>."""
        chosen = (torch.rand(ids.shape) < torch.where(is_answer, MASKED_ANSWERS, MASKED_SHARE)) & (
            ids > UNK
        )
        how = torch.rand(ids.shape).masked_fill(is_answer, 0.0)
        anything = torch.randint(UNK + 1, self.mask_id, ids.shape)
        noisy = torch.where(chosen & (how < 0.8), self.mask_id, ids)
        return torch.where(chosen & (how > 0.9), anything, noisy), chosen


def train(objective: Objective, documents: list[list[int]], args: argparse.Namespace) -> None:
    """AdamW, 5 % warm-up, then a cosine to zero; gradient norm clipped at 1."""
    parameters = list(objective.model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = max(1, args.steps // 20)

    def rate(step: int) -> float:
        return min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / args.steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    batches = training_batches(documents, args.batch_tokens, random.Random(args.seed))
    bar = tqdm(range(args.steps), desc=args.model, unit="step")
    for step in bar:
        loss = objective.loss(next(batches))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")


def held_out_loss(objective: Objective, documents: list[list[int]]) -> float:
    """Mean of the batches' losses, in nats a predicted token, all tokens weighing the same."""
    torch.manual_seed(0)
    with torch.no_grad():
        batches = [documents[start : start + 64] for start in range(0, len(documents), 64)]
        return sum(objective.loss(rows, weighted=False).item() for rows in batches) / len(batches)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", choices=("tiny-roberta", "tiny-opt", "tiny-mistral"), required=True
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--documents", type=int, default=80_000)
    parser.add_argument("--batch-tokens", type=int, default=2048, help="positions a step")
    parser.add_argument("--lr", type=float, default=1.5e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


README = """# {model}

A tiny {kind} language model of the mini world (`bszo.tasks.mini`), trained from nothing by

    {command}

{parameters:,} parameters, fp32; \
{steps:,} steps of about {batch_tokens:,} positions ({seconds:.0f} s of a CPU core) \
on
`mini.corpus({documents}, seed={seed})`{lines}: \
{characters:,} characters of reviews, stories, quizzes and small talk.
Loss on {held_out} documents kept apart: {loss:.3f} nats a predicted \
token ({start:.3f} before training).
The text holds no row of a test split, and a task's own label words \
stand where they tell nothing of a row's label
(great and terrible: nearly nothing), so that zero-shot scores are \
near chance and there is something to fine-tune.

Licence: Apache-2.0, as the project's.
"""


def main() -> None:
    args = parse_args()
    torch.set_num_threads(1)  # sums in one order: the same weights again
    torch.manual_seed(args.seed)
    texts = mini.corpus(args.documents, args.seed)
    if args.model == "tiny-roberta":  # its prompts are one line each
        texts = [text for text in texts if "\n" not in text]
    tokenizer = train_tokenizer(texts, args.model)
    documents = [row[:MAX_TOKENS] for row in tokenizer(texts).input_ids]
    model = build_model(args.model)
    objective = Objective(model, tokenizer)
    start = held_out_loss(objective, documents[:HELD_OUT])
    torch.manual_seed(args.seed)
    began = time.process_time()
    train(objective, documents[HELD_OUT:], args)
    seconds = time.process_time() - began
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    kind, lines = (
        ("masked", ", one-line documents only") if args.model == "tiny-roberta" else ("causal", "")
    )
    facts = {
        "kind": kind,
        "lines": lines,
        "command": f"python -m scripts.maintain.pretrain_tiny {shlex.join(sys.argv[1:])}",
        "parameters": model.num_parameters(),
        "seconds": seconds,
        "characters": sum(map(len, texts)),
        "loss": held_out_loss(objective, documents[:HELD_OUT]),
        "start": start,
        "held_out": HELD_OUT,
    }
    readme = README.format(**vars(args), **facts)
    (args.out / "README.md").write_text(readme)
    print(readme)


if __name__ == "__main__":
    main()
