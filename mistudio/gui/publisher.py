"""The one place where changes of stored objects are announced; each view decides whether to act."""

from __future__ import annotations

from PySide6.QtCore import QObject, Signal


class Publisher(QObject):
    """`changed(kind, id)`: an object of a kind was made, changed or removed; id "" means many.

    Kinds: datasets, tokenizations, models, trainings, checkpoints, saes, feature_sets, features,
    feature_lists, steering_runs, templates, jobs, settings.
    """

    changed = Signal(str, str)

    def publish(self, kind: str, object_id: str = "") -> None:
        """Announce a change; call in the window thread."""
        self.changed.emit(kind, object_id)
