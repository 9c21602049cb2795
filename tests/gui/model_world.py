"""What tests of the Models tab share: a tab over a running studio, rows, jobs that only answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pytestqt.qtbot import QtBot

from mistudio.gui.services import Services
from mistudio.gui.tabs.models import ModelsTab
from mistudio.jobs.context import JobContext, JobKind, Result
from mistudio.jobs.registry import JOB_KINDS
from mistudio.store.records import ModelRow
from mistudio.store.tables import JOBS, MODELS


def open_tab(qtbot: QtBot, services: Services) -> ModelsTab:
    """The tab as the window shows it, with its first list read."""
    services.lanes.start()
    made = ModelsTab(services)
    qtbot.addWidget(made)
    made.resize(1240, 560)
    made.show()
    settle(qtbot, services)
    return made


def settle(qtbot: QtBot, services: Services, until: Callable[[], bool] = lambda: True) -> None:
    """Wait until jobs and questions are done and a condition holds."""

    def done() -> bool:
        waiting = JOBS.select(services.studio.db(), "status IN ('queued', 'running')")
        idle = services.lanes.is_idle() and services.query.is_idle() and services.network.is_idle()
        return not waiting and idle and until()

    qtbot.waitUntil(done, timeout=20_000)
    qtbot.wait(80)
    qtbot.waitUntil(services.query.is_idle, timeout=5000)


def add_model(services: Services, **values: Any) -> ModelRow:
    """A model row without files."""
    return MODELS.insert(
        services.studio.db(),
        **{"name": "tiny", "origin": "folder", "path": "/nowhere", "status": "ready", **values},
    )


def answer_jobs(monkeypatch: pytest.MonkeyPatch, kind: str, result: Result) -> list[Any]:
    """Let jobs of a kind end at once with this result; returns the list of their configs."""
    asked: list[Any] = []
    old = JOB_KINDS[kind]

    def run(ctx: JobContext, config: Any) -> Result:
        asked.append(config)
        return result

    monkeypatch.setitem(
        JOB_KINDS, kind, JobKind(kind, old.lane, old.noun, old.config_class, run, None)
    )
    return asked
