"""The Features tab: what the latents of an SAE fire on."""

from __future__ import annotations

from mistudio.gui.tabs.features.tab import FeaturesTab

__all__ = ["FeaturesTab"]
