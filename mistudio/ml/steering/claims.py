"""Whether steering a feature does what its label says, beside controls that make it a claim.

The label names tokens. The strength gives a wanted KL on the calibration text, whatever the
feature. Measured on the continuation are the probability of the label's tokens (every variant reads
the same text), and, in texts of each variant's own (a greedy one, and samples if they are asked
for), their share and how strongly the feature fires when the unsteered model reads them. The same
is done to random features of like density with changes of the same length at the same tokens, to
the difference of means at that length, and to the unsteered model with the label's words in its
prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from mistudio.core.control import JobControl
from mistudio.core.steering_spec import Direction, Edit, Feature, Spec
from mistudio.core.word_stems import stem
from mistudio.ml.features.controls import Standing, standing
from mistudio.ml.loading import LoadedModel
from mistudio.ml.steering import metrics
from mistudio.ml.steering.dose_response import STRENGTHS, Calibration, strength_for_kl
from mistudio.ml.steering.generate import Continuation, Generated, Row, generate
from mistudio.ml.steering.operators import BASELINE
from mistudio.ml.steering.prompts import Prompt
from mistudio.ml.steering.replay import Replay
from mistudio.ml.steering.rereading import reread_texts
from mistudio.ml.steering.sampling import SamplingSettings
from mistudio.ml.steering.sources import Library, PlacedSae, Vector
from mistudio.ml.steering.steered_model import SteeredModel

STEERED, MEANS, PROMPTED = "steered", "difference of means", "prompt only"
MEASURES = ("probability", "share", "reread")
ROWS = 32  # texts that are written together
TEMPERATURE = 0.7  # of the samples; all variants see the same noise
READING = 0.3  # share of the work that reading takes, for the progress bar


class Shown(NamedTuple):
    """What one variant does; `kl` and `ratio` (|Δ| / |x|) are None where it is not steered.

    `probability`: mean over the continuation that the next token is one of the label's. `share`:
    of the label's tokens in its texts. Both None without such tokens. `reread`: mean activation of
    the feature (of several, their mean) over these texts as the unsteered model reads them; share
    and re-read are None without a text. `kl`: mean over the continuation, on the same tokens.
    `text`: the greedy one. `loops`: whether most of the texts are loops. `repeat`: share of a text
    that its longest repeated n-gram takes, on average; `repeats`: whether that is warned of in
    most of them.
    """

    probability: float | None
    share: float | None
    reread: float | None
    kl: float | None
    ratio: float | None
    text: str = ""
    loops: bool = False
    repeat: float | None = None
    repeats: bool = False
    samples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Claim:
    """One feature's steering and its controls; empty of texts if the target KL is not reached.

    `strength` is the feature's, `length` that of every change. `standings` say for each measure
    where the feature stands among the random ones. `controls` by feature number.
    """

    feature: int
    strength: float | None
    length: float | None
    calibration: Calibration
    baseline: Shown | None = None
    steered: Shown | None = None
    means: Shown | None = None
    prompted: Shown | None = None
    controls: Mapping[int, Shown] = field(default_factory=dict[int, Shown])
    standings: Mapping[str, Standing] = field(default_factory=dict[str, Standing])

    def holds(self, measure: str = "probability") -> bool:
        """Whether steering raises the measure, and more than at least 95 % of the controls."""
        if self.baseline is None or self.steered is None:
            return False
        before, after = getattr(self.baseline, measure), getattr(self.steered, measure)
        rises = before is not None and after is not None and after > before
        return rises and self.standings[measure].selective

    @property
    def is_visible(self) -> bool:
        """Whether its texts have more of the label's tokens, and most of them are no loops."""
        if self.baseline is None or self.steered is None or self.steered.loops:
            return False
        return (self.steered.share or 0.0) > (self.baseline.share or 0.0)


