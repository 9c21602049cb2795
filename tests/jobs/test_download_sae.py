"""SAEs of the Hub come into the library by repository and folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from mistudio.core.configs import DownloadSaeConfig, EvaluateConfig, ExportSaeConfig
from mistudio.core.errors import InUse, StudioError
from mistudio.core.events import RecordingReporter
from mistudio.hub import setup
from mistudio.jobs import lookup
from mistudio.jobs.runner import Studio
from mistudio.jobs.sae_library import read_sae
from mistudio.store.tables import MODELS, SAES
from tests.helpers.local_hub import GOOD_TOKEN, LocalHub
from tests.helpers.studio import run
from tests.jobs.test_transcoders import brought_in

REPO = "lab/many-saes"


@pytest.fixture
def offered(hub: LocalHub, trained: Studio, tmp_path: Path) -> LocalHub:
    """The trained SAE in two formats in one repository of the Hub."""
    files = {"README.md": b"SAEs", "a/notes.bin": bytes(50_000)}
    for name in ("saelens", "dictionary_learning"):
        out = tmp_path / name
        run(trained, "export_sae", ExportSaeConfig(format=name, out=str(out)))
        files |= {f"{name}/L1/{path.name}": path.read_bytes() for path in out.iterdir()}
    hub.add("models", REPO, files)
    return hub


@pytest.mark.parametrize("name", ["saelens", "dictionary_learning"])
def test_one_sae_of_many_is_fetched_and_is_what_was_offered(
    offered: LocalHub, trained: Studio, name: str
) -> None:
    first = lookup.sae(trained, "last")
    result = run(trained, "download_sae", DownloadSaeConfig(repo=REPO, folder=name))
    row = SAES.get(trained.db(), str(result["sae"]))
    assert (row.name, row.repo_id, row.source_format) == (f"many-saes {name}/L1", REPO, name)
    assert (row.origin, row.layer, row.hook_in) == ("imported", 1, "resid_post")
    assert row.model_id == first.model_id
    assert {path.split("/")[0] for path in offered.sent} == {name}
    kept, had = read_sae(trained, row), read_sae(trained, first)
    assert (kept.W_enc_DF - had.W_enc_DF).abs().max() <= 1e-6 * had.W_enc_DF.abs().max()
    figures = run(trained, "evaluate", EvaluateConfig(sae=row.id, dataset="stories", tokens=1024))
    assert figures["ev"] == pytest.approx((first.evaluation or {})["ev"], abs=1e-5)


def test_what_is_in_the_cache_needs_no_network(offered: LocalHub, trained: Studio) -> None:
    config = DownloadSaeConfig(repo=REPO, folder="saelens/L1")
    run(trained, "download_sae", config)
    setup.configure(address=offered.url, offline=True)
    result = run(trained, "download_sae", config)
    assert result["format"] == "saelens"
    with pytest.raises(StudioError, match="Offline mode is on"):
        run(trained, "download_sae", DownloadSaeConfig(repo=REPO, folder="dictionary_learning"))


def test_a_layer_of_a_set_is_read_by_its_name_in_the_cache(
    hub: LocalHub, trained: Studio, tmp_path: Path
) -> None:
    """The cache links it to a file that is called by its checksum."""
    made = [brought_in(trained, tmp_path / f"in{i}", layer=i, seed=i).id for i in range(2)]
    out = tmp_path / "set"
    config = ExportSaeConfig(sae=made[0], format="circuit_tracer", out=str(out), others=(made[1],))
    run(trained, "export_sae", config)
    hub.add("models", "lab/set", {path.name: path.read_bytes() for path in out.iterdir()})
    result = run(
        trained, "download_sae", DownloadSaeConfig(repo="lab/set", folder="layer_1.safetensors")
    )
    assert (result["format"], result["layer"]) == ("circuit_tracer", 1)
    assert (result["hook"], result["hook_out"]) == ("mlp_in", "mlp_out")
    assert "layer_0.safetensors" not in hub.sent


def test_what_cannot_be_had_is_a_sentence_and_leaves_no_row(
    offered: LocalHub, trained: Studio
) -> None:
    rows = len(SAES.select(trained.db()))
    for config, words in (
        (DownloadSaeConfig(repo=REPO), "holds 2 SAEs"),
        (DownloadSaeConfig(repo=REPO, folder="L9"), "no file or folder 'L9'"),
        (DownloadSaeConfig(repo="lab/none"), "no model 'lab/none'"),
        (DownloadSaeConfig(repo=REPO, revision="v9"), "no revision 'v9'"),
        (DownloadSaeConfig(repo="a//b"), "owner/name"),
    ):
        with pytest.raises(StudioError, match=words):
            run(trained, "download_sae", config)
    offered.gated[REPO] = {"alice"}
    with pytest.raises(StudioError, match="asks for an access token"):
        run(trained, "download_sae", DownloadSaeConfig(repo=REPO, folder="saelens"))
    assert len(SAES.select(trained.db())) == rows
    trained.tokens.keep(REPO, GOOD_TOKEN)
    assert run(trained, "download_sae", DownloadSaeConfig(repo=REPO, folder="saelens"))["sae"]


def test_one_download_of_an_sae_at_a_time(offered: LocalHub, trained: Studio) -> None:
    trained.submit("download_sae", DownloadSaeConfig(repo=REPO, folder="saelens"))
    with pytest.raises(InUse, match="being downloaded already"):
        trained.submit("download_sae", DownloadSaeConfig(repo=REPO, folder="saelens"))
    trained.submit("download_sae", DownloadSaeConfig(repo=REPO, folder="dictionary_learning"))


def test_a_model_is_found_by_its_repository(offered: LocalHub, trained: Studio) -> None:
    """Files name the repository; the library calls the model by the last part, or as one likes."""
    db = trained.db()
    sae = lookup.sae(trained, "last")
    MODELS.update(db, str(sae.model_id), name="mine", repo_id="maker/tiny")
    config = DownloadSaeConfig(repo=REPO, folder="saelens")
    report = RecordingReporter()
    assert run(trained, "download_sae", config, report)["model"] is None
    MODELS.update(db, str(sae.model_id), name="mine", repo_id="tiny")
    assert run(trained, "download_sae", config)["model"] == "mine"
