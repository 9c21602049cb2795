"""The bundled sample: valid text, a model that has learnt, a card that tells the truth."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

SAMPLE = Path(__file__).resolve().parents[2] / "resources" / "sample"
ROWS = 24  # of 256 tokens: a few seconds on one core


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SAMPLE))
        names = ("make_corpus", "ngram", "train_model")
        yield {name: importlib.import_module(name) for name in names}


@pytest.fixture(scope="module")
def metrics() -> dict[str, Any]:
    return json.loads((SAMPLE / "metrics.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(SAMPLE / "model", local_files_only=True).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(SAMPLE / "model", local_files_only=True)


def corpus() -> list[dict[str, str]]:
    lines = (SAMPLE / "text" / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_corpus_is_small_clean_and_without_duplicates(metrics: dict[str, Any]) -> None:
    size = (SAMPLE / "text" / "corpus.jsonl").stat().st_size
    rows = corpus()
    assert size == metrics["corpus_bytes"] <= 3_000_000
    assert len(rows) == metrics["documents"] >= 500
    assert len({row["text"] for row in rows}) == len({row["title"] for row in rows}) == len(rows)
    for row in rows:
        assert set(row) == {"title", "text"}
        assert 150 <= len(row["text"]) <= 6_000
        assert row["text"].isascii()
        assert row["title"].startswith(row["text"].split("\n", 1)[0])
        assert "gutenberg" not in row["text"].lower()


def test_model_keeps_to_its_limits(model: Any, metrics: dict[str, Any]) -> None:
    weights = (SAMPLE / "model" / "model.safetensors").stat().st_size
    assert weights == metrics["safetensors_bytes"] <= 12_000_000
    assert 1_000_000 <= model.num_parameters() == metrics["parameters"] <= 6_000_000
    assert model.config.architectures == ["LlamaForCausalLM"]
    assert 2048 <= model.config.vocab_size <= 4096
    assert model.config.max_position_embeddings == 512


def test_tokenizer_gives_back_any_text_with_exact_offsets(tokenizer: Any, model: Any) -> None:
    text = "MACBETH.\nSo foul  and fair 🙂 a day – I have not seen.\n\n[Exit]"
    encoded = tokenizer(text, return_offsets_mapping=True)
    assert tokenizer.decode(encoded["input_ids"]) == text
    spans = encoded["offset_mapping"]
    assert spans[0][0] == 0
    assert spans[-1][1] == len(text)
    # Neighbours touch, or share the character whose bytes they divide: nothing falls between.
    assert all(
        left == right or (a, left) == (right, b) for (a, left), (right, b) in pairwise(spans)
    )
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == model.config.eos_token_id == 0


def test_model_beats_both_baselines_on_text_it_never_saw(
    scripts: dict[str, ModuleType], model: Any, tokenizer: Any, metrics: dict[str, Any]
) -> None:
    trainer, ngram = scripts["train_model"], scripts["ngram"]
    training, held_out = trainer.read_corpus()
    assert len(held_out) == metrics["held_out_documents"]
    rows = trainer.rows_of(tokenizer(held_out, verbose=False)["input_ids"], trainer.SHORT)
    slice_RS = rows[:: len(rows) // ROWS][:ROWS]
    documents = [[0, *ids, 0] for ids in tokenizer(training, verbose=False)["input_ids"]]
    loss = trainer.held_out_loss(model, slice_RS)
    trigram = ngram.Trigram(documents, len(tokenizer)).nats(slice_RS.tolist())
    unigram = ngram.Unigram(documents, len(tokenizer)).nats(slice_RS.tolist())
    assert loss < trigram - 0.25
    assert trigram < unigram - 1.5
    said = metrics["nats_per_token"]
    assert [loss, trigram, unigram] == pytest.approx(
        [said["model"], said["trigram"], said["unigram"]], abs=0.25
    )


def test_baselines_are_probability_distributions(scripts: dict[str, ModuleType]) -> None:
    generator = torch.Generator().manual_seed(3)
    documents = torch.randint(0, 9, (5, 40), generator=generator).tolist()
    trigram = scripts["ngram"].Trigram(documents, 12)
    unigram = scripts["ngram"].Unigram(documents, 12)
    assert sum(unigram.probability(token) for token in range(12)) == pytest.approx(1)
    for context in ([1, 2], [7, 0], [3], [11, 4], [10, 11]):
        total = sum(trigram.probability(token, context) for token in range(12))
        assert total == pytest.approx(1)


def test_trigram_learns_a_certain_continuation(scripts: dict[str, ModuleType]) -> None:
    documents = [[1, 2, 3] * 30 + [4, 2, 5]]
    trigram = scripts["ngram"].Trigram(documents, 6)
    assert trigram.probability(3, [1, 2]) > 0.95
    assert trigram.probability(5, [4, 2]) > trigram.probability(5, [1, 2])


def test_scenes_are_found_and_long_ones_cut_between_speeches(
    scripts: dict[str, ModuleType],
) -> None:
    make = scripts["make_corpus"]
    speech = "A.\n" + "word " * 199 + "word"
    lines = ["PERSONS", "", "ACT I. SCENE 2. A  heath.]", "", *f"{speech}\n\n".split("\n") * 9]
    documents = list(make.play_documents("Play", [*lines, "EPILOGUE", "", "Farewell."]))
    assert [row["title"] for row in documents] == [
        "Play, Act I, Scene II. A heath. (1 of 3)",
        "Play, Act I, Scene II. A heath. (2 of 3)",
        "Play, Act I, Scene II. A heath. (3 of 3)",
        "Play, Epilogue",
    ]
    assert [row["text"].count("A.\n") for row in documents] == [3, 3, 3, 0]
    assert documents[-1]["text"] == "Play, Epilogue\n\nFarewell.\n"


def test_card_states_the_measured_figures(metrics: dict[str, Any]) -> None:
    card = (SAMPLE / "CARD.md").read_text(encoding="utf-8")
    for name in (
        "parameters",
        "documents",
        "corpus_bytes",
        "training_tokens",
        "tokens_seen",
        "held_out_tokens",
        "safetensors_bytes",
    ):
        assert f"{metrics[name]:,}" in card, name
    for name in ("unigram", "trigram", "model"):
        token, character = (metrics[f"nats_per_{unit}"][name] for unit in ("token", "character"))
        assert any(
            name in line and f"{token:.3f}" in line and f"{character:.3f}" in line
            for line in card.splitlines()
        ), name
    assert f"{metrics['training_minutes']} minutes" in card
    assert card.count("\n---\n") == 2  # three paragraphs it generated
