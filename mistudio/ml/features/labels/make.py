"""Labels without a language model for all features, each with a rule and its held-out score."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.ml.features.arrays import open_array
from mistudio.ml.features.labels import profile, rules, words
from mistudio.ml.features.labels.auroc import Score, auroc, judge
from mistudio.ml.features.labels.clusters import (
    NOBODY,
    PARTNERS,
    JudgedStrings,
    RowFeatures,
    open_rows,
    partners,
    shared_by,
)
from mistudio.ml.features.labels.corpus import FIT, SCORE, Corpus, read_corpus
from mistudio.ml.features.labels.draw import RANDOM, Active, draw, draw_active
from mistudio.ml.features.labels.promotes import Promoted, lens_rules, set_rules
from mistudio.ml.features.labels.rules import NEXT, PREVIOUS, TOKEN, Groups, Heavy, Rules
from mistudio.ml.features.labels.strings import CLASSES, NO_STRING, Strings, strings_of

WORKERS = max(1, min(4, (os.cpu_count() or 2)))  # threads; most of the work is without the GIL
BLOCK = 128  # features at a time: bounds memory, and keeps the tables near the processor
AROUND_FACTOR = 1.5  # words of the whole window must tell this many times more
MARGIN = 0.1  # a graded rule is chosen before a predicate if it fits better by more than this


class RuleLabel(NamedTuple):
    """A label of one feature. `scores` are plain JSON values: `auroc` is None where there are too
    few held-out positives; `chosen` marks one label of each feature."""

    feature: int
    method: str
    text: str
    scores: dict[str, Any]
    chosen: bool


class _Candidate(NamedTuple):
    """Labels of one method for a block: texts ("" for none), the fit's AUROC, the score."""

    method: str
    texts: list[str]
    fit_F: NDArray[np.float64]
    score: Score


def label_features(
    folder: Path,
    row_length: int,
    kept_tokens: int,
    vocabulary: Sequence[str],
    *,
    strings: Strings | None = None,
    seed: int = 0,
    neighbours_FM: NDArray[np.int32] | None = None,
    promoted: Promoted | None = None,
    clusters: bool = False,
    check: Callable[[float], None] = lambda _done: None,
    block: int = BLOCK,
) -> list[RuleLabel]:
    """Rule labels of every feature of a finished store that fires, by feature.

    `neighbours_FM`: the nearest decoder directions, for hard negatives; `promoted`: classes that
    directions promote; `clusters`: also labels from words that neighbours share. `check` is called
    with the share done and may raise. Raises `Damaged`.
    """
    strings = strings or strings_of(vocabulary)
    corpus = read_corpus(folder, row_length, strings, seed)
    maker = _Maker(
        folder, corpus, kept_tokens, list(vocabulary), seed, neighbours_FM, promoted, block
    )
    if clusters:
        maker.rows = open_rows(folder)
    if maker.rows is None:
        return _of_blocks(maker, block, check)
    with JudgedStrings(corpus.n_features) as maker.judged:
        return _of_blocks(maker, block, check)


def _of_blocks(maker: _Maker, block: int, check: Callable[[float], None]) -> list[RuleLabel]:
    """The labels of all blocks, some at a time."""
    clusters, features = maker.judged is not None, maker.corpus.n_features
    share = 0.9 if clusters else 1.0
    found: list[RuleLabel] = []
    starts = range(0, features, block)
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="labels") as pool:
        blocks = [pool.submit(maker.block, s, min(s + block, features)) for s in starts]
        try:
            for start, made in zip(starts, blocks, strict=True):
                check(share * start / features)
                found += made.result()
            if clusters:
                found = _with_clusters(found, maker, pool, block, check)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return found