@dataclass(frozen=True)
class Setting:
    """What the claims of a run share: the text, the SAE's place, how far and how long."""

    replay: Replay
    placed: PlacedSae
    target_kl: float
    scale: float  # strength of a unit direction at which |Δ| is the median norm
    max_tokens: int = 40
    strengths: int = STRENGTHS  # of the calibration
    control_texts: bool = True  # whether random features write texts too, which takes longest
    samples: int = 0  # texts of each variant beside the greedy one
    seed: int = 0  # of the samples

    @property
    def loaded(self) -> LoadedModel:
        return self.replay.loaded


def claim(
    setting: Setting,
    feature: int,
    concept: Collection[int],
    controls: Sequence[int],
    control: JobControl,
    *,
    means_D: torch.Tensor | None = None,
    prompted: Prompt | None = None,
) -> Claim:
    """Steer one feature and its controls.

    `concept` are the ids of the label's tokens, `means_D` the difference of means, `prompted` the
    prompt with the label's words. Raises as `Replay.read` and `generate`.
    """
    norms_F = setting.placed.sae.W_dec_FO.float().norm(dim=1)
    library = Library({"": setting.placed})

    def add(number: int, length: float) -> Spec:
        return Spec((Edit(Feature(number), length / float(norms_F[number]), unit="raw"),))

    found = strength_for_kl(
        setting.replay,
        setting.target_kl,
        setting.scale,
        lambda length: add(feature, length),
        library,
        control.check,
        strengths=setting.strengths,
    )
    if found.strength is None:
        return Claim(feature, None, None, found)
    length = found.strength
    specs = {STEERED: add(feature, length), **{str(n): add(n, length) for n in controls}}
    if means_D is not None:
        place = setting.placed.place
        library = Library({"": setting.placed}, {MEANS: Vector(means_D, *place)})
        value = length / float(means_D.float().norm())
        specs[MEANS] = Spec((Edit(Direction(MEANS), value, unit="raw"),))
    shown = measure(setting, [feature], concept, specs, library, prompted, control)
    numbers = {n: shown[str(n)] for n in controls}
    return Claim(
        feature,
        length / float(norms_F[feature]),
        length,
        found,
        shown[BASELINE],
        shown[STEERED],
        shown.get(MEANS),
        shown.get(PROMPTED),
        numbers,
        {name: _standing(name, shown[STEERED], list(numbers.values())) for name in MEASURES},
    )


