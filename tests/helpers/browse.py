"""Open an HTML file in a headless browser without a network; print what happened as JSON.

Run by a Python that has Qt WebEngine (PySide6-Addons): `python browse.py FILE [PICTURE THEME]`.
Printed: the requests made, console messages, and what the page's own script answers.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

ASK = """
(function () {
  const all = (what) => Array.from(document.querySelectorAll(what));
  const field = document.getElementById("search");
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  const shown = () => all("article").filter((a) => !a.hidden).length;
  window.answer = null;
  (async function () {
    const found = {articles: shown(), examples: all(".ex .tx").map((e) => e.textContent)};
    field.value = "#1"; field.dispatchEvent(new Event("input")); await wait(600);
    found.searched = shown();
    field.value = ""; field.dispatchEvent(new Event("input")); await wait(600);
    found.all = shown();
    const sort = document.getElementById("sort");
    sort.value = "density:down"; sort.dispatchEvent(new Event("change"));
    found.order = all("#index a").map((a) => Number(a.dataset.density));
    all("figure")[0].click(); found.table = all("figure table tr").length; all("figure")[0].click();
    for (const id of ["linear", "breaks", "theme"]) document.getElementById(id).click();
    found.classes = document.body.className; found.theme = document.documentElement.dataset.theme;
    for (const id of ["linear", "breaks", "theme"]) document.getElementById(id).click();
    window.answer = JSON.stringify(found);
  })();
})();
"""


def main() -> None:
    """Open the file, ask the page, print, leave."""
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    os.environ.setdefault("QTWEBENGINE_DISABLE_SANDBOX", "1")
    os.environ.setdefault(
        "QTWEBENGINE_CHROMIUM_FLAGS", "--disable-gpu --proxy-server=127.0.0.1:9 --no-pings"
    )
    from PySide6.QtCore import QTimer, QUrl
    from PySide6.QtWebEngineCore import (
        QWebEnginePage,
        QWebEngineProfile,
        QWebEngineUrlRequestInterceptor,
    )
    from PySide6.QtWebEngineWidgets import QWebEngineView
    from PySide6.QtWidgets import QApplication

    requests: list[str] = []
    said: list[str] = []

    class Interceptor(QWebEngineUrlRequestInterceptor):
        def interceptRequest(self, info: Any) -> None:
            requests.append(info.requestUrl().toString())

    class Page(QWebEnginePage):
        def javaScriptConsoleMessage(self, level: Any, text: str, line: int, source: str) -> None:
            said.append(f"{text} ({line})")

    app = QApplication(sys.argv[:1])
    profile = QWebEngineProfile()
    interceptor = Interceptor()
    profile.setUrlRequestInterceptor(interceptor)
    page = Page(profile, None)
    view = QWebEngineView()
    view.setPage(page)
    view.resize(1280, 900)
    view.show()
    picture = sys.argv[2] if len(sys.argv) > 2 else ""
    theme = sys.argv[3] if len(sys.argv) > 3 else "dark"

    def answered(answer: str | None) -> None:
        if not answer:
            QTimer.singleShot(200, poll)
            return
        found = {**json.loads(answer), "requests": requests, "console": said}
        sys.stdout.write(json.dumps(found) + "\n")
        if picture:
            page.runJavaScript(f"document.documentElement.dataset.theme = '{theme}'")
            page.runJavaScript(sys.argv[4] if len(sys.argv) > 4 else "0")
            QTimer.singleShot(1500, snap)
        else:
            app.quit()

    def snap() -> None:
        view.grab().save(picture)
        app.quit()

    def poll() -> None:
        page.runJavaScript("window.answer", answered)

    def loaded(ok: bool) -> None:
        page.runJavaScript(ASK)
        poll()

    page.loadFinished.connect(loaded)
    page.load(QUrl.fromLocalFile(os.path.abspath(sys.argv[1])))
    app.exec()
    view.deleteLater()
    page.deleteLater()


if __name__ == "__main__":
    main()
