"""What tokenising would give, before it is done: chips of one text, an estimate for a dataset."""

from __future__ import annotations

from dataclasses import dataclass

from mistudio.core.config import validate
from mistudio.core.control import JobControl
from mistudio.core.dataset_configs import TokenizeConfig
from mistudio.jobs import lookup, tokenizers
from mistudio.jobs.runner import Studio
from mistudio.jobs.warm_up import TOKENIZERS, warm_up

_CHIPS = 2000


@dataclass(frozen=True)
class Chip:
    """One token of a preview."""

    text: str
    """the text it stands for; "" for a special token, and where an earlier chip has its text"""
    token_id: int
    token: str
    """as it is written in the vocabulary"""
    special: bool


@dataclass(frozen=True)
class TokenPreview:
    """One text as the settings would store it."""

    chips: list[Chip]
    """the first 2,000 tokens, with start token and separator"""
    count: int
    """tokens of the text, with start tokens and separator, without padding"""
    rows: int
    """rows that this text alone would fill or begin; 0 if it would be left out"""
    unknown: int
    """tokens that stand for text the vocabulary does not have"""


@dataclass(frozen=True)
class TokenEstimate:
    """What tokenising a dataset would store, estimated from some of its documents."""

    rows: int
    tokens: int
    """without padding"""
    bytes: int
    sampled_documents: int


def fetch_tokenizer(studio: Studio, config: TokenizeConfig) -> None:
    """Get the files of a Hub tokenizer unless they are here; asks the network, so it may be slow.

    Raises what the Hub answers, as a sentence. Does nothing for a model or a local tokenizer.
    """
    tokenizers.fetch(studio, config, JobControl())


def preview(studio: Studio, config: TokenizeConfig, text: str) -> TokenPreview:
    """How `text` would be tokenised; quick after the first call with a tokenizer.

    Raises `InvalidInput` for settings that cannot be used, `NotFound` if the tokenizer is not
    there; its code is "tokenizer_not_here" where `fetch_tokenizer` would get it.
    """
    warm_up(TOKENIZERS)
    from mistudio.ml.data import token_preview

    source = tokenizers.find(studio, config)
    settings = tokenizers.settings_for(config, source)
    found = token_preview.preview(tokenizers.ready(source), settings, text, _CHIPS)
    chips = [Chip(*chip) for chip in found.chips]
    return TokenPreview(chips, found.tokens, found.rows, found.unknown)


def estimate(studio: Studio, config: TokenizeConfig) -> TokenEstimate:
    """Rows, tokens and bytes from a sample of documents; raises as `preview`.

    Takes a fraction of a second for a dataset of any size.
    """
    warm_up(TOKENIZERS)
    from mistudio.ml.data import token_preview
    from mistudio.ml.data.text import TextStore

    validate(config)
    dataset = lookup.dataset(studio, config.dataset)
    source = tokenizers.find(studio, config)
    settings = tokenizers.settings_for(config, source)
    store = TextStore(studio.paths.dataset(dataset.id))
    found = token_preview.estimate(tokenizers.ready(source), settings, store)
    return TokenEstimate(found.rows, found.tokens, found.bytes, found.documents)
