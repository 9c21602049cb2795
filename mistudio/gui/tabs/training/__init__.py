"""The Training tab: runs and the SAE library."""

from __future__ import annotations

from mistudio.gui.tabs.training.tab import TrainingTab

__all__ = ["TrainingTab"]
