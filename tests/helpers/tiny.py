"""Tiny random models, a tiny tokenizer and small token stores, all built from nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mistudio.core.control import JobControl
from mistudio.core.events import SilentReporter

if TYPE_CHECKING:
    from mistudio.ml.data.tokenize import TokenStore
    from mistudio.ml.loading import LoadedModel

torch.set_num_threads(1)  # these models are too small to gain from more, and suites share cores

BOS, EOS = "<|bos|>", "<|eos|>"

STORIES = [
    f"Once upon a time there was a {animal} who lived by the {place}. Every {time} it went out to "
    f"find {food}, and {number} friends came along, singing and laughing all the way home."
    for animal in ("fox", "hare", "crow", "wolf")
    for place in ("river", "mountain", "sea", "mill", "forest")
    for time, food, number in (
        ("morning", "berries", "two"),
        ("night", "cheese", "seven"),
        ("winter", "a warm bed", "no"),
        ("spring", "the old bell", "many"),
    )
]


def tiny_tokenizer(*, add_bos: bool = False, vocab_size: int = 400) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with BOS and EOS; it adds BOS by itself only if asked to."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(STORIES, trainer)
    if add_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, model_max_length=512
    )


def tiny_llama(seed: int = 0, **sizes: Any) -> LlamaForCausalLM:
    """A random Llama on CPU: 4 blocks of width 32 unless `sizes` (config fields) say otherwise."""
    settings: dict[str, Any] = {
        "vocab_size": 400,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "tie_word_embeddings": True,
    }
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**{**settings, **sizes}))
    with torch.no_grad():  # the default initialisation is so small that blocks hardly act
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed" not in name:
                parameter.normal_(0, 0.25)
            elif "embed" in name:
                parameter.normal_(0, 0.5)
    return model.eval()


def save_tiny_llama(folder: Path, *, add_bos: bool = False, seed: int = 0, **sizes: Any) -> Path:
    """A Hugging Face folder with a tiny random Llama and the tiny tokenizer; returns `folder`."""
    tiny_llama(seed, **sizes).save_pretrained(folder)
    tiny_tokenizer(add_bos=add_bos).save_pretrained(folder)
    return folder


def tiny_loaded(folder: Path, **sizes: Any) -> LoadedModel:
    """A tiny Llama saved in `folder` (unless there already is one) and loaded on CPU."""
    from mistudio.ml.loading import load_model

    if not (folder / "config.json").is_file():
        save_tiny_llama(folder, **sizes)
    return load_model(folder, torch.device("cpu"))


def write_texts(folder: Path, texts: Sequence[str]) -> Path:
    """A dataset folder with one document per text, as importing would make it."""
    from mistudio.ml.data.write_dataset import write_text_store

    write_text_store(folder, texts)
    return folder


def write_tokens(
    folder: Path,
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerFast,
    context: int,
    *,
    arrangement: str = "packed",
    start_token: str = "model",
) -> TokenStore:
    """Import `texts` into `folder`, tokenise them into `folder`/tokens/tok and open the result."""
    from mistudio.ml.data.text import TextStore
    from mistudio.ml.data.tokenize import TokenizeSettings, TokenStore, tokenize_dataset

    write_texts(folder, texts)
    out = folder / "tokens" / "tok"
    settings = TokenizeSettings(context=context, arrangement=arrangement, start_token=start_token)
    tokenize_dataset(TextStore(folder), tokenizer, settings, out, SilentReporter(), JobControl())
    return TokenStore(out)
