"""Train the sample's tokenizer and language model on text/corpus.jsonl, measure it, write the card.

Usage: python train_model.py [--tokens N] [--out FOLDER]

One document in twenty, chosen by the hash of its text, is held out from both the tokenizer and
the model. Seeds are fixed; the same machine and thread count give the same model again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ngram import Trigram, Unigram
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from write_card import write_card

HERE = Path(__file__).resolve().parent
SEPARATOR = "<|endoftext|>"
VOCABULARY = 3072
HELD_OUT = 0.05

TOKENS = 6_000_000
BATCH_TOKENS = 4_096
SHORT, LONG = 256, 512  # tokens in a row; the last quarter of the training reads long rows
LEARNING_RATE = 2e-3
WARM_UP = 100  # steps
WEIGHT_DECAY = 0.1
SEED = 1623
THREADS = 2


def read_corpus() -> tuple[list[str], list[str]]:
    """(training documents, held-out documents); sha256 of the text decides."""
    training: list[str] = []
    held_out: list[str] = []
    for line in (HERE / "text" / "corpus.jsonl").read_text(encoding="utf-8").splitlines():
        text = json.loads(line)["text"]
        share = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
        (held_out if share < HELD_OUT else training).append(text)
    return training, held_out


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE; the separator is the only special token and opens and ends documents."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # Offsets keep the leading space that belongs to a token.
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[SEPARATOR],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SEPARATOR,
        eos_token=SEPARATOR,
        pad_token=SEPARATOR,
        model_max_length=LONG,
        clean_up_tokenization_spaces=False,
    )


def build_model() -> LlamaForCausalLM:
    """A Llama of five blocks whose unembedding is its embedding."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=LONG,
        initializer_range=0.04,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config)


