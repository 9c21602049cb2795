"""The native window."""

from __future__ import annotations

from mistudio.gui.plain_import import use_plain_import

use_plain_import()
