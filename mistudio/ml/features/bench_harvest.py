"""Measures the harvest: against its own forward and encoding, and against a loop over features."""

from __future__ import annotations

import gc
import math
import statistics
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch

from mistudio.core.control import JobControl
from mistudio.core.events import SilentReporter
from mistudio.ml.activations.masking import keep_mask
from mistudio.ml.activations.multi_capture import HookPoint
from mistudio.ml.activations.pair_capture import PairCapture
from mistudio.ml.data.text import TextStore
from mistudio.ml.data.token_store import TokenStore
from mistudio.ml.features import harvest as pass_
from mistudio.ml.features.harvest import HarvestSettings, harvest
from mistudio.ml.features.rows import RowBlock, plan_rows, read_rows
from mistudio.ml.features.sampling import INTERVALS, PER_BIN
from mistudio.ml.features.synthetic_store import write_synthetic
from mistudio.ml.loading import LoadedModel
from mistudio.ml.sae.base import SparseAutoencoder

PEER_FEATURES = 512  # of which the loop over features is timed
PEER_BLOCK = 128  # features of one of its passes


class Clock(SilentReporter):
    """Notes when each phase of a harvest begins."""

    def __init__(self) -> None:
        self.began: dict[str, float] = {}

    def progress(
        self, fraction: float, phase: str, *, rate: str = "", eta_s: float | None = None
    ) -> None:
        self.began.setdefault(phase, time.monotonic())


class _Place(NamedTuple):
    """A model's hook and the text that is read there."""

    loaded: LoadedModel
    layer: int
    hook: str
    tokens: TokenStore
    text: TextStore


def random_sae(width: int, latents: int, k: int, seed: int = 0) -> SparseAutoencoder:
    """A TopK SAE of random unit directions: as much work as a trained one."""
    generator = torch.Generator().manual_seed(seed)
    W_dec_FO = torch.randn(latents, width, generator=generator)
    W_dec_FO /= W_dec_FO.norm(dim=1, keepdim=True)
    zeros = torch.zeros(latents), torch.zeros(width)
    return SparseAutoencoder(W_dec_FO.T.contiguous(), zeros[0], W_dec_FO, zeros[1], "topk", k=k)


