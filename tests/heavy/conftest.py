"""What several heavy tests share."""

from __future__ import annotations

from tests.helpers.survivors import base, nursery  # noqa: F401