def measure(
    setting: Setting,
    features: Sequence[int],
    concept: Collection[int],
    specs: Mapping[str, Spec],
    library: Library,
    prompted: Prompt | None,
    control: JobControl,
    told: Callable[[float], None] = lambda _share: None,
) -> dict[str, Shown]:
    """Every variant's figures, the baseline's and those of the prompt among them.

    `specs` are the steered one's, and by their names the difference of means' and the controls'.
    Texts are written some rows at a time; `told` hears how much is done. Raises as `Replay.read`
    and `generate`.
    """
    replay, loaded = setting.replay, setting.loaded
    count = len(replay.ids) - len(replay.prompt.ids) + 1
    chances: dict[str, float | None] = {}
    kls: dict[str, float | None] = {BASELINE: None, PROMPTED: None}
    ratios: dict[str, float | None] = {BASELINE: None, PROMPTED: None}
    for number, (name, read) in enumerate(
        replay.read(specs, library, last=count, check=control.check)
    ):
        if not chances:
            chances[BASELINE] = _chance(read.base_TV, concept)
        chances[name] = _chance(read.logits_TV, concept)
        kls[name] = float(metrics.divergences(read.base_TV, read.logits_TV).kl_T.mean())
        changed_S = read.ratio_S[read.ratio_S != 0]
        told(READING * number / len(specs))
        ratios[name] = float(changed_S.mean()) if len(changed_S) else None
    unwritten = set() if setting.control_texts else set(specs) - {STEERED, MEANS}
    names = [name for name in (BASELINE, *specs) if name not in unwritten]
    if prompted is not None:
        asked = Replay(loaded, prompted, replay.ids[len(replay.prompt.ids) :])
        chances[PROMPTED] = _chance(asked.base_SV[-count:], concept)
        names.append(PROMPTED)
    found: dict[str, Shown] = {}
    each = 1 + setting.samples
    together = max(1, ROWS // each)
    for low in range(0, len(names), together):
        told(READING + (1 - READING) * low / len(names))
        part = names[low : low + together]
        texts = _write(setting, part, specs, library, prompted, control)
        placed = setting.placed
        hook = placed.hook_in or placed.hook
        values = reread_texts(
            loaded, placed.sae, placed.layer, hook, features, replay.prompt.ids, texts.ids
        )
        for number, name in enumerate(part):
            rows = slice(number * each, (number + 1) * each)
            found[name] = _shown(
                (chances[name], kls[name], ratios[name]),
                texts.ids[rows],
                texts.texts[rows],
                values[rows],
                concept,
            )
    silent = {name: Shown(chances[name], None, None, kls[name], ratios[name]) for name in unwritten}
    return {**found, **silent}


def _shown(
    read: tuple[float | None, float | None, float | None],
    ids: Sequence[Sequence[int]],
    texts: Sequence[str],
    values: Sequence[Sequence[float] | None],
    concept: Collection[int],
) -> Shown:
    """One variant's figures: chance, KL and ratio of what it read, the rest of its own texts."""
    chance, kl, ratio = read
    written = [one for one in ids if one]
    shares = [metrics.concept_share(one, concept) or 0.0 for one in written] if concept else []
    activations = [value for one in values for value in one or ()]
    repeats = [metrics.repeat_share(one) or 0.0 for one in written]
    return Shown(
        chance,
        metrics.mean(shares),
        metrics.mean(activations),
        kl,
        ratio,
        texts[0],
        _most([metrics.loops(one) for one in ids]),
        metrics.mean(repeats),
        _most([metrics.repeats(one) for one in ids]),
        tuple(texts[1:]),
    )


def _most(found: Sequence[bool]) -> bool:
    return 2 * sum(found) > len(found)


def _write(
    setting: Setting,
    names: Sequence[str],
    specs: Mapping[str, Spec],
    library: Library,
    prompted: Prompt | None,
    control: JobControl,
) -> Generated:
    """A greedy text and the samples of each of these variants in turn, in one batch."""
    prompts = [setting.replay.prompt, *([prompted] if prompted is not None else [])]
    rows = list[Row]()
    for name in names:
        prompt, variant = (1, BASELINE) if name == PROMPTED else (0, name)
        rows.append(Row(prompt, variant, 0, True))
        rows += [Row(prompt, variant, number) for number in range(setting.samples)]
    temperature = TEMPERATURE if setting.samples else 0.0
    request = Continuation(
        tuple(prompts),
        tuple(rows),
        setting.max_tokens,
        SamplingSettings(temperature=temperature, seed=setting.seed),
    )
    steered = {name: specs[name] for name in names if name in specs}
    with SteeredModel(setting.loaded, steered, library) as model:
        return generate(model, request, control)


def _standing(measure: str, own: Shown, others: Sequence[Shown]) -> Standing:
    """Where a feature stands; no standing where it or its controls were not measured."""
    value = getattr(own, measure)
    found = [getattr(other, measure) for other in others]
    known = [other for other in found if other is not None]
    return standing(value, known if value is not None else [])


def _chance(logits_TV: torch.Tensor, concept: Collection[int]) -> float | None:
    if not concept:
        return None
    return metrics.mean(metrics.concept_probability(logits_TV, concept)) or 0.0


def matching_tokens(texts: Sequence[str], words: Collection[str]) -> list[int]:
    """Ids of tokens that are a form of one of these words, as `stem` has it.

    Case and a space before a token do not matter; what is no word is looked for as it is.
    """
    wanted = {_plain(word) for word in words} - {""}
    return [index for index, text in enumerate(texts) if _plain(text) in wanted]


def _plain(text: str) -> str:
    return stem(text.strip()) if text.strip() else text
