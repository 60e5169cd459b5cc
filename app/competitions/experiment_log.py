"""Evaluations in Weights & Biases, where WANDB_PROJECT is set. An extra: it never costs an evaluation anything."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Final

from app.competitions.flat_metrics import flat_metrics
from app.store.evaluations import EvaluationRecord

_SECONDS: Final = 30

log = logging.getLogger("celery_validator.wandb")


def log_evaluation(project: str, record: EvaluationRecord) -> bool:
    """Log an evaluation's end as one run, under its id; False, with a warning, where that failed."""
    try:
        import wandb

        run = wandb.init(
            project=project,
            id=record.id,
            name=f"{record.inputs.competition_id} {record.inputs.hf_repo_id}",
            config={**asdict(record.inputs), "revision": record.revision, "tries": record.tries},
            settings=wandb.Settings(init_timeout=_SECONDS, silent=True),
        )
        run.log(
            flat_metrics(record.metric_scores or {}, "/") | ({} if record.score is None else {"score": record.score})
        )
        run.summary.update({"state": record.phase.value, "error": record.error})
        run.finish()
    except ImportError:
        log.warning("WANDB_PROJECT is set, but wandb is not installed: pip install wandb")
        return False
    except Exception as error:
        # it is somebody else's service: whatever it does, the score is in the store
        log.warning("evaluation %s was not logged to Weights & Biases: %s", record.id, error, exc_info=True)
        return False
    return True
