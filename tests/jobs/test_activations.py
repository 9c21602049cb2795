"""The life of an activation set: estimate, extract, cancel, retry, crash, verify, delete."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mistudio.core.control import JobControl
from mistudio.core.dataset_configs import TokenizeConfig
from mistudio.core.errors import DiskFull, InUse, InvalidInput, Mismatch, NotFound, StudioError
from mistudio.core.events import RecordingReporter
from mistudio.core.model_configs import (
    CheckModelConfig,
    ExportActivationsConfig,
    ExtractConfig,
    VerifyActivationsConfig,
)
from mistudio.core.paths import Paths
from mistudio.jobs import activation_pages, deletion, dependants, extraction_plan
from mistudio.jobs.activation_pages import partial_folder
from mistudio.jobs.runner import Studio
from mistudio.store import jobs
from mistudio.store.tables import ACTIVATION_SETS, JOBS, TOKENIZATIONS
from tests.helpers.studio import run, tiny_studio

CONFIG = ExtractConfig(
    model="tiny",
    dataset="stories",
    layers="0,2",
    hooks=("resid_post", "mlp_in"),
    rows=64,
    batch=8,
    top_k=10,
)
GONE = 2**22 - 3  # beyond any process id in use here


@pytest.fixture(scope="module")
def tokenised_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("tokenised")
    studio = tiny_studio(home)
    run(studio, "tokenize", TokenizeConfig(dataset="stories", model="tiny", context=32))
    studio.close()
    return home


@pytest.fixture
def studio(tokenised_home: Path, tmp_path: Path) -> Iterator[Studio]:
    shutil.copytree(tokenised_home / "data", tmp_path / "data")
    studio = Studio(Paths.at(tmp_path / "data"))
    yield studio
    studio.close()


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two batches to a shard, so that a set has several."""
    from mistudio.ml.activations.extract import ExtractSettings

    defaults = (0, 0, 32, "fp16", "safetensors", 100, 16 * 32 * 32 * 2)
    monkeypatch.setattr(ExtractSettings.__init__, "__defaults__", defaults)


class AfterShard(JobControl):
    """Acts when so many shards are whole: cancels, or breaks like a bug."""

    def __init__(self, studio: Studio, shards: int, error: Exception | None = None) -> None:
        super().__init__()
        self._folder, self._shards, self._error = studio.paths.home, shards, error

    def check(self) -> None:
        name = f"shard-{self._shards - 1:05d}.safetensors"
        if list(self._folder.glob(f"activations/.*/tokens/{name}")):
            if self._error is not None:
                raise self._error
            self.cancel()
        super().check()


def stop_after(studio: Studio, shards: int, error: Exception | None = None) -> tuple[str, str]:
    """Run an extraction that ends early; returns the job's state and what it said last."""
    job = studio.submit("extract_activations", CONFIG)
    reporter = RecordingReporter()
    state = studio.execute(job, reporter, AfterShard(studio, shards, error))
    notes = [str(e.values["sentence"]) for e in reporter.events if e.kind == "note"]
    return state, next((n for n in reversed(notes) if "shard" in n), "")


