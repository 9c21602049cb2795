"""Deleting: what is refused, what goes, what stays, which files are never touched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mistudio.core.errors import InUse, NotFound
from mistudio.core.paths import Paths
from mistudio.jobs import deletion, dependants
from mistudio.jobs.runner import Studio
from mistudio.store import jobs, trainings
from mistudio.store.records import DatasetRow, ModelRow, SaeRow, TokenizationRow, TrainingRow
from mistudio.store.tables import (
    DATASETS,
    FEATURE_SETS,
    JOBS,
    MODELS,
    SAES,
    TOKENIZATIONS,
    TRAININGS,
)


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    made = Studio(Paths.at(tmp_path / "home"))
    yield made
    made.close()


def fill(folder: Path, size: int = 1000) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.bin").write_bytes(b"x" * size)
    return folder


def add_dataset(studio: Studio) -> DatasetRow:
    row = DATASETS.insert(studio.db(), name="tales", source="local", status="ready")
    fill(studio.paths.dataset(row.id))
    return row


def add_tokenization(studio: Studio, dataset: DatasetRow) -> TokenizationRow:
    row = TOKENIZATIONS.insert(
        studio.db(),
        dataset_id=dataset.id,
        tokenizer_name="fingerprint",
        settings_hash="hash",
        context=128,
        status="ready",
    )
    fill(studio.paths.tokens(dataset.id, row.id), 500)
    return row


def add_model(studio: Studio, path: Path) -> ModelRow:
    return MODELS.insert(
        studio.db(), name="tiny", origin="folder", path=str(path), status="ready", hidden_dim=32
    )


def add_training(studio: Studio, status: str, **values: object) -> TrainingRow:
    row = TRAININGS.insert(
        studio.db(),
        name="first run",
        encoder_type="sae",
        architecture="topk",
        layer=0,
        hook="resid_post",
        status=status,
        **values,
    )
    fill(studio.paths.run(row.id))
    return row


def add_sae(studio: Studio, **values: object) -> SaeRow:
    row = SAES.insert(
        studio.db(),
        name="first sae",
        origin="trained",
        encoder_type="sae",
        architecture="topk",
        d_in=32,
        d_out=32,
        n_latents=64,
        path="saes/x",
        **values,
    )
    fill(studio.paths.sae(row.id))
    return row


def test_dataset_goes_with_its_tokenisations(studio: Studio) -> None:
    dataset = add_dataset(studio)
    tokenization = add_tokenization(studio, dataset)
    found = dependants.of_dataset(studio, dataset.id)
    assert found.size_bytes == 1500
    assert found.removed == ["a tokenisation of 128 tokens per row"]
    assert found.refusal == ""
    deletion.delete_dataset(studio, dataset.id)
    assert DATASETS.find(studio.db(), dataset.id) is None
    assert TOKENIZATIONS.find(studio.db(), tokenization.id) is None
    assert not studio.paths.dataset(dataset.id).exists()


@pytest.mark.parametrize("status", ["queued", "running", "paused", "interrupted"])
def test_dataset_is_kept_for_an_unfinished_job(studio: Studio, status: str) -> None:
    dataset = add_dataset(studio)
    job = jobs.add_job(
        studio.db(), "tokenize", "io", "Tokenise tales", {"dataset": "tales", "model": "m"}
    )
    JOBS.update(studio.db(), job.id, status=status)
    with pytest.raises(InUse, match=f"the {status} job 'Tokenise tales'"):
        deletion.delete_dataset(studio, dataset.id)
    assert studio.paths.dataset(dataset.id).exists()
    JOBS.update(studio.db(), job.id, status="completed")
    deletion.delete_dataset(studio, dataset.id)
    assert DATASETS.select(studio.db()) == []


def test_tokenisation_is_kept_for_paused_training_and_features(studio: Studio) -> None:
    dataset = add_dataset(studio)
    tokenization = add_tokenization(studio, dataset)
    training = add_training(studio, "paused")
    trainings.use_dataset(studio.db(), training.id, tokenization.id)
    sae = add_sae(studio)
    feature_set = FEATURE_SETS.insert(
        studio.db(), sae_id=sae.id, tokenization_id=tokenization.id, n_tokens=10
    )
    found = dependants.of_tokenization(studio, tokenization.id)
    assert found.needed_by == ["training 'first run'", "the features of SAE 'first sae'"]
    with pytest.raises(InUse, match="training 'first run' and the features of SAE 'first sae'"):
        deletion.delete_tokenization(studio, tokenization.id)
    with pytest.raises(InUse):
        deletion.delete_dataset(studio, dataset.id)
    TRAININGS.update(studio.db(), training.id, status="completed")
    FEATURE_SETS.delete(studio.db(), feature_set.id)
    found = dependants.of_tokenization(studio, tokenization.id)
    assert (found.refusal, found.kept) == ("", ["training 'first run'"])
    deletion.delete_tokenization(studio, tokenization.id)
    assert not studio.paths.tokens(dataset.id, tokenization.id).exists()
    assert studio.paths.dataset(dataset.id).exists()
    assert TRAININGS.find(studio.db(), training.id) is not None


def test_model_used_in_place_keeps_its_files(studio: Studio, tmp_path: Path) -> None:
    source = fill(tmp_path / "elsewhere")
    row = add_model(studio, source)
    assert dependants.of_model(studio, row.id).size_bytes == 0
    deletion.delete_model(studio, row.id)
    assert MODELS.select(studio.db()) == []
    assert (source / "data.bin").read_bytes() == b"x" * 1000


def test_copied_model_goes_with_its_files(studio: Studio) -> None:
    row = add_model(studio, Path("unused"))
    folder = fill(studio.paths.model(row.id))
    assert dependants.of_model(studio, row.id).size_bytes == 1000
    deletion.delete_model(studio, row.id)
    assert not folder.exists()


def test_model_is_kept_for_its_sae(studio: Studio, tmp_path: Path) -> None:
    row = add_model(studio, tmp_path)
    sae = add_sae(studio, model_id=row.id)
    with pytest.raises(InUse, match="used by SAE 'first sae'"):
        deletion.delete_model(studio, row.id)
    deletion.delete_sae(studio, sae.id)
    deletion.delete_model(studio, row.id)
    assert MODELS.select(studio.db()) == []


def test_training_leaves_its_sae(studio: Studio) -> None:
    training = add_training(studio, "paused")
    sae = add_sae(studio, training_id=training.id)
    job = jobs.add_job(studio.db(), "train", "gpu", "Train first run", {}, target_id=training.id)
    JOBS.update(studio.db(), job.id, status="running")
    with pytest.raises(InUse, match="the running job 'Train first run'"):
        deletion.delete_training(studio, training.id)
    JOBS.update(studio.db(), job.id, status="paused")
    assert dependants.of_training(studio, training.id).kept == ["SAE 'first sae'"]
    deletion.delete_training(studio, training.id)
    assert JOBS.get(studio.db(), job.id).status == "cancelled"
    assert TRAININGS.find(studio.db(), training.id) is None
    assert not studio.paths.run(training.id).exists()
    assert SAES.get(studio.db(), sae.id).training_id is None
    assert studio.paths.sae(sae.id).exists()


def test_sae_goes_with_its_features(studio: Studio) -> None:
    sae = add_sae(studio)
    feature_set = FEATURE_SETS.insert(studio.db(), sae_id=sae.id, n_tokens=12_345)
    fill(studio.paths.feature_set(feature_set.id), 200)
    found = dependants.of_sae(studio, sae.id)
    assert (found.size_bytes, found.removed) == (1200, ["a feature set over 12,345 tokens"])
    job = jobs.add_job(studio.db(), "evaluate", "gpu", "Evaluate", {"sae": "last"})
    with pytest.raises(InUse, match="the queued job 'Evaluate'"):
        deletion.delete_sae(studio, sae.id)
    studio.request(job.id, "cancel")
    deletion.delete_sae(studio, sae.id)
    assert FEATURE_SETS.select(studio.db()) == []
    assert not studio.paths.feature_set(feature_set.id).exists()
    assert not studio.paths.sae(sae.id).exists()


def test_unknown_object_is_a_sentence(studio: Studio) -> None:
    with pytest.raises(NotFound, match="There is no dataset 'ds_x'"):
        deletion.delete_dataset(studio, "ds_x")


def test_long_lists_are_cut(studio: Studio) -> None:
    dataset = add_dataset(studio)
    for number in range(7):
        jobs.add_job(studio.db(), "tokenize", "io", f"Tokenise {number}", {"dataset": dataset.id})
    assert dependants.of_dataset(studio, dataset.id).refusal.count("Tokenise") == 5
    assert "and 2 more." in dependants.of_dataset(studio, dataset.id).refusal
