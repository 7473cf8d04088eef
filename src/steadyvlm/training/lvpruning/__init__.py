"""Train the modules of LVPruning on a frozen model; what `steadyvlm train lvpruning` runs."""

from __future__ import annotations

from steadyvlm.training.lvpruning.examples import training_task
from steadyvlm.training.lvpruning.run import TrainingOptions, train

__all__ = ["TrainingOptions", "train", "training_task"]