def test_a_set_is_made_and_shown(studio: Studio) -> None:
    estimate = activation_pages.estimate(studio, CONFIG, tokens_per_s=100.0)
    assert (estimate.rows, estimate.layers, estimate.dtype) == (64, [0, 2], "fp16")
    assert estimate.seconds == pytest.approx(estimate.tokens / 100.0)
    assert (estimate.warning, estimate.refusal) == ("", "")
    result = run(studio, "extract_activations", CONFIG)
    assert result["tokens"] == 64 * 32
    assert estimate.tokens == pytest.approx(result["tokens"], rel=0.02)
    assert estimate.bytes == pytest.approx(result["bytes"], rel=0.1)
    row = ACTIVATION_SETS.get(studio.db(), result["activations"])
    assert (row.status, row.layers, row.hooks, row.dtype, row.n_tokens) == (
        "completed", "0,2", "resid_post,mlp_in", "fp16", 2048,
    )  # fmt: skip
    assert row.model_format == "fp32"
    assert row.name == "tiny resid_post, mlp_in L0,2"
    assert not partial_folder(studio, row.id).exists()
    page = activation_pages.set_page(studio, row.id)
    assert (page.model, page.dataset) == ("tiny", "stories")
    assert [(h.layer, h.hook) for h in page.hooks] == [
        (0, "resid_post"), (0, "mlp_in"), (2, "resid_post"), (2, "mlp_in"),
    ]  # fmt: skip
    assert page.hooks[0].mean_D.shape == page.hooks[0].variance_D.shape == (32,)
    assert page.seconds > 0
    strong = activation_pages.strong_tokens(studio, page, 2, "resid_post", 5)
    assert len(strong) == 5
    assert all(token.before or token.after for token in strong)
    tokens = TOKENIZATIONS.select(studio.db())[0]
    deletion.delete_tokenization(studio, tokens.id)
    page = activation_pages.set_page(studio, row.id)
    assert page.dataset == ""
    assert activation_pages.strong_tokens(studio, page, 2, "resid_post", 5)[0].text == ""
    with pytest.raises(NotFound, match="nothing of layer 1"):
        activation_pages.strong_tokens(studio, page, 1, "resid_post")


def test_text_is_tokenised_first_if_need_be(studio: Studio) -> None:
    tokens = TOKENIZATIONS.select(studio.db())[0]
    deletion.delete_tokenization(studio, tokens.id)
    result = run(studio, "extract_activations", CONFIG)
    row = ACTIVATION_SETS.get(studio.db(), result["activations"])
    assert row.tokenization_id == TOKENIZATIONS.select(studio.db())[0].id != tokens.id


