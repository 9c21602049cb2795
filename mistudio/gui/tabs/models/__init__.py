"""The Models tab."""

from __future__ import annotations

from mistudio.gui.tabs.models.tab import ModelsTab

__all__ = ["ModelsTab"]