def bench_harvest(
    loaded: LoadedModel,
    layer: int,
    hook: str,
    tokens: TokenStore,
    text: TextStore,
    latents: int,
    folder: Path,
    *,
    k: int = 32,
    rows: int = 256,
    rounds: int = 3,
) -> dict[str, Any]:
    """A harvest against bare forward passes and bare encoding of the same tiles, in turns.

    `pass_s` is the reading of the rows, with masks, files and checkpoint; `whole_s` has the
    sorting, the statistics, the hash and the lens as well, whose cost does not grow with the text
    alone. `of_floor` is (forward_s + encode_s) / pass_s. Then the loop over features, on as much
    text: one pass of 128 features at a time over kept activations, each encoding all latents, and
    a Python loop over features; timed on 512 features and extrapolated to all. It has no lens, so
    `loop_over_harvest` compares it with the harvest without its lens.
    """
    place = _Place(loaded, layer, hook, tokens, text)
    capture = PairCapture(loaded, layer, hook, hook)
    sae = random_sae(capture.d_in, latents, k).to(loaded.device)
    settings = HarvestSettings(context=tokens.context, rows=rows)
    plan = plan_rows(tokens.mask, settings.context, rows, 0)
    height = pass_.tile_height(loaded.device, plan.length, latents)
    tiles = [
        read_rows(tokens.ids, tokens.mask, plan.rows_R2[low : low + height], plan.length)
        for low in range(0, len(plan.rows_R2) // height * height, height)
    ]
    settings = HarvestSettings(context=settings.context, rows=len(tiles) * height)
    norm = float(capture(torch.from_numpy(tiles[0].ids_RS).long())[0].norm(dim=-1).median())
    sae = sae.with_metadata(median_norm=norm)  # a trained SAE brings it along
    names = ("forward", "encode", "pass", "lens", "whole")
    times: dict[str, list[float]] = {name: [] for name in names}
    kept: list[torch.Tensor] = []
    for number in range(rounds + 1):
        kept, forward_s = _forward(capture, [tile.ids_RS for tile in tiles])
        encode_s = _encode(sae, kept)
        pass_s, lens_s, whole_s = _harvest(place, sae, settings, folder / f"round-{number}")
        if number:  # the first warms up
            for name, value in zip(
                times, (forward_s, encode_s, pass_s, lens_s, whole_s), strict=True
            ):
                times[name].append(value)
    peer_s = _peer(sae, kept, [tile.mask_RS for tile in tiles])
    forward_s, encode_s, pass_s, lens_s, whole_s = map(statistics.median, times.values())
    count = len(tiles) * height * plan.length
    peer_all_s = forward_s + peer_s * math.ceil(latents / PEER_BLOCK) * PEER_BLOCK / PEER_FEATURES
    return {
        "measurement": "harvest",
        "model": loaded.facts.name,
        "layer": layer,
        "latents": latents,
        "k": k,
        "tokens": count,
        "rounds": rounds,
        "forward_s": round(forward_s, 3),
        "encode_s": round(encode_s, 3),
        "pass_s": round(pass_s, 3),
        "lens_s": round(lens_s, 3),
        "whole_s": round(whole_s, 3),
        "tokens_per_second": round(count / pass_s),
        "of_floor": round((forward_s + encode_s) / pass_s, 3),
        "of_floor_best": round(
            (min(times["forward"]) + min(times["encode"])) / min(times["pass"]), 3
        ),
        "loop_512_features_s": round(peer_s, 2),
        "loop_extrapolated_s": round(peer_all_s, 1),
        "loop_over_harvest": round(peer_all_s / (whole_s - lens_s), 1),
    }


def _encode(sae: SparseAutoencoder, kept: list[torch.Tensor]) -> float:
    began = time.monotonic()
    for x_TD in kept:
        sae.encode_sparse(x_TD)
    return time.monotonic() - began


@torch.inference_mode()
def _forward(capture: PairCapture, ids: list[Any]) -> tuple[list[torch.Tensor], float]:
    began = time.monotonic()
    found = [capture(torch.from_numpy(part).long())[0].flatten(0, 1) for part in ids]
    return found, time.monotonic() - began


def _harvest(
    place: _Place, sae: SparseAutoencoder, settings: HarvestSettings, folder: Path
) -> tuple[float, float, float]:
    """Seconds of the pass, of the lens and all that follows it, and of the whole harvest."""
    clock = Clock()
    began = time.monotonic()
    harvest(
        place.loaded, sae, place.layer, place.hook, place.tokens, place.text, settings, folder,
        clock, JobControl(),
    )  # fmt: skip
    ended = time.monotonic()
    pass_s = clock.began["Sorting by feature"] - began
    return pass_s, ended - clock.began["Logit lens"], ended - began


@torch.inference_mode()
def _peer(sae: SparseAutoencoder, kept: list[torch.Tensor], masks: list[Any]) -> float:
    """Seconds of the loop over features for the first `PEER_FEATURES`, without the forward pass."""
    began = time.monotonic()
    length = masks[0].shape[1]
    generator = torch.Generator().manual_seed(0)
    for first in range(0, min(PEER_FEATURES, sae.n_latents), PEER_BLOCK):
        parts = []
        for x_TD, mask_RS in zip(kept, masks, strict=True):
            keep = keep_mask(x_TD.view(*mask_RS.shape, -1), mask_RS, norm_limit=None).keep_BS
            f_TF = sae.encode(x_TD)[:, first : first + PEER_BLOCK]
            parts.append(f_TF * keep.view(-1, 1))
        block_TF = torch.cat(parts)
        for index in range(block_TF.shape[1]):
            _describe_one(block_TF[:, index].contiguous(), length, generator)
    return time.monotonic() - began


def _describe_one(a_T: torch.Tensor, length: int, generator: torch.Generator) -> list[np.ndarray]:
    """What such a loop makes of one feature: histogram, top rows, samples of five intervals."""
    active = a_T[a_T > 0]
    torch.histc(active, 50)
    best_R = a_T.view(-1, length).amax(1)
    top = torch.topk(best_R, min(20, best_R.numel())).indices
    windows = [a_T[int(row) * length : (int(row) + 1) * length].numpy() for row in top]
    highest = float(a_T.max())
    for low in range(INTERVALS):
        inside = (a_T > highest * low / INTERVALS) & (a_T <= highest * (low + 1) / INTERVALS)
        found = inside.nonzero().view(-1)
        chosen = found[torch.randperm(found.numel(), generator=generator)[:PER_BIN]]
        windows += [a_T[max(0, int(t) - 16) : int(t) + 17].numpy() for t in chosen]
    return windows


class AnonymousMemory:
    """The largest anonymous memory (RssAnon) of this process while it is open, in bytes."""

    def __init__(self) -> None:
        self.before = self.peak = anonymous_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, name="memory", daemon=True)

    def _look(self) -> None:
        while not self._done.wait(0.02):
            self.peak = max(self.peak, anonymous_bytes())

    def __enter__(self) -> AnonymousMemory:
        self._thread.start()
        return self

    def __exit__(self, *_raised: object) -> None:
        self._done.set()
        self._thread.join()
        self.peak = max(self.peak, anonymous_bytes())