def test_what_cannot_be_extracted(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(**changes: Any) -> str:
        values = {**vars(CONFIG), **changes}
        return activation_pages.estimate(studio, ExtractConfig(**values)).refusal

    assert refusal(model="nothing") == (
        "There is no model 'nothing'. The list command shows what there is."
    )
    assert "none of the layers 7" in refusal(layers="7")
    assert refusal(hooks=()) == "Choose at least one hook."
    some = activation_pages.estimate(studio, ExtractConfig(**{**vars(CONFIG), "layers": "0,3,6"}))
    assert some.layers == [0, 3]
    assert some.warning == "'tiny' has no layer 6; left out."
    monkeypatch.setattr(extraction_plan, "free_room", lambda _studio: (10**6, 9 * 10**5))
    monkeypatch.setattr(activation_pages, "free_room", lambda _studio: (10**6, 9 * 10**5))
    monkeypatch.setattr(
        "mistudio.jobs.extract_activations.free_room", lambda _s: (10**6, 9 * 10**5)
    )
    assert re.match(r"Needs 5\d\d\.\d kB, 100\.0 kB are free\. ", refusal())
    with pytest.raises(DiskFull, match=r"100\.0 kB are free"):
        studio.submit("extract_activations", CONFIG)
    assert ACTIVATION_SETS.select(studio.db()) == []
    TOKENIZATIONS.update(studio.db(), TOKENIZATIONS.select(studio.db())[0].id, tokenizer_name="x")
    wrong = {**vars(CONFIG), "dataset": TOKENIZATIONS.select(studio.db())[0].id}
    with pytest.raises(Mismatch, match="another vocabulary"):
        studio.submit("extract_activations", ExtractConfig(**wrong))


@pytest.mark.usefixtures("small_shards")
def test_a_cancel_keeps_whole_shards_and_retry_goes_on(studio: Studio) -> None:
    state, said = stop_after(studio, 2)
    assert state == "cancelled"
    assert said.startswith("2 whole shards (")
    assert said.endswith("stay. Retry goes on from there; Delete removes the set.")
    row = ACTIVATION_SETS.select(studio.db())[0]
    assert row.status == "cancelled"
    assert not studio.paths.activations(row.id).exists()
    assert activation_pages.set_page(studio, row.id).kept_bytes > 1000
    with pytest.raises(InUse, match="not complete"):
        run(studio, "verify_activations", VerifyActivationsConfig(activations=row.id))
    reporter = RecordingReporter()
    again = studio.retry(JOBS.select(studio.db(), "kind = 'extract_activations'")[0].id)
    assert JOBS.get(studio.db(), again).target_id == row.id
    assert studio.execute(again, reporter) == "completed"
    assert "Goes on after 2 whole shards." in [e.values.get("sentence") for e in reporter.events]
    assert ACTIVATION_SETS.get(studio.db(), row.id).n_tokens == 2048


def test_a_cancel_before_a_whole_shard_leaves_nothing(studio: Studio) -> None:
    control = JobControl()
    control.cancel()
    assert studio.execute(studio.submit("extract_activations", CONFIG), None, control) == (
        "cancelled"
    )
    assert ACTIVATION_SETS.select(studio.db()) == []
    assert not list(studio.paths.home.glob("activations/*"))
    queued = studio.submit("extract_activations", CONFIG)
    studio.request(queued, "cancel")
    assert ACTIVATION_SETS.select(studio.db()) == []


@pytest.mark.usefixtures("small_shards")
def test_a_failure_keeps_whole_shards(studio: Studio) -> None:
    state, said = stop_after(studio, 1, OSError(28, "No space left on device"))
    assert (state, said[:13]) == ("failed", "1 whole shard")
    row = ACTIVATION_SETS.select(studio.db())[0]
    assert (row.status, row.error_code) == ("failed", "disk_full")
    assert run(studio, "extract_activations", CONFIG)["activations"] == row.id
    row = ACTIVATION_SETS.get(studio.db(), row.id)
    assert (row.status, row.error_code, row.error_message) == ("completed", None, None)


@pytest.mark.usefixtures("small_shards")
def test_an_ended_process_leaves_an_interrupted_set_that_goes_on(studio: Studio) -> None:
    db = studio.db()
    stop_after(studio, 2)
    row = ACTIVATION_SETS.select(db)[0]
    job = studio.submit("extract_activations", CONFIG)
    jobs.claim(db, job, GONE)
    ACTIVATION_SETS.update(db, row.id, status="extracting")
    (partial_folder(studio, row.id) / "L0.mlp_in" / ".shard-00002.safetensors.tmp").touch()
    assert [lost.id for lost in studio.recover()] == [job]
    assert ACTIVATION_SETS.get(db, row.id).status == "interrupted"
    studio.request(job, "resume")
    assert ACTIVATION_SETS.get(db, row.id).status == "queued"
    assert studio.execute(job) == "completed"
    assert ACTIVATION_SETS.get(db, row.id).status == "completed"
    verified = run(studio, "verify_activations", VerifyActivationsConfig())
    assert (verified["activations"], verified["tokens"]) == (row.id, 2048)


@pytest.mark.usefixtures("small_shards")
def test_a_new_job_replaces_an_interrupted_one(studio: Studio) -> None:
    db = studio.db()
    stop_after(studio, 1)
    first = studio.submit("extract_activations", CONFIG)
    jobs.claim(db, first, GONE)
    studio.recover()
    second = studio.submit("extract_activations", CONFIG)
    assert JOBS.get(db, first).status == "cancelled"
    assert JOBS.get(db, second).target_id == JOBS.get(db, first).target_id
    assert studio.execute(second) == "completed"
    assert len(ACTIVATION_SETS.select(db)) == 1


@pytest.mark.usefixtures("small_shards")
def test_values_of_two_formats_do_not_mix(studio: Studio) -> None:
    db = studio.db()
    stop_after(studio, 2)
    kept = ACTIVATION_SETS.select(db)[0]
    waiting = studio.submit("extract_activations", CONFIG)
    run(studio, "check_model", CheckModelConfig(model="tiny", format="bf16"))
    assert studio.execute(waiting) == "failed"
    told = JOBS.get(db, waiting).error_message
    assert told is not None
    assert told.startswith("What was kept was read from the model in FP32, which is BF16 now.")
    assert activation_pages.set_page(studio, kept.id).kept_bytes > 1000
    made = run(studio, "extract_activations", CONFIG)
    assert made["activations"] != kept.id
    assert ACTIVATION_SETS.get(db, str(made["activations"])).model_format == "bf16"
    run(studio, "check_model", CheckModelConfig(model="tiny", format="fp32"))
    assert run(studio, "extract_activations", CONFIG)["activations"] == kept.id


def test_a_cancel_acts_within_a_second(studio: Studio) -> None:
    config = ExtractConfig(**{**vars(CONFIG), "rows": 0, "layers": "all"})
    job = studio.submit("extract_activations", config)
    control = JobControl()
    asked = threading.Event()
    left: list[float] = []

    class Slow(RecordingReporter):
        def progress(self, *values: Any, **named: Any) -> None:
            super().progress(*values, **named)
            if values[1] == "Extracting" and not asked.is_set():
                asked.set()
                control.cancel()
                left.append(time.monotonic())

    assert studio.execute(job, Slow(), control) == "cancelled"
    assert time.monotonic() - left[0] < 8
    assert not list(studio.paths.home.glob("activations/*"))


def test_a_probe_leaves_nothing(studio: Studio) -> None:
    result = run(studio, "probe_extraction", CONFIG)
    assert result["tokens_per_s"] > 0
    assert result["seconds"] == pytest.approx(result["tokens"] / result["tokens_per_s"])
    assert ACTIVATION_SETS.select(studio.db()) == []
    assert not list(studio.paths.tmp.glob("probe*"))


def test_verify_export_and_delete(studio: Studio, tmp_path: Path) -> None:
    result = run(studio, "extract_activations", CONFIG)
    with pytest.raises(InvalidInput, match="Choose one of the layers 0, 2"):
        studio.submit("export_activations", ExportActivationsConfig(out=str(tmp_path / "x")))
    with pytest.raises(InvalidInput, match="This set holds resid_post, mlp_in"):
        studio.submit(
            "export_activations",
            ExportActivationsConfig(layer=1, hook="mlp_in", out=str(tmp_path / "x")),
        )
    out = run(
        studio,
        "export_activations",
        ExportActivationsConfig(layer=2, hook="mlp_in", out=str(tmp_path / "x")),
    )
    assert out["path"] == str(tmp_path / "x.npy")
    assert np.load(tmp_path / "x.npy").shape == (2048, 32)
    shard = Path(result["path"]) / "L0.mlp_in" / "shard-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(StudioError, match=r"1 file is damaged \(L0.mlp_in/shard-00000"):
        run(studio, "verify_activations", VerifyActivationsConfig())
    assert dependants.of_model(studio, studio_model(studio)).kept[-1] == (
        "activation set 'tiny resid_post, mlp_in L0,2'"
    )
    means = dependants.of_activation_set(studio, result["activations"])
    assert means.size_bytes == pytest.approx(result["bytes"])
    waiting = studio.submit("verify_activations", VerifyActivationsConfig())
    with pytest.raises(InUse, match="Verify activations"):
        deletion.delete_activation_set(studio, result["activations"])
    studio.request(waiting, "cancel")
    deletion.delete_activation_set(studio, result["activations"])
    assert not Path(result["path"]).exists()
    assert ACTIVATION_SETS.select(studio.db()) == []
    with pytest.raises(NotFound, match="no activation set yet"):
        run(studio, "verify_activations", VerifyActivationsConfig())


@pytest.mark.usefixtures("small_shards")
def test_delete_removes_what_a_cancel_kept(studio: Studio) -> None:
    stop_after(studio, 1)
    row = ACTIVATION_SETS.select(studio.db())[0]
    deletion.delete_activation_set(studio, row.id)
    assert not list(studio.paths.home.glob("activations/*"))
    assert not list(studio.paths.home.glob("activations/.*"))


def studio_model(studio: Studio) -> str:
    from mistudio.store.tables import MODELS

    return MODELS.select(studio.db())[0].id
