"""Partners, neighbours, health and columns of a feature set in a library, without a model."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from mistudio.cli import main
from mistudio.core.control import JobControl
from mistudio.core.errors import Mismatch, NotFound
from mistudio.core.events import RecordingReporter
from mistudio.core.health_configs import HealthConfig
from mistudio.core.health_figures import evaluation_lines, feature_lines, signs, weight_lines
from mistudio.jobs import feature_extras, feature_partners, sae_geometry, sae_health
from mistudio.jobs.runner import Studio
from mistudio.jobs.sae_library import add_sae
from mistudio.ml.features.feature_store import FeatureStore
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.store import feature_marks, features
from mistudio.store.records import FeatureSetRow, SaeRow
from mistudio.store.tables import DATASETS, FEATURE_SETS, MODELS, SAES, TOKENIZATIONS
from tests.helpers.plain_store import write_plain_store

FEATURES, WIDTH, TOKENS = 40, 12, 4_000
TWIN, TWIN_OF, SILENT, GENERAL, SPECIAL = 5, 4, 7, 10, 11


class Shelf(NamedTuple):
    """An SAE with a feature set over planted activations [token, feature]."""

    sae: SaeRow
    found: FeatureSetRow
    acts_TF: np.ndarray


def planted() -> tuple[np.ndarray, np.ndarray]:
    """Activations and token ids: GENERAL fires on token 3, except where SPECIAL does."""
    rng = np.random.default_rng(1)
    acts_TF = rng.random((TOKENS, FEATURES)) * (rng.random((TOKENS, FEATURES)) < 0.03)
    ids_T = rng.integers(0, 5, TOKENS)
    special = (ids_T == 3) & (rng.random(TOKENS) < 0.3)
    acts_TF[:, GENERAL] = np.where((ids_T == 3) & ~special, 1.0, 0.0)
    acts_TF[:, SPECIAL] = np.where(special, 2.0, 0.0)
    acts_TF[:, TWIN] = 0.5 * acts_TF[:, TWIN_OF]
    acts_TF[:, SILENT] = 0.0
    return acts_TF.astype(np.float16).astype(np.float64), ids_T


def made_sae(seed: int, like: torch.Tensor | None = None) -> SparseAutoencoder:
    generator = torch.Generator().manual_seed(seed)
    W_dec_FO = torch.randn(FEATURES, WIDTH, generator=generator)
    W_dec_FO[TWIN] = W_dec_FO[TWIN_OF] + 0.05 * W_dec_FO[0]
    W_dec_FO[SPECIAL] = W_dec_FO[GENERAL] + 0.9 * W_dec_FO[1]
    W_dec_FO = W_dec_FO / W_dec_FO.norm(dim=1, keepdim=True)
    if like is not None:
        W_dec_FO[0] = like
    return SparseAutoencoder(
        W_dec_FO.T.contiguous(), torch.zeros(FEATURES), W_dec_FO, torch.zeros(WIDTH), "standard"
    )


def health_of(studio: Studio, sae: SaeRow) -> dict[str, Any]:
    """The result of the health job."""
    config = HealthConfig(sae=sae.id)
    return studio.run_now("sae_health", config, RecordingReporter(), JobControl())


@pytest.fixture
def shelf(studio: Studio) -> Shelf:
    db = studio.db()
    model = MODELS.insert(db, name="m", origin="folder", path="models/none", status="ready")
    placed: dict[str, Any] = {"origin": "training", "model": model, "layer": 1}
    sae = add_sae(studio, made_sae(0), {}, name="one", hook="resid_post", **placed)
    dataset = DATASETS.insert(db, name="d", source="file", status="ready")
    tokens = TOKENIZATIONS.insert(
        db, dataset_id=dataset.id, tokenizer_name="t", settings_hash="x", context=10, path="t"
    )
    acts_TF, ids_T = planted()
    folder = studio.paths.feature_set("fs_1")
    write_plain_store(folder, acts_TF, np.ones(TOKENS, bool), ids_T=ids_T)
    found = FEATURE_SETS.insert(
        db,
        id="fs_1",
        sae_id=sae.id,
        tokenization_id=tokens.id,
        config={},
        path=studio.paths.relative(folder),
        store_hash="plain",
        n_tokens=TOKENS,
        status="ready",
    )
    store = FeatureStore(folder)
    rows = [
        {
            "feature_index": i,
            "count": int(line["count"]),
            "frequency": float(line["frequency"]),
            "active_samples": 1,
            "max": float(line["max"]),
            "mean": 1.0,
            "top_tokens": f"word{i}",
            "flags": ", ".join(store.flags(i)),
            "positive_tokens": "",
            "example": "[]",
        }
        for i, line in enumerate(store.statistics)
    ]
    features.add_statistics(db, found.id, rows)
    feature_marks.set_label(db, sae.id, TWIN_OF, "the twin")
    return Shelf(sae, found, acts_TF)


def test_partners_of_a_twin_with_labels_read_anew(studio: Studio, shelf: Shelf) -> None:
    found = feature_partners.correlations(studio, shelf.sae, TWIN)
    first = found.partners["pearson"][0]
    assert (first.feature, first.label, first.top_tokens) == (TWIN_OF, "the twin", "word4")
    assert first.shared == first.count == found.count == (shelf.acts_TF[:, TWIN] > 0).sum()
    assert first.measures["jaccard"] == first.measures["p_i_j"] == 1.0
    expected = np.corrcoef(shelf.acts_TF[:, TWIN], shelf.acts_TF[:, TWIN_OF])[0, 1]
    assert first.measures["pearson"] == pytest.approx(expected)
    assert len(found.partners["pmi"]) <= 20
    assert all(p.shared >= 5 for p in found.partners["pmi"])
    feature_marks.set_label(studio.db(), shelf.sae.id, TWIN_OF, "another name")
    again = feature_partners.correlations(studio, shelf.sae, TWIN)
    assert again.partners["pearson"][0].label == "another name"
    assert again.made_at == found.made_at  # the figures are kept
    anew = feature_partners.correlations(studio, shelf.sae, TWIN, anew=True)
    assert anew.made_at > found.made_at


def test_a_silent_and_an_unknown_feature(studio: Studio, shelf: Shelf) -> None:
    found = feature_partners.correlations(studio, shelf.sae, SILENT)
    assert found.count == 0
    assert not any(found.partners.values())
    with pytest.raises(NotFound, match="0 to 39"):
        feature_partners.correlations(studio, shelf.sae, FEATURES)
    with pytest.raises(NotFound, match="0 to 39"):
        feature_partners.neighbours(studio, shelf.sae, -1)


def test_absorption_is_hinted_at_one_way(studio: Studio, shelf: Shelf) -> None:
    (hint,) = feature_partners.correlations(studio, shelf.sae, GENERAL).hints
    W = made_sae(0).W_dec_FO
    assert hint.feature == SPECIAL
    assert hint.cosine == pytest.approx(float(W[GENERAL] @ W[SPECIAL]), abs=1e-6)
    assert hint.tokens == (shelf.acts_TF[:, SPECIAL] > 0).sum()
    assert hint.p == 0.0
    assert hint.windows == hint.examples == 20
    # the twin fires together with its like, so it is no sign of absorption
    assert feature_partners.correlations(studio, shelf.sae, TWIN).hints == []


def test_neighbours_kept_searched_and_of_another_sae(studio: Studio, shelf: Shelf) -> None:
    W = made_sae(0).W_dec_FO.numpy().astype(np.float64)
    cosine = W[TWIN] @ W.T / np.linalg.norm(W, axis=1) / np.linalg.norm(W[TWIN])
    order = [j for j in np.argsort(-cosine) if j != TWIN]
    searched = feature_partners.neighbours(studio, shelf.sae, TWIN, top=20)
    assert [n.feature for n in searched] == order[:20]
    assert searched[0].label == "the twin"
    sae_geometry.ensure_geometry(studio, shelf.sae, made_sae(0))
    kept = feature_partners.neighbours(studio, shelf.sae, TWIN)
    assert [n.feature for n in kept] == order[:10]
    np.testing.assert_allclose([n.cosine for n in kept], cosine[order[:10]], atol=1e-6)  # type: ignore[arg-type]
    model = MODELS.get(studio.db(), shelf.sae.model_id or "")
    like = made_sae(0).W_dec_FO[TWIN]
    other = add_sae(
        studio,
        made_sae(9, like),
        {},
        name="other",
        origin="training",
        model=model,
        layer=1,
        hook="resid_post",
    )
    deeper = add_sae(
        studio,
        made_sae(3),
        {},
        name="deeper",
        origin="training",
        model=model,
        layer=2,
        hook="resid_post",
    )
    assert [row.id for row in feature_partners.comparable(studio, shelf.sae)] == [other.id]
    (nearest,) = feature_partners.neighbours(studio, shelf.sae, TWIN, other=other, top=1)
    assert (nearest.feature, nearest.label) == (0, "")
    assert nearest.cosine == pytest.approx(1.0)
    with pytest.raises(Mismatch, match="another stream"):
        feature_partners.neighbours(studio, shelf.sae, TWIN, other=deeper)


def test_health_completes_older_sets(studio: Studio, shelf: Shelf) -> None:
    assert sae_health.known_report(studio, shelf.sae) is None
    found = health_of(studio, shelf.sae)
    health, counts = found["health"], found["health"]["counts"]
    count_F = (shelf.acts_TF > 0).sum(0)
    W = made_sae(0).W_dec_FO.double().numpy()
    cosine = W @ W.T - 2 * np.eye(FEATURES)
    assert counts["dead"] == (count_F == 0).sum() == 1
    assert counts["dense"] == (count_F > TOKENS / 10).sum()
    assert counts["above_1_percent"] == (count_F > TOKENS / 100).sum()
    assert counts["duplicate"] == (cosine.max(1) > 0.9).sum() == 2
    assert health["live"] == 39
    assert health["l0"] == pytest.approx(count_F.sum() / TOKENS)
    assert health["dead_bound"] == 3 / TOKENS
    edges, density = health["density"]["edges"], health["density"]["counts"]
    live = np.log10(count_F[count_F > 0] / TOKENS)
    assert density == np.histogram(live, edges)[0].tolist()
    assert sum(density) == 39
    assert health["encoder_cosine"]["median"] == pytest.approx(1.0, abs=1e-6)
    assert sum(health["encoder_cosine"]["counts"]) == FEATURES
    assert health["nearest_cosine"]["median"] == pytest.approx(np.median(cosine.max(1)), abs=1e-5)
    rows = studio.db().execute(
        "SELECT feature_index, nearest, nearest_cosine, flags FROM feature_statistics "
        "WHERE feature_set_id = ? ORDER BY feature_index",
        [shelf.found.id],
    )
    for index, nearest, value, flags in rows.fetchall():
        assert nearest == cosine[index].argmax()
        assert value == pytest.approx(cosine[index].max(), abs=1e-5)
        assert ("duplicate" in flags) == (index in (TWIN, TWIN_OF))
        assert not flags.startswith(",")
    report = sae_health.known_report(studio, shelf.sae)
    assert report is not None
    assert report.health == health


def test_signs_and_lines_follow_the_figures(studio: Studio, shelf: Shelf) -> None:
    found = health_of(studio, shelf.sae)
    health = json.loads(json.dumps(found["health"]))
    seen = [sign.seen for sign in signs(health, None)]
    assert any("tokens" in text and "4,000" in text for text in seen)
    assert any("not evaluated" in text for text in seen)
    assert not any("never fired" in text for text in seen)
    health["shares"]["dead"], health["n_tokens"] = 0.4, 10_000_000
    evaluation = {"ev": 0.5, "l0": 2 * health["l0"], "n": 1000, "ce_n": 500, "ce_loss_score": 0.8}
    found_signs = signs(health, evaluation)
    warnings = [sign for sign in found_signs if sign.level == "warning"]
    assert found_signs[: len(warnings)] == warnings
    text = " ".join(sign.seen for sign in warnings)
    for part in ("40.0 %", "50.0 %", "80.0 %", "L0 is"):
        assert part in text
    assert [line.name for line in evaluation_lines(evaluation)] == [
        "Explained variance",
        "L0, held out",
        "CE recovered",
    ]
    assert evaluation_lines(evaluation)[2].rests_on == "500 tokens"
    assert feature_lines(health)[0].value == "40.00 % (1)"
    assert weight_lines(health)[0].value.startswith("1.000")
    health["encoder_cosine"] = None
    assert weight_lines(health)[0].rests_on == "not defined for this SAE"


def test_extras_of_the_statistics_page(studio: Studio, shelf: Shelf) -> None:
    before = feature_extras.extras(studio, shelf.sae, TWIN)
    assert before.weights is None
    sae_geometry.ensure_geometry(studio, shelf.sae, made_sae(0))
    found = feature_extras.extras(studio, shelf.sae, TWIN)
    x_RS = shelf.acts_TF[:, TWIN].reshape(-1, 10)
    np.testing.assert_allclose(found.profile, x_RS.mean(0))  # type: ignore[arg-type]
    active = x_RS[x_RS > 0]
    edges, counts = np.array(found.log_histogram.edges), found.log_histogram.counts
    assert counts == np.histogram(np.log2(active), edges)[0].tolist()
    assert sum(counts) == active.size
    assert found.weights is not None
    assert found.weights.norm == pytest.approx(1.0, abs=1e-6)
    row = made_sae(0).W_dec_FO[TWIN].double().numpy()
    top = found.weights.entries[0]
    assert top.neuron == np.abs(row).argmax()
    assert top.share == pytest.approx(np.abs(row).max() / np.abs(row).sum())
    silent = feature_extras.extras(studio, shelf.sae, SILENT)
    assert silent.log_histogram.counts == []


def test_the_same_from_the_command_line(
    studio: Studio, shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ["--home", str(studio.paths.home)]
    assert main([*home, "features", "together", "one", str(TWIN)]) == 0
    out = capsys.readouterr().out
    assert f"#{TWIN_OF}" in out
    assert "the twin" in out
    assert main([*home, "features", "neighbours", "one", str(TWIN), "--top", "1"]) == 0
    assert f"#{TWIN_OF}" in capsys.readouterr().out
    assert main([*home, "features", "neighbours", "one", str(TWIN), "--top", "200"]) == 2
    capsys.readouterr()
    assert main([*home, "--json", "features", "health", "one"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "duplicate" in json.dumps(result)


def test_geometry_of_other_weights_is_not_read(studio: Studio, shelf: Shelf) -> None:
    sae_geometry.ensure_geometry(studio, shelf.sae, made_sae(0))
    assert sae_geometry.kept_geometry(studio, shelf.sae) is not None
    SAES.update(studio.db(), shelf.sae.id, weights_hash="another")
    other = SAES.get(studio.db(), shelf.sae.id)
    assert sae_geometry.kept_geometry(studio, other) is None
    (studio.paths.absolute(other.path) / "sae_weights.safetensors").unlink()
    with pytest.raises(NotFound, match="import it again"):
        sae_geometry.kept_geometry(studio, other)
