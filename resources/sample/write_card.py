"""Write CARD.md for the sample model: its figures from metrics.json, and text it generates.

Usage: python write_card.py  (after train_model.py, which calls it too)
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).resolve().parent
PROMPTS = (
    "Genesis, Chapter 51.\n\nAnd it came to pass",
    "Macbeth, Act II, Scene II. A Room in the Castle.\n\n[Enter MACBETH.]\n\nMACBETH.\n",
    "Psalms, Chapter 151.\n\nThe LORD is",
)
TEMPERATURE, TOP_K, NEW_TOKENS, SEED = 0.8, 50, 160, 0

CARD = """# The sample model

A language model of ours, small enough to travel with the program: {parameters:,} parameters,
Llama architecture, {layers} blocks, hidden size {hidden}, {heads} heads, {vocabulary:,}
byte-level BPE tokens, up to {context} tokens of context, embedding and unembedding tied. It has
read the sample text and nothing else. It writes in the manner of that text; it knows no facts
and follows no instructions.

**Licence.** The text is in the public domain (`text/SOURCES.md`). The model and its scripts are
under this project's licence, Apache-2.0.

## Text

{documents:,} documents (scenes of ten plays by Shakespeare, chapters of fifteen books of the
King James Bible), {corpus_characters:,} characters, {corpus_bytes:,} bytes with titles.
{held_out_documents} documents, chosen by the hash of their text, were held out from the
tokenizer and the model; {training_tokens:,} tokens were left for training. Parts of one scene
or chapter can fall on both sides, and the Bible repeats itself in places.

## Held-out loss

Mean cross-entropy over the same {held_out_tokens:,} predicted tokens ({held_out_characters:,}
characters) in rows of {row_tokens} tokens; every model sees only what stands before the token
in its row. Unigram: frequencies with one count added. Trigram: interpolated Kneser-Ney
(`ngram.py`). All are fitted on the training documents alone.

| | nats per token | nats per character |
|---|---|---|
| unigram | {token[unigram]:.3f} | {character[unigram]:.3f} |
| trigram | {token[trigram]:.3f} | {character[trigram]:.3f} |
| **this model** | **{token[model]:.3f}** | **{character[model]:.3f}** |

## Training

{tokens_seen:,} tokens seen ({epochs:.1f} times the training text) in {training_minutes} minutes
on two CPU cores shared with other work (alone it reads about 11,000 tokens a second). AdamW,
half-cosine schedule, bfloat16 arithmetic with float32 weights, file {safetensors_bytes:,} bytes.
Half of the rows opened with the separator `<|endoftext|>`, which also stands between documents.
Everything else is in the scripts.

Held-out loss on the way: {curve}. It was lowest at {best:.1f} M tokens.

To do it again:

```
python make_corpus.py SOURCES   # its first lines say what SOURCES holds
python train_model.py           # tokenizer, model, metrics.json and this card
```

## What it writes

Sampled at temperature {temperature}, top {top_k}, {new_tokens} tokens, seed {seed}, the first
try of each; the prompt is in bold.

{samples}
"""


def generate(model: Any, tokenizer: Any, prompt: str) -> str:
    """A sampled continuation; the separator opens the text, as it does in training."""
    ids_BS = torch.tensor([[tokenizer.bos_token_id, *tokenizer(prompt)["input_ids"]]])
    torch.manual_seed(SEED)
    with torch.inference_mode():
        output_BS = model.generate(
            ids_BS,
            attention_mask=torch.ones_like(ids_BS),
            do_sample=True,
            temperature=TEMPERATURE,
            top_k=TOP_K,
            max_new_tokens=NEW_TOKENS,
            pad_token_id=tokenizer.eos_token_id,
        )
    return tokenizer.decode(output_BS[0, ids_BS.shape[1] :], skip_special_tokens=True)


def quoted(prompt: str, continuation: str) -> str:
    """Prompt (in bold) and continuation as a Markdown quotation that keeps its lines."""
    given = prompt.rstrip("\n")
    bold = "\n".join(f"**{line}**" if line else "" for line in given.split("\n"))
    text = bold + prompt[len(given) :] + continuation.rstrip()
    # A backslash breaks a line inside a paragraph; at the paragraph's end it would be printed.
    text = re.sub(r"(?<!\n)\n(?!\n)", r"\\\n", text)
    return "\n".join(f"> {line}".rstrip(" ") for line in text.split("\n"))


def write_card(model: Any, tokenizer: Any, metrics: dict[str, Any], path: Path) -> None:
    """Write the card of `model`, whose figures are `metrics`, to `path`."""
    samples = [quoted(prompt, generate(model, tokenizer, prompt)) for prompt in PROMPTS]
    config = model.config
    curve = [(int(at), loss) for at, loss in metrics["held_out_curve"].items()]
    card = CARD.format(
        **metrics,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        vocabulary=config.vocab_size,
        context=config.max_position_embeddings,
        token=metrics["nats_per_token"],
        character=metrics["nats_per_character"],
        epochs=metrics["tokens_seen"] / metrics["training_tokens"],
        temperature=TEMPERATURE,
        top_k=TOP_K,
        new_tokens=NEW_TOKENS,
        seed=SEED,
        curve=", ".join(f"{loss:.3f} at {at / 1e6:.1f} M" for at, loss in curve),
        best=min(curve, key=lambda point: point[1])[0] / 1e6,
        samples="\n\n---\n\n".join(samples),
    )
    path.write_text(card, encoding="utf-8")


def main() -> None:
    folder = HERE / "model"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    metrics = json.loads((HERE / "metrics.json").read_text(encoding="utf-8"))
    write_card(model, AutoTokenizer.from_pretrained(folder), metrics, HERE / "CARD.md")


if __name__ == "__main__":
    main()
