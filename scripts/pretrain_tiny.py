"""Pretrain one of the tiny models that ship with the package, from nothing, on the mini world's text.

Usage: python scripts/pretrain_tiny.py --model tiny-roberta --out bszo/models/assets/tiny-roberta

Writes configuration, weights (fp32 safetensors), a byte-level BPE tokenizer and a README with what was measured.
Two things make so small a model learn in minutes: wide starting weights with sinusoid positions, and that the words
a document comes to in the end (`mini_corpus.ANSWERS`) are asked for more often and weigh more. Without the second,
their signal drowns in the words that nobody can predict: 3,000 steps then leave reviews' sentiment at chance.
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

from bszo.tasks import mini, mini_corpus

BOS, PAD, EOS, UNK = range(4)
HELD_OUT = 512  # documents
MASKED_SHARE = 0.12
MASKED_ANSWERS = 0.9
# Every answer of every prompt must be one token, with its leading blank and without.
LABEL_WORDS = (
    "terrible", "great", "bad", "good", "Yes", "No", "Maybe", "yes", "no", "first", "second", "Abbreviation",
    "Entity", "Description", "Human", "Location", "Number", "short", "thing", "what", "who", "where", "how",
)  # fmt: skip


def train_tokenizer(texts: Sequence[str], model: str, vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with RoBERTa's special ids: <s> 0, <pad> 1, </s> 2, <unk> 3, <mask> last."""
    tokenizer = Tokenizer(BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    forced = [f"{word}\n {word}" for word in LABEL_WORDS] * (len(texts) // 20)
    tokenizer.train_from_iterator([*texts, *forced], trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    front = "</s>" if model == "tiny-opt" else "<s>"
    single, pair, tail = f"{front} $A", f"{front} $A $B", {"<s>": BOS, "</s>": EOS}
    if model == "tiny-roberta":
        single, pair = "<s> $A </s>", "<s> $A </s> </s> $B </s>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=list(tail.items())
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=front, eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        mask_token="<mask>", model_max_length=256,
    )  # fmt: skip


def build_model(args: argparse.Namespace) -> PreTrainedModel:
    """The model with starting weights that let so small a network learn."""
    shape = {
        "vocab_size": args.vocab_size, "hidden_size": args.hidden, "num_hidden_layers": args.layers,
        "num_attention_heads": args.heads, "pad_token_id": PAD, "eos_token_id": EOS,
        "tie_word_embeddings": True,
    }  # fmt: skip
    std = 0.5 / math.sqrt(args.hidden)
    if args.model == "tiny-roberta":
        model = RobertaForMaskedLM(
            RobertaConfig(
                **shape, bos_token_id=BOS, intermediate_size=4 * args.hidden, max_position_embeddings=258,
                type_vocab_size=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=std,
            )
        )  # fmt: skip
        positions = model.roberta.embeddings.position_embeddings
    elif args.model == "tiny-opt":
        model = OPTForCausalLM(
            OPTConfig(
                **shape, bos_token_id=EOS, ffn_dim=4 * args.hidden, word_embed_proj_dim=args.hidden,
                max_position_embeddings=256, dropout=0.0, init_std=std,
            )
        )  # fmt: skip
        positions = model.model.decoder.embed_positions
    else:
        return MistralForCausalLM(
            MistralConfig(
                **shape, bos_token_id=BOS, num_key_value_heads=args.heads // 2, intermediate_size=8 * args.hidden // 3,
                max_position_embeddings=256, sliding_window=None, initializer_range=std,
            )
        )  # fmt: skip
    with torch.no_grad():
        positions.weight.copy_(sinusoids(*positions.weight.shape) * std)
    return model


def sinusoids(length: int, width: int) -> torch.Tensor:
    """(length, width): sines and cosines whose wavelengths grow from 2 pi to 10,000."""
    angles = torch.arange(length)[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def pad_batch(rows: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both (rows, longest)."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])
    return ids, (ids != PAD).long()


def training_batches(documents: list[list[int]], tokens: int, rng: random.Random) -> Iterator[list[list[int]]]:
    """Endless batches of about `tokens` positions: documents of similar length together, in random order."""
    while True:
        order = sorted(documents, key=lambda row: len(row) + 8 * rng.random())
        batches, start = [], 0
        while start < len(order):
            size = max(1, tokens // (len(order[start]) + 8))
            batches.append(order[start : start + size])
            start += size
        rng.shuffle(batches)
        yield from batches


def masked(ids: torch.Tensor, is_answer: torch.Tensor, vocab_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy ids, and which to predict: of these 80 % become <mask>, 10 % a random token, 10 % stay (answers: mask)."""
    chosen = (torch.rand(ids.shape) < torch.where(is_answer, MASKED_ANSWERS, MASKED_SHARE)) & (ids > UNK)
    how = torch.rand(ids.shape).masked_fill(is_answer, 0.0)
    noisy = torch.where(chosen & (how < 0.8), vocab_size - 1, ids)
    anything = torch.randint(UNK + 1, vocab_size - 1, ids.shape)
    return torch.where(chosen & (how > 0.9), anything, noisy), chosen


class Objective:
    """Weighted mean cross entropy of the masked or next tokens; answers weigh `answer_weight`, other tokens 1."""

    def __init__(self, model: PreTrainedModel, answers: torch.Tensor, answer_weight: float) -> None:
        self.model, self.answers, self.answer_weight = model, answers, answer_weight

    def loss(self, rows: Sequence[list[int]], *, weighted: bool = True) -> torch.Tensor:
        ids, attention = pad_batch(rows)
        is_answer = torch.isin(ids, self.answers)
        if isinstance(self.model, RobertaForMaskedLM):
            inputs, chosen = masked(ids, is_answer, self.model.config.vocab_size)
            logits = self.model(input_ids=inputs, attention_mask=attention).logits[chosen]
        else:
            chosen = (ids != PAD)[:, 1:]
            logits = self.model(input_ids=ids, attention_mask=attention).logits[:, :-1][chosen]
            ids, is_answer = ids[:, 1:], is_answer[:, 1:]
        losses = F.cross_entropy(logits, ids[chosen], reduction="none")
        weights = torch.where(is_answer[chosen], self.answer_weight if weighted else 1.0, 1.0)
        return (losses * weights).sum() / weights.sum()


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("tiny-roberta", "tiny-opt", "tiny-mistral"), required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--documents", type=int, default=60_000)
    parser.add_argument("--batch-tokens", type=int, default=2048, help="positions a step")
    parser.add_argument("--lr", type=float, default=1.5e-3, help="peak learning rate")
    parser.add_argument("--answer-weight", type=float, default=4.0, help="weight of an answer among tokens of 1")
    parser.add_argument("--vocab-size", type=int, default=1024)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


README = """# {model}

A small {kind} language model of the mini world (`bszo.tasks.mini`), trained from nothing by

    {command}

{parameters:,} parameters, fp32; {steps:,} steps of about {batch_tokens:,} positions ({seconds:.0f} s) on
`mini.corpus({documents:,}, seed={seed})`: {characters:,} characters of reviews, small stories, quizzes and small talk.
Loss on {held_out} documents kept apart: {loss:.3f} nats a predicted token ({start:.3f} before training).
The text never puts a task's own label word where it would tell a row's label, and holds no row of a test split.

Licence: Apache-2.0, as the project's. Generated by scripts/pretrain_tiny.py.
"""


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    texts = mini.corpus(args.documents, args.seed)
    tokenizer = train_tokenizer(texts, args.model, args.vocab_size)
    documents = [row[:256] for row in tokenizer(texts).input_ids]
    model = build_model(args)
    answers = [form for word in mini_corpus.ANSWERS for form in (word, f" {word}")]
    objective = Objective(
        model,
        torch.tensor(
            tokenizer.convert_tokens_to_ids(
                [tokenizer.tokenize(form)[0] for form in answers if len(tokenizer.tokenize(form)) == 1]
            )
        ),
        args.answer_weight,
    )
    start = held_out_loss(objective, documents[:HELD_OUT])
    torch.manual_seed(args.seed)
    began = time.perf_counter()
    train(objective, documents[HELD_OUT:], args)
    seconds = time.perf_counter() - began
    loss = held_out_loss(objective, documents[:HELD_OUT])
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    facts = vars(args) | {
        "kind": "masked" if args.model == "tiny-roberta" else "causal", "command": f"python {shlex.join(sys.argv)}",
        "parameters": model.num_parameters(), "seconds": seconds, "characters": sum(map(len, texts)), "loss": loss,
        "start": start, "held_out": HELD_OUT,
    }  # fmt: skip
    (args.out / "README.md").write_text(README.format(**facts))
    print(f"{args.out}: {facts['parameters']:,} parameters, held-out loss {loss:.3f}, {seconds:.0f} s")


if __name__ == "__main__":
    main()