def anonymous_bytes() -> int:
    """RssAnon of this process; where the system does not tell it, all that is resident."""
    try:
        for line in Path("/proc/self/status").read_text("ascii").splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return int(psutil.Process().memory_info().rss)


class MadeUpSource:
    """Random activations instead of a model's: the same for the same rows."""

    def __init__(self, width: int) -> None:
        self.name = self.path = "made-up activations"
        self.d_in, self.is_pair = width, False
        self.written = HookPoint(0, "resid_post")
        self.origin: list[object] = ["made up"]

    def usable(self, tokens: TokenStore, length: int) -> None:
        """All rows."""

    def __call__(self, block: RowBlock) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(int(block.rows_R2[0, 0]))
        x_RSD = torch.randn(*block.ids_RS.shape, self.d_in, generator=generator)
        return x_RSD, x_RSD


def bench_memory(
    loaded: LoadedModel,
    folder: Path,
    *,
    latents: int = 24_576,
    tokens: int = 3_145_728,
    k: int = 16,
    width: int = 8,
) -> dict[str, Any]:
    """Anonymous memory of a whole harvest of made-up activations on made-up text.

    The model gives only its vocabulary: there is no forward pass and, as its stream is wider than
    the activations, no lens. `before_mb` is what the process held already.
    """
    vocabulary = min(20_000, loaded.facts.vocab_size)
    made = write_synthetic(folder / "text", 64, tokens, 1.0, vocabulary=vocabulary)
    store, text = TokenStore(made.tokens), TextStore(made.text)
    sae = random_sae(width, latents, k)
    settings = HarvestSettings(context=store.context, rows=len(store))
    gc.collect()
    began = time.monotonic()
    with AnonymousMemory() as memory:
        facts = pass_.harvest_from(
            MadeUpSource(width), loaded, sae, store, text, settings, folder / "store",
            SilentReporter(), JobControl(),
        )  # fmt: skip
    return {
        "measurement": "harvest memory",
        "latents": latents,
        "tokens": facts.n_all,
        "entries": facts.entries,
        "before_mb": round(memory.before / 1e6),
        "peak_mb": round(memory.peak / 1e6),
        "seconds": round(time.monotonic() - began, 1),
    }
