"""Claims beside their controls: what was planted is found, what is alike is flagged by chance."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mistudio.core.control import JobControl
from mistudio.core.steering_spec import Edit, Feature, Spec
from mistudio.ml.features.controls import standing
from mistudio.ml.loading import LoadedModel
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.steering import metrics
from mistudio.ml.steering.claims import Claim, Setting, claim, matching_tokens
from mistudio.ml.steering.dose_response import calibration_text, resolve_kl
from mistudio.ml.steering.preview import PreviewSession
from mistudio.ml.steering.prompts import Prompt
from mistudio.ml.steering.rereading import reread
from mistudio.ml.steering.sources import Library, PlacedSae
from tests.ml_steering.conftest import WIDTH

LAST, CONCEPT, FEATURES = 2, {40, 41, 42}, 60
PLANTED = 7
PROMPT = Prompt((5, 6, 7, 8, 9))


@pytest.fixture(scope="module")
def setting() -> Setting:
    """Random directions, but for one: that of the unembedding rows of a few tokens."""
    from tests.ml_steering.conftest import loaded_model

    llama = loaded_model("llama")
    generator = torch.Generator().manual_seed(4)
    W_dec_FO = torch.randn(FEATURES, WIDTH, generator=generator)
    rows_VD = llama.model.get_output_embeddings().weight.detach()
    W_dec_FO[PLANTED] = (rows_VD - rows_VD.mean(0))[sorted(CONCEPT)].mean(0)
    W_dec_FO /= W_dec_FO.norm(dim=1, keepdim=True)
    sae = SparseAutoencoder(
        W_dec_FO.T.contiguous(), torch.zeros(FEATURES), W_dec_FO, torch.zeros(WIDTH), "standard"
    )
    placed = PlacedSae(sae, LAST, "resid_post", median_norm=10.0)
    return Setting(calibration_text(llama, PROMPT, 16), placed, 0.3, 10.0, max_tokens=8)


@pytest.fixture(scope="module")
def planted(setting: Setting) -> Claim:
    others = [n for n in range(20) if n != PLANTED]
    means_D = setting.placed.sae.W_dec_FO[30] * 5
    asked = Prompt((40, 41, 42, *PROMPT.ids))
    return claim(setting, PLANTED, CONCEPT, others, JobControl(), means_D=means_D, prompted=asked)


def test_a_planted_feature_is_flagged(planted: Claim) -> None:
    assert planted.baseline is not None
    assert planted.steered is not None
    assert planted.steered.probability > 2 * planted.baseline.probability
    assert planted.standings["probability"].p == pytest.approx(1 / 20)
    assert planted.holds()
    assert planted.calibration.within


def test_controls_have_changes_of_the_same_length(planted: Claim, setting: Setting) -> None:
    assert len(planted.controls) == 19
    assert planted.steered is not None
    assert planted.means is not None
    for shown in (*planted.controls.values(), planted.means):
        assert shown.ratio == pytest.approx(planted.steered.ratio, rel=1e-3)
        assert shown.kl != planted.steered.kl
        assert shown.text
    assert planted.prompted is not None
    assert planted.prompted.kl is None
    assert planted.prompted.probability != planted.baseline.probability  # type: ignore[union-attr]


def test_figures_are_those_of_the_metrics(planted: Claim, setting: Setting) -> None:
    assert planted.steered is not None
    assert planted.strength is not None
    spec = Spec((Edit(Feature(PLANTED), planted.strength, unit="raw"),))
    library = Library({"": setting.placed})
    count = len(setting.replay.ids) - len(PROMPT.ids) + 1
    ((_, told),) = setting.replay.read({"a": spec}, library, last=count)
    chances = metrics.concept_probability(told.logits_TV, CONCEPT)
    assert planted.steered.probability == pytest.approx(np.mean(chances), rel=1e-4)
    loaded, sae = setting.loaded, setting.placed.sae
    assert planted.baseline is not None
    assert planted.baseline.reread is not None
    greedy = setting.replay.ids[len(PROMPT.ids) :][:8]
    found = reread(loaded, sae, LAST, "resid_post", [PLANTED], PROMPT.ids, greedy)
    assert found is not None
    assert planted.baseline.reread == pytest.approx(found[0], rel=1e-4, abs=1e-6)


def test_directions_that_are_alike_are_flagged_as_often_as_chance_allows(setting: Setting) -> None:
    """Each of twenty random directions beside the other nineteen: p <= 0.05 for at most one."""
    library = Library({"": setting.placed})
    numbers = list(range(10, 50))
    specs = {str(n): Spec((Edit(Feature(n), 3.0, unit="raw"),)) for n in numbers}
    chance = np.random.default_rng(5)
    concepts = [set(chance.integers(2, 400, 5).tolist()) for _ in range(20)]
    found = [
        [np.mean(metrics.concept_probability(told.logits_TV, c)) for c in concepts]
        for _, told in setting.replay.read(specs, library)
    ]
    values = np.array(found)  # direction, concept
    flags = [
        standing(values[own, c], np.delete(values[group, c], place).tolist()).selective
        for c in range(len(concepts))
        for group in np.arange(len(numbers)).reshape(2, 20)
        for place, own in enumerate(group)
    ]
    assert len(flags) == 800
    assert 0 < np.mean(flags) <= 0.05


def test_without_texts_of_controls_only_probabilities_have_a_standing(setting: Setting) -> None:
    from dataclasses import replace

    quick = replace(setting, control_texts=False, strengths=8)
    found = claim(quick, PLANTED, CONCEPT, list(range(30, 49)), JobControl())
    assert found.standings["probability"].controls == 19
    assert found.standings["share"].p is found.standings["reread"].p is None
    assert not found.holds("share")
    assert found.means is found.prompted is None


def test_shares_are_of_the_greedy_text_and_of_the_samples(setting: Setting) -> None:
    from dataclasses import replace

    from mistudio.ml.steering.generate import Continuation, Row, generate
    from mistudio.ml.steering.sampling import SamplingSettings
    from mistudio.ml.steering.steered_model import SteeredModel

    asked = replace(setting, samples=3, seed=5, strengths=8)
    many = set(range(0, 300, 2))  # so that some texts have some
    found = claim(asked, PLANTED, many, [30, 31], JobControl())
    assert found.steered is not None
    assert found.strength is not None
    rows = (Row(0, "a", 0, greedy=True), *(Row(0, "a", number) for number in range(3)))
    edits = {"a": Spec((Edit(Feature(PLANTED), found.strength, unit="raw"),))}
    request = Continuation((PROMPT,), rows, 8, SamplingSettings(temperature=0.7, seed=5))
    with SteeredModel(setting.loaded, edits, Library({"": setting.placed})) as model:
        alone = generate(model, request, JobControl())
    assert (found.steered.text, *found.steered.samples) == tuple(alone.texts)
    assert len(set(alone.texts)) > 2
    shares = [sum(token in many for token in ids) / len(ids) for ids in alone.ids]
    assert found.steered.share == pytest.approx(np.mean(shares))
    assert len(set(shares)) > 1
    values = [
        reread(setting.loaded, setting.placed.sae, LAST, "resid_post", [PLANTED], PROMPT.ids, ids)
        for ids in alone.ids
    ]
    assert found.steered.reread == pytest.approx(np.mean([v[0] for v in values if v]), rel=1e-4)
    assert found.baseline is not None
    assert found.baseline.samples != found.steered.samples
    assert all(len(shown.samples) == 3 for shown in found.controls.values())


def test_a_target_out_of_reach_gives_no_claim(setting: Setting) -> None:
    from dataclasses import replace

    found = claim(replace(setting, target_kl=400.0), PLANTED, CONCEPT, [1], JobControl())
    assert found.strength is found.steered is None
    assert not found.holds()
    assert not found.is_visible
    assert "not reached" in found.calibration.problem


def test_tokens_of_words_whatever_their_form_case_and_space() -> None:
    texts = ["cat", " Cat", " cats", " ", "  ", "\n", "dog", "category", " running", "ran"]
    assert matching_tokens(texts, ["CAT"]) == [0, 1, 2]
    assert matching_tokens(texts, ["runs"]) == [8]
    assert matching_tokens(texts, [" "]) == [3]
    assert matching_tokens(texts, ["dog ", ""]) == [6]


def test_a_preview_equals_a_pass_of_its_own(llama: LoadedModel, setting: Setting) -> None:
    session = PreviewSession()
    library = Library({"": setting.placed})
    specs = [Spec((Edit(Feature(n), 2.0, unit="raw"),)) for n in (PLANTED, 11)]
    shown = [session.show(llama, PROMPT, spec, library) for spec in specs]
    for spec, found in zip(specs, shown, strict=True):

        def edit(_m: object, _i: object, output: object, spec: Spec = spec) -> object:
            change_D = 2.0 * setting.placed.sae.W_dec_FO[spec.edits[0].feature]
            return (
                (output[0] + change_D, *output[1:])
                if isinstance(output, tuple)
                else (output + change_D)
            )

        rows = []
        for steered in (False, True):
            handle = None
            if steered:
                handle = llama.blocks.modules[LAST].register_forward_hook(edit)
            with torch.inference_mode():
                logits_V = llama.model(torch.tensor([PROMPT.ids]), use_cache=False).logits[0, -1]
            rows.append(logits_V.double().softmax(0).numpy())
            if handle is not None:
                handle.remove()
        base, own = rows
        assert found.kl == pytest.approx((own * np.log(own / base)).sum(), rel=1e-3)
        assert found.reverse == pytest.approx((base * np.log(base / own)).sum(), rel=1e-3)
        assert [c.token_id for c in found.steered] == np.argsort(-own)[:10].tolist()
        assert [c.probability for c in found.baseline] == pytest.approx(
            np.sort(base)[::-1][:10].tolist(), rel=1e-4
        )
        expected = np.argsort(-abs(own - base))[:10].tolist()
        assert [m.token_id for m in found.movers] == expected
        assert (found.acted, found.positions) == (5, 5)
    other = session.show(llama, Prompt((9, 8, 7)), specs[0], library)
    assert other.positions == 3
    assert other.kl != shown[0].kl
    session.forget()


def test_a_value_given_as_a_divergence_is_resolved(setting: Setting) -> None:
    library = Library({"": setting.placed})
    spec = Spec((Edit(Feature(11), 0.2, unit="kl"), Edit(Feature(12), 1.0, unit="raw")))
    found, calibrations = resolve_kl(setting.replay, spec, library)
    assert calibrations[0].within
    assert found.edits[0].resolved == calibrations[0].strength
    assert found.edits[1] == spec.edits[1]
    alone = Spec((Edit(Feature(11), calibrations[0].strength or 0.0, unit="raw"),))
    ((_, told),) = setting.replay.read({"a": alone}, library)
    kl = float(metrics.divergences(told.base_TV, told.logits_TV).kl_T.mean())
    assert kl == pytest.approx(0.2, rel=0.2)
