"""The HTML report in a real headless browser without a network.

Needs a Python with Qt WebEngine: this one, or the one that `MISTUDIO_BROWSER_PYTHON` names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mistudio.jobs.feature_report import write_report
from mistudio.store.feature_export import Written
from tests.helpers import browse
from tests.helpers.odd_texts import odd_store

pytestmark = pytest.mark.heavy
PYTHON = os.environ.get("MISTUDIO_BROWSER_PYTHON", sys.executable)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, Any]:
    found = subprocess.run(
        [PYTHON, "-c", "import PySide6.QtWebEngineWidgets"], capture_output=True, check=False
    )
    if found.returncode:
        pytest.skip("no Python with Qt WebEngine; name one in MISTUDIO_BROWSER_PYTHON")
    folder = tmp_path_factory.mktemp("browser")
    store, _, _ = odd_store(folder)
    told = [(feature, Written(label="<b>odd</b>")) for feature in range(store.n_features)]
    path = folder / "report.html"
    write_report(path, "Odd", {}, store, told, examples=20, context=60)
    done = subprocess.run(
        [PYTHON, browse.__file__, str(path)],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1]), path, store


def test_no_request_and_no_error(seen: tuple[dict[str, Any], Path, Any]) -> None:
    found, path, _ = seen
    assert found["requests"] == [path.as_uri()]
    assert found["console"] == []


def test_text_is_the_original(seen: tuple[dict[str, Any], Path, Any]) -> None:
    found, _, store = seen
    expected = []
    for feature in range(store.n_features):
        lower = store.intervals(feature, before=60, after=60)[1:]
        expected += store.examples(feature, 20, before=60, after=60)
        expected += [example for part in lower for example in part.examples[:2]]
    assert found["examples"] == [e.text.replace("\0", "␀") for e in expected]


def test_search_sort_switches_and_tables_work(seen: tuple[dict[str, Any], Path, Any]) -> None:
    found, _, store = seen
    assert found["articles"] == found["all"] == store.n_features
    assert found["searched"] == 1
    assert found["order"] == sorted(found["order"], reverse=True)
    assert found["table"] > 0
    assert found["classes"] == "linear breaks"
    assert found["theme"] in ("light", "dark")
