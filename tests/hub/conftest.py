"""Short waits, and a way to download from the local Hub."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from mistudio.core.control import JobControl
from mistudio.core.events import RecordingReporter
from mistudio.hub.client import repo_facts
from mistudio.hub.download import Downloaded, DownloadPlan, download, plan_download
from mistudio.hub.transfer import Patience
from tests.helpers.local_hub import LocalHub

QUICK = Patience(silence_s=0.4, waits_s=(0.02, 0.04, 0.06), breath_s=0.0, disk_period_s=0.05)
SIZE = 3_000_000
WEIGHTS = random.Random(7).randbytes(SIZE)


@dataclass
class Download:
    """One download of acme/tiny, with everything it said."""

    hub: LocalHub
    patience: Patience = QUICK
    report: RecordingReporter = field(default_factory=RecordingReporter)
    control: JobControl = field(default_factory=JobControl)

    def plan(self, token: str | None = None) -> DownloadPlan:
        return plan_download(repo_facts("model", "acme/tiny", token=token))

    def run(self, token: str | None = None, hold: Callable[[], object] | None = None) -> Downloaded:
        plan = self.plan()
        return download(plan, token, self.report, self.control, patience=self.patience, hold=hold)

    @property
    def notes(self) -> str:
        said = [e.values["sentence"] for e in self.report.events if e.kind == "note"]
        return "\n".join(str(sentence) for sentence in said)

    @property
    def phases(self) -> list[str]:
        return [str(e.values["phase"]) for e in self.report.events if e.kind == "progress"]


@pytest.fixture
def tiny(hub: LocalHub) -> Download:
    """The repository acme/tiny: one small file, one of 3 MB."""
    hub.add("models", "acme/tiny", {"config.json": b'{"a": 1}', "model.safetensors": WEIGHTS})
    return Download(hub)
