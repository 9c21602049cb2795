"""The plan against what was measured: `pytest -m heavy -s`.

Memory against the peak of whole processes, time against the seconds that a processor worked.

Each configuration trains in a process of its own: the real loop, random activations, checkpoints,
the folded SAE. The peak is the resident memory's high-water mark; what the libraries took before is
measured there too, as a plan made in that process would have seen it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mistudio.core.config import from_dict, to_dict
from mistudio.core.training_configs import TrainConfig
from mistudio.jobs import sample
from mistudio.jobs.probe_training import rates_of
from mistudio.jobs.training_plan import plan_training
from mistudio.ml.training import plan_formulas, probe
from mistudio.ml.training.plan import memory_items
from mistudio.ml.training.plan_formulas import ModelNeeds, Room
from tests.helpers.studio import new_studio, run

pytestmark = pytest.mark.heavy

WITHIN = 0.10
WITHIN_TIME = 0.25
BASE = TrainConfig(model="m", dataset="d", width=8192, batch=2048, dead_window=10_000_000)
CASES: list[tuple[int, dict[str, Any]]] = [
    (576, {"architecture": "topk"}),
    (576, {"architecture": "topk", "width": 24_576}),
    (1024, {"architecture": "topk", "batch": 4096}),
    (256, {"architecture": "topk", "width": 65_536, "batch": 1024}),
    (576, {"architecture": "topk", "precision": "bf16"}),
    (576, {"architecture": "topk", "eight_bit_moments": True, "width": 16_384}),
    (576, {"architecture": "topk", "optimizer": "sgd", "width": 16_384}),
    (576, {}),
    (576, {"width": 1024}),
    (576, {"batch": 8192}),
    (1024, {"width": 4096, "k": 64}),
    (2048, {"width": 8192, "batch": 1024}),
    (576, {"eight_bit_moments": True, "width": 24_576}),
    (576, {"architecture": "matryoshka_batch_topk"}),
    (1024, {"architecture": "matryoshka_batch_topk", "width": 16_384}),
    (576, {"architecture": "standard"}),
    (1024, {"architecture": "standard", "width": 16_384, "batch": 1024}),
    (576, {"architecture": "standard", "ghost": False, "batch": 512}),
    (576, {"architecture": "gated"}),
    (1024, {"architecture": "gated", "width": 4096}),
    (576, {"architecture": "jumprelu"}),
    (1024, {"architecture": "jumprelu", "width": 4096, "ghost": False}),
]
WORKER = """
import json, sys, tempfile
from pathlib import Path
import torch
import transformers
from mistudio.core.config import from_dict
from mistudio.core.control import JobControl
from mistudio.core.events import SilentReporter
from mistudio.core.training_configs import TrainConfig
from mistudio.ml.training import learner, loop, run_state
from mistudio.ml.training.probe import _status
torch.set_num_threads(1)
d, share = int(sys.argv[1]), float(sys.argv[2])
config = from_dict(TrainConfig, json.loads(sys.argv[3]))

class Statistics:
    scale, mean_D, variance = 1.0, torch.zeros(d), float(d)

class Stream:
    generator = torch.Generator().manual_seed(0)
    def __iter__(self): return self
    def __next__(self): return torch.randn(config.batch, d, generator=self.generator)
    def state(self): return {}
    def restore(self, state): pass

class Dying(run_state.RunState):
    # as many dead or rare latents as the plan allows for, from the third step on
    def extra(self):
        if self.step == 2:
            count = int(share * config.width)
            self.tracker.tokens_since_F[:count] = 10**12
            self.rates._seen = 10**12
            self.rates._now_F[:count] = 0
            # few latents fire from here on, though not so few that it is cheap
            near = -2.4 if config.architecture == "jumprelu" else -1.36
            for name in ("b_enc_F", "b_gate_F"):
                if name in self.sae.parameters and not self.sae.uses_k:
                    self.sae.parameters[name].fill_(near)
        return super().extra()

learner.RunState = Dying
made = torch.randn(512, 512); (made @ made).topk(3); torch.optim.Adam([made], fused=True)
before = _status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
with tempfile.TemporaryDirectory(dir=sys.argv[4]) as folder:
    # few: far more of random values than of real ones are looked at for a threshold
    calibration = lambda: iter([torch.randn(512, d)])
    loop.train(config, Stream(), Statistics, Path(folder), SilentReporter(), JobControl(),
               calibration=calibration)
print(json.dumps({"before": before, "peak": _status("VmHWM")}))
"""


def measured(d: int, config: TrainConfig, folder: Path) -> dict[str, int]:
    share = str(plan_formulas.PLANNED_DEAD)
    command = [
        sys.executable,
        "-c",
        WORKER,
        str(d),
        share,
        json.dumps(to_dict(config)),
        str(folder),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="resets the high-water mark through /proc")
def test_the_planned_peak_is_the_measured_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_formulas, "CALIBRATION_TOKENS", 512)  # as many as the worker offers
    off: list[str] = []
    no_model = ModelNeeds("none", 0, 0, 1, 1, 1)
    for d, values in CASES:
        config = from_dict(TrainConfig, {**to_dict(BASE), **values})
        config = replace(config, tokens=config.batch * 5)
        found = measured(d, config, tmp_path)
        room = Room("cpu", 10**12, 10**12, 10**12)
        items = memory_items([config], no_model, room, 1, d, forward=1)
        own = sum(item.bytes for item in items)
        planned = found["before"] + own
        error = planned / found["peak"] - 1
        line = (
            f"{config.architecture:22} d {d:5} m {config.width:6} N {config.batch:5} "
            f"planned {planned / 1e6:6.0f} MB (own {own / 1e6:5.0f}), measured "
            f"{found['peak'] / 1e6:6.0f} MB: {100 * error:+.1f} %"
        )
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        if abs(error) > WITHIN:
            off.append(line)
    assert off == []


TIMED: list[dict[str, Any]] = [
    {},
    {"architecture": "topk", "width": 3072},
    {"eval_every": 5},
    {"architecture": "matryoshka_batch_topk", "checkpoint_every": 20},
    {"architecture": "standard"},
    {"architecture": "jumprelu"},
]
SLOWER_AT_FIRST = ("standard", "jumprelu")  # a probe sees them with as many active as at the start


def test_the_planned_seconds_are_the_measured_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seconds of the processor, as another program may use the machine meanwhile."""
    of_process = types.SimpleNamespace(perf_counter=time.process_time)
    monkeypatch.setattr(probe, "time", of_process)
    studio = new_studio(tmp_path)
    off: list[str] = []
    try:
        studio.models.threads = 1
        sample.ensure(studio)
        base = TrainConfig(
            model="sample",
            dataset="sample",
            layer=2,
            width=1536,
            tokens=60 * 2048,
            batch=2048,
            window=32_768,
            eval_tokens=16_384,
        )
        for values in TIMED:
            config = replace(base, **values)
            rates = rates_of(run(studio, "probe_training", config))
            planned = plan_training(studio, [config], rates).seconds
            began = time.process_time()
            run(studio, "train", config)
            taken = time.process_time() - began
            told = ", ".join(f"{name} {value}" for name, value in values.items()) or "as it is"
            line = f"{told:50} planned {planned:6.1f} s, measured {taken:6.1f} s: "
            line += f"{planned / taken:.2f}"
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
            most = 3.0 if config.architecture in SLOWER_AT_FIRST else 1 + WITHIN_TIME
            if not 1 - WITHIN_TIME <= planned / taken <= most:
                off.append(line)
    finally:
        studio.close()
    assert off == []
