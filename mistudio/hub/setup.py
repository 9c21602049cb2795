"""Which Hub is asked and how: address, offline mode, proxy; told to the libraries as well."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

PUBLIC_HUB = "https://huggingface.co"
# what the user's own shell asked for before this program set anything
_OWN_ADDRESS = os.environ.get("HF_ENDPOINT", "")
_OWN_OFFLINE = os.environ.get("HF_HUB_OFFLINE", "")


@dataclass(frozen=True)
class HubSetup:
    """An address without a final slash, whether the network may be used, and a proxy or ""."""

    address: str = PUBLIC_HUB
    offline: bool = False
    proxy: str = ""


_current = HubSetup(
    (_OWN_ADDRESS or PUBLIC_HUB).rstrip("/"), _OWN_OFFLINE.upper() in ("1", "ON", "YES", "TRUE")
)


def configure(address: str = "", offline: bool = False, proxy: str = "") -> HubSetup:
    """Use this Hub from now on; an empty address takes HF_ENDPOINT, else the public Hub.

    Meant for the start of the program, before huggingface_hub is imported, since that library and
    datasets read the environment once; a later change reaches those already imported as well.
    """
    own_offline = _OWN_OFFLINE.upper() in ("1", "ON", "YES", "TRUE")
    chosen = (address.strip() or _OWN_ADDRESS or PUBLIC_HUB).rstrip("/")
    return use(HubSetup(chosen, offline or own_offline, proxy.strip()))


def use(setup: HubSetup) -> HubSetup:
    """Put a setup in force; returns it."""
    global _current
    _current = setup
    # The own protocol of large files neither resumes nor can be cancelled; plain HTTP does both.
    os.environ["HF_HUB_DISABLE_XET"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["HF_ENDPOINT"] = setup.address
    os.environ["HF_HUB_OFFLINE"] = "1" if setup.offline else "0"
    if setup.proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY"):
            os.environ[name] = os.environ[name.lower()] = setup.proxy
    _tell_imported(setup)
    return setup


def current() -> HubSetup:
    """The setup in force."""
    return _current


def endpoint() -> str:
    """The address of the Hub, without a final slash."""
    return _current.address


def is_offline() -> bool:
    """Whether the network must not be used."""
    return _current.offline


def cache_folder() -> Path:
    """The user's Hugging Face cache, where downloads live; it may not exist yet."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _tell_imported(setup: HubSetup) -> None:
    """Change what libraries read from the environment when they were imported."""
    constants: ModuleType | None = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        constants.__dict__.update(
            ENDPOINT=setup.address,
            HUGGINGFACE_CO_URL_TEMPLATE=setup.address + "/{repo_id}/resolve/{revision}/{filename}",
            HF_URL_HOSTS=constants.HF_URL_HOSTS | {urlsplit(setup.address).hostname or ""},
            HF_HUB_OFFLINE=setup.offline,
            HF_HUB_DISABLE_XET=True,
            HF_HUB_DISABLE_TELEMETRY=True,
        )
    client: ModuleType | None = sys.modules.get("huggingface_hub.utils._http")
    if client is not None:
        client.close_session()  # the next request makes a client that knows the proxy
    shared: ModuleType | None = sys.modules.get("huggingface_hub.hf_api")
    if shared is not None:
        shared.api.endpoint = setup.address
    rows: ModuleType | None = sys.modules.get("datasets.config")
    if rows is not None:
        rows.__dict__.update(
            HF_ENDPOINT=setup.address,
            HUB_DATASETS_URL=setup.address + "/datasets/{repo_id}/resolve/{revision}/{path}",
            HF_HUB_OFFLINE=setup.offline,
            HF_DATASETS_OFFLINE=setup.offline,
        )