def _with_clusters(
    found: list[RuleLabel],
    maker: _Maker,
    pool: ThreadPoolExecutor,
    block: int,
    check: Callable[[float], None],
) -> list[RuleLabel]:
    """The labels with those from shared words among them, by feature; one that fits better than the
    chosen one takes its place."""
    wanted = maker.shared()
    features = maker.corpus.n_features
    starts = sorted({feature // block * block for feature in wanted})
    blocks = [pool.submit(maker.cluster_block, s, min(s + block, features), wanted) for s in starts]
    made: dict[int, RuleLabel] = {}
    for start, each in zip(starts, blocks, strict=True):
        check(0.9 + 0.1 * start / features)
        made |= {label.feature: label for label in each.result()}
    out: list[RuleLabel] = []
    best = {label.feature: label for label in found if label.chosen}
    better = {f for f, label in made.items() if _fit(label) > (_fit(best[f]) if f in best else -1)}
    for label in found:
        out.append(label._replace(chosen=label.chosen and label.feature not in better))
    out += [label._replace(chosen=feature in better) for feature, label in made.items()]
    return sorted(out, key=lambda label: label.feature)  # stable: methods keep their order


def _fit(label: RuleLabel) -> float:
    """How well a label fits, as it is chosen by."""
    return (label.scores["fit_auroc"] or 0.0) - (MARGIN if label.method == "words" else 0.0)


class _Maker:
    """What all blocks share."""

    def __init__(
        self,
        folder: Path,
        corpus: Corpus,
        kept_tokens: int,
        vocabulary: list[str],
        seed: int,
        neighbours_FM: NDArray[np.int32] | None,
        promoted: Promoted | None,
        block: int,
    ) -> None:
        self.corpus, self.seed, self.neighbours_FM = corpus, seed, neighbours_FM
        self.vocabulary, self.promoted = vocabulary, promoted
        self.density_F = np.diff(corpus.splits_F) / max(kept_tokens, 1)
        self.base = profile.base_of(corpus)
        self.class_rates = rules.class_rates(corpus)
        # one table for each thread at work
        self.profiles: SimpleQueue[profile.Profile] = SimpleQueue()
        for _ in range(WORKERS):
            self.profiles.put(profile.Profile(self.base, block))
        ids_T = open_array(folder / "ids.npy").reshape(-1)
        known_T = np.clip(ids_T, 0, len(vocabulary) - 1)
        self.word_T = words.whole_words(corpus.strings, vocabulary)[known_T] & corpus.kept_T
        self.shown = _surfaces(corpus.strings, known_T[corpus.kept_T], vocabulary)
        self.folder = folder
        self.rows: RowFeatures | None = None  # opened where words of neighbours are wanted
        self.judged: JudgedStrings | None = None
        self.partners_FP = np.full((corpus.n_features, PARTNERS), NOBODY, np.int32)
        # strings that stand at each feature's tokens
        self.words_FW = np.full((corpus.n_features, words.WORDS), NO_STRING, np.int32)

    def shared(self) -> dict[int, list[int]]:
        """The strings that neighbours of a feature share, of those features that have some."""
        groups_FN = self.partners_FP
        if self.neighbours_FM is not None:
            groups_FN = np.concatenate([self.neighbours_FM, groups_FN], axis=1)
        live_F = self.density_F > 0
        return shared_by(groups_FN, self.words_FW, self.base.strings[TOKEN], live_F)

    def cluster_block(self, low: int, high: int, wanted: dict[int, list[int]]) -> list[RuleLabel]:
        """Labels of features low..high-1 from the strings that their neighbours share."""
        assert self.judged is not None
        string_FT, texts = rules.no_rules(high - low).string_FT, [""] * (high - low)
        for feature in range(low, high):
            if words := wanted.get(feature):
                string_FT[feature - low, : len(words)] = words
                texts[feature - low] = f"cluster: {quoted([self.shown[s] for s in words])}"
        lines = np.flatnonzero([bool(text) for text in texts])
        values = self.judged.named(low + lines, string_FT[lines])
        density_F = self.density_F[low:high]
        return _chosen([_scored("cluster", texts, lines, values, density_F)], density_F > 0, low)

    def block(self, low: int, high: int) -> list[RuleLabel]:
        corpus, seed = self.corpus, self.seed
        fit, held = draw_active(corpus, low, high, seed)
        if not fit.token.size and not held.token.size:
            return []
        drawn = [
            draw(corpus, active, low, half, self.neighbours_FM, seed)
            for active, half in ((fit, FIT), (held, SCORE))
        ]
        asked = tuple(
            rules.look(corpus, part) for d in drawn for part in (d.positive_FP, d.negative_FQ)
        )
        stands = rules.look(corpus, fit.token)
        groups = [rules.group(fit, stands, slot) for slot in range(rules.SLOTS)]
        heaviest = [rules.heavy(each, rules.FEW) for each in groups]
        density_F = self.density_F[low:high]
        tables = self.profiles.get()
        graded = tables.scores(fit, stands.position, groups, asked)
        self.profiles.put(tables)
        fit_p, fit_q, held_p, held_q = graded
        at = profile.threshold(fit_p, fit_q)
        score = judge(held_p, held_q, RANDOM, at, density_F)
        texts = self._word_texts(fit, groups)
        candidates = [_Candidate("words", texts, auroc(fit_p, fit_q), score)]
        if self.rows is not None and self.judged is not None:
            counts_F = np.diff(self.corpus.splits_F)
            self.partners_FP[low:high] = partners(self.rows, fit, low, counts_F)
            heavy_FW = heaviest[TOKEN].string_FT[:, : words.WORDS]
            telling_FW = words.slot_words(groups[TOKEN], TOKEN, self.base).string_FW
            self.words_FW[low:high] = np.where(heavy_FW[:, :1] != NO_STRING, heavy_FW, telling_FW)
            self.judged.keep(low, [(part.strings[TOKEN], part.missing) for part in asked])
        for method, fitted, texts in self._predicates(fit, stands, heaviest, low, high):
            candidates.append(_judged(method, fitted, texts, asked, density_F))
        return _chosen(candidates, density_F > 0, low)

    def _predicates(
        self, fit: Active, stands: rules.Stands, heaviest: list[Heavy], low: int, high: int
    ) -> list[tuple[str, Rules, list[str]]]:
        found = []
        for method, slot in (("token", TOKEN), ("say", NEXT), ("after", PREVIOUS)):
            top = heaviest[slot]
            many_F = rules.few_strings(top)
            texts = [self._named(method, top, line, int(n)) for line, n in enumerate(many_F)]
            found.append((method, rules.predicate(slot, top, many_F), texts))
        classed = rules.class_rule(fit, stands, self.class_rates)
        found.append(("class", classed, _class_texts(classed)))
        lens = lens_rules(self.folder, self.corpus.strings, self.vocabulary, low, high)
        if lens is not None:
            found.append(("lens", *lens))
        if self.promoted is not None:
            found.append(("set", *set_rules(self.promoted, low, high)))
        return found

    def _named(self, method: str, top: Heavy, line: int, many: int) -> str:
        if not many:
            return ""
        named = quoted([self.shown[s] for s in top.string_FT[line, :many]])
        return f"token: {named}" if method == "token" else f"{method} {named}"

    def _word_texts(self, fit: Active, groups: list[Groups]) -> list[str]:
        kinds = [words.slot_words(groups[s], s, self.base) for s in (TOKEN, PREVIOUS, NEXT)]
        kinds.append(words.window_words(self.corpus, fit, self.word_T, self.base))
        told = [kind.told_F for kind in kinds]
        told[-1] = told[-1] / AROUND_FACTOR
        best_F = np.argmax(told, axis=0)
        texts = []
        for line, which in enumerate(best_F):
            named = [self.shown[s] for s in kinds[which].string_FW[line] if s != NO_STRING]
            if not named:
                texts.append("")
            elif which == 3:
                texts.append(f"about {', '.join(named)}")
            else:
                texts.append(("", "after ", "before ")[which] + quoted(named))
        return texts


def _judged(
    method: str,
    fitted: Rules,
    texts: list[str],
    asked: tuple[rules.Stands, ...],
    density_F: NDArray[np.float64],
) -> _Candidate:
    """Score a predicate of those features that have one."""
    lines = np.flatnonzero([bool(text) for text in texts])
    own = fitted.lines(lines)
    values = [rules.apply(own, part.lines(lines)) for part in asked]
    return _scored(method, texts, lines, values, density_F)


def _scored(
    method: str,
    texts: list[str],
    lines: NDArray[np.int64],
    values: Sequence[NDArray[np.float32]],
    density_F: NDArray[np.float64],
) -> _Candidate:
    """The score of what predicates of some lines give on tokens of both halves, each active, then
    inactive."""
    fit_p, fit_q, held_p, held_q = values
    half = np.full(len(lines), 0.5, np.float32)
    part = judge(held_p, held_q, RANDOM, half, density_F[lines])
    fit_F = _spread(auroc(fit_p, fit_q), lines, len(texts))
    return _Candidate(method, texts, fit_F, Score(*(_spread(p, lines, len(texts)) for p in part)))


def _spread(values: NDArray[Any], lines: NDArray[np.int64], size: int) -> NDArray[Any]:
    """Values of some lines among all of them."""
    missing = np.nan if values.dtype.kind == "f" else 0
    found = np.full(size, missing, values.dtype)
    found[lines] = values
    return found


def quoted(named: Sequence[str]) -> str:
    """`"a", "b"`."""
    return ", ".join(f'"{name}"' for name in named)


def _class_texts(classed: Rules) -> list[str]:
    return [
        "" if c < 0 else f"before {CLASSES[c]}" if slot == NEXT else CLASSES[c]
        for c, slot in zip(classed.class_F.tolist(), classed.slot_F.tolist(), strict=True)
    ]


def _surfaces(strings: Strings, ids: NDArray[np.integer], vocabulary: list[str]) -> list[str]:
    """How each string is shown: as its commonest token is written, without blanks around it."""
    counts_V = np.bincount(ids, minlength=len(vocabulary))
    shown = list(strings.texts)
    order = np.argsort(counts_V, kind="stable")
    for index in order[counts_V[order] > 0]:
        bare = vocabulary[index].strip()
        if bare:
            shown[strings.string_V[index]] = bare
    return shown


def _chosen(candidates: list[_Candidate], live_F: NDArray[np.bool_], low: int) -> list[RuleLabel]:
    """Labels of a block; the one that fits best is chosen, a graded one only by a `MARGIN`."""
    worth = [_worth(candidate) for candidate in candidates]
    told = [_scores(candidate) for candidate in candidates]
    found = []
    for line in np.flatnonzero(live_F).tolist():
        mine = [number for number, c in enumerate(candidates) if c.texts[line]]
        if not mine:
            continue
        best = max(mine, key=lambda number: worth[number][line])
        for number in mine:
            candidate = candidates[number]
            text, scores = candidate.texts[line][:512], told[number][line]
            found.append(
                RuleLabel(low + line, candidate.method, text, scores, chosen=number == best)
            )
    return found


def _worth(candidate: _Candidate) -> list[float]:
    """What each line's label is chosen by."""
    margin = MARGIN if candidate.method == "words" else 0.0
    return [(0.0 if fit != fit else fit) - margin for fit in candidate.fit_F.tolist()]  # NaN


_TOLD = ("auroc", "auroc_random", "auroc_hard", "true_rate", "false_rate", "precision", "fit_auroc")


def _scores(candidate: _Candidate) -> list[dict[str, Any]]:
    """Each line's scores as plain values; empty where there is no label."""
    score = candidate.score
    columns = [
        *(score.auroc_F, score.random_F, score.hard_F),
        *(score.true_rate_F, score.false_rate_F, score.precision_F, candidate.fit_F),
        *(score.positives_F, score.negatives_F),
    ]
    found: list[dict[str, Any]] = []
    lines = zip(*(column.tolist() for column in columns), strict=True)
    for text, (*numbers, positives, negatives) in zip(candidate.texts, lines, strict=True):
        if not text:
            found.append({})
            continue
        plain: dict[str, Any] = {
            name: round(value, 5) if value == value else None  # NaN is no score
            for name, value in zip(_TOLD, numbers, strict=True)
        }
        plain["positives"], plain["negatives"] = positives, negatives
        found.append(plain)
    return found
