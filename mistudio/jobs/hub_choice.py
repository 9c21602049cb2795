"""Which Hub the settings choose; apart from `hub_pages`, as the window needs no more to start."""

from __future__ import annotations

from mistudio.core.settings import Settings


def configure(settings: Settings) -> None:
    """Use the Hub of the settings; at the start, before any library that asks it is imported."""
    from mistudio.hub import setup

    setup.configure(settings.hub_address, settings.offline, settings.proxy)
