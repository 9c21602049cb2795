"""The window that starts a run which goes on from a checkpoint of another one."""

from __future__ import annotations

from PySide6.QtWidgets import QWidget

from mistudio.core.training_configs import TrainConfig
from mistudio.gui.services import Services
from mistudio.gui.tabs.training.sae_forms import JobDialog

# what may differ from the run that is continued
FIELDS = (
    "tokens",
    "k",
    "target_l0",
    "name",
    "sparsity",
    "learning_rate",
    "warmup_steps",
    "decay_share",
    "k_anneal",
    "aux_k",
    "aux_weight",
    "ghost",
    "dead_window",
    "gradient_clip",
    "checkpoint_every",
    "metrics_every",
    "eval_every",
    "eval_tokens",
)


class ContinueDialog(JobDialog):
    """Length and settings of the new run; `config` names its checkpoint."""

    def __init__(self, services: Services, config: TrainConfig, name: str, parent: QWidget) -> None:
        step = int(config.continue_from.rpartition("@")[2])
        super().__init__(
            services,
            f"Continue {name}",
            "train",
            config,
            FIELDS,
            {},
            explanation=f"A new run goes on from step {step:,} with all of its state: weights, "
            "moments, counters and the place in the text. The length counts from the first run's "
            f"beginning; {step * config.batch:,} tokens are done.",
            action="Continue",
            icon="play",
            command="train",
            parent=parent,
        )

    def start(self) -> None:
        """Queue the run, and say that there is one more."""
        super().start()
        self._services.publisher.publish("trainings")
