"""The Datasets tab."""

from __future__ import annotations

from mistudio.gui.tabs.datasets.tab import DatasetsTab

__all__ = ["DatasetsTab"]