def rows_of(documents: list[list[int]], length: int) -> np.ndarray:
    """Documents packed into whole rows [n, length], a separator (id 0) before each document."""
    stream = np.concatenate([np.array([0, *ids]) for ids in documents])
    return stream[: len(stream) // length * length].reshape(-1, length)


def training_rows(
    documents: list[list[int]], length: int, generator: np.random.Generator
) -> Iterator[np.ndarray]:
    """Endless rows [length + 1]: documents in a new order each epoch, cut at a new place.

    Half of the rows open with a separator, wherever in a document they begin: the model learns
    both ways in which a text can be handed to it.
    """
    while True:
        order = generator.permutation(len(documents))
        stream = np.concatenate([np.array([0, *documents[i]]) for i in order])
        stream = stream[generator.integers(length) :]
        rows = stream[: len(stream) // (length + 1) * (length + 1)].reshape(-1, length + 1)
        rows[generator.random(len(rows)) < 0.5, 0] = 0
        yield from rows[generator.permutation(len(rows))]


@torch.inference_mode()
def held_out_loss(model: LlamaForCausalLM, rows: np.ndarray) -> float:
    """Mean cross-entropy in nats over every token of rows [n, length] but the first of each."""
    model.eval()
    losses: list[torch.Tensor] = []
    for batch_BS in torch.from_numpy(rows).split(16):
        logits_BSV = model(batch_BS).logits[:, :-1]
        losses.append(cross_entropy(logits_BSV.transpose(1, 2), batch_BS[:, 1:], reduction="none"))
    model.train()
    return torch.cat(losses).double().mean().item()


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then a half cosine down to a twentieth."""
    if step < WARM_UP:
        return LEARNING_RATE * (step + 1) / WARM_UP
    falling = 0.5 * (1 + math.cos(math.pi * (step - WARM_UP) / max(1, steps - WARM_UP)))
    return LEARNING_RATE * (0.05 + 0.95 * falling)


def train(
    documents: list[list[int]], held_out: np.ndarray, tokens: int
) -> tuple[LlamaForCausalLM, dict[str, float]]:
    """AdamW for a fixed number of tokens.

    Returns the model and its held-out loss by tokens seen, which is recorded but steers nothing.
    """
    torch.manual_seed(SEED)
    generator = np.random.default_rng(SEED)
    model = build_model()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    gains = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": gains, "weight_decay": 0}],
        betas=(0.9, 0.95),
    )
    sources = {length: training_rows(documents, length, generator) for length in (SHORT, LONG)}
    steps = tokens // BATCH_TOKENS
    curve: dict[str, float] = {}
    started = time.monotonic()
    for step in range(steps):
        length = SHORT if step < 0.75 * steps else LONG
        rows = [next(sources[length]) for _ in range(BATCH_TOKENS // length)]
        batch_BS = torch.from_numpy(np.stack(rows))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        with torch.autocast("cpu", torch.bfloat16):  # twice as fast; the weights stay in float32
            logits_BSV = model(batch_BS[:, :-1], use_cache=False).logits
        loss = cross_entropy(logits_BSV.flatten(0, 1).float(), batch_BS[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0 or step + 1 == steps:
            speed = (step + 1) * BATCH_TOKENS / (time.monotonic() - started)
            line = f"step {step + 1}/{steps}  loss {loss.item():.3f}  {speed:,.0f} tokens/s"
            if (step + 1) % 300 == 0 or step + 1 == steps:
                curve[str((step + 1) * BATCH_TOKENS)] = round(held_out_loss(model, held_out), 4)
                line += f"  held out {list(curve.values())[-1]}"
            print(line, flush=True)
    return model.eval(), curve


def measure(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    documents: list[list[int]],
    held_out: np.ndarray,
) -> dict[str, Any]:
    """Held-out loss of the model and of both baselines, on the same predictions."""
    rows = held_out.tolist()
    with_separator = [[0, *ids, 0] for ids in documents]
    predicted = [token for row in rows for token in row[1:]]
    characters = len(tokenizer.decode(predicted, skip_special_tokens=True))
    losses = {
        "model": held_out_loss(model, held_out),
        "trigram": Trigram(with_separator, VOCABULARY).nats(rows),
        "unigram": Unigram(with_separator, VOCABULARY).nats(rows),
    }
    return {
        "row_tokens": held_out.shape[1],
        "held_out_tokens": len(predicted),
        "held_out_characters": characters,
        "nats_per_token": losses,
        "nats_per_character": {
            name: loss * len(predicted) / characters for name, loss in losses.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the sample's language model.")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="tokens to train on")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for model/ and the card")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    started = time.monotonic()
    texts, held_out_texts = read_corpus()
    tokenizer = train_tokenizer(texts)
    documents: list[list[int]] = tokenizer(texts, verbose=False)["input_ids"]
    held_out = rows_of(tokenizer(held_out_texts, verbose=False)["input_ids"], SHORT)
    model, curve = train(documents, held_out, arguments.tokens)
    minutes = (time.monotonic() - started) / 60
    folder: Path = arguments.out / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    metrics = {
        "documents": len(texts) + len(held_out_texts),
        "held_out_documents": len(held_out_texts),
        "corpus_characters": sum(map(len, texts + held_out_texts)),
        "corpus_bytes": (HERE / "text" / "corpus.jsonl").stat().st_size,
        "training_tokens": sum(len(ids) + 1 for ids in documents),
        "parameters": model.num_parameters(),
        "safetensors_bytes": (folder / "model.safetensors").stat().st_size,
        "tokens_seen": arguments.tokens // BATCH_TOKENS * BATCH_TOKENS,
        "training_minutes": round(minutes, 1),
        "held_out_curve": curve,
        **measure(model, tokenizer, documents, held_out),
    }
    text = json.dumps(metrics, indent=2) + "\n"
    (arguments.out / "metrics.json").write_text(text, encoding="utf-8")
    write_card(model, tokenizer, metrics, arguments.out / "CARD.md")


if __name__ == "__main__":
    main()
