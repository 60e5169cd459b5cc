"""Beat's scheduler: celery-redbeat's (one beat per cluster), made to outlive a restarted or wiped Redis."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any, Final

from redbeat.schedulers import RedBeatScheduler, acquire_distributed_beat_lock
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import LockError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.observability.metrics import TASKS_SENT

# How long beat waits for a Redis that is away, in seconds.
_AWAY_SECONDS: Final = 2.0

log = logging.getLogger("celery_validator.beat")


class SteadyScheduler(RedBeatScheduler):  # type: ignore[misc]
    """Takes up its lock and its timetable again where redbeat's own would end the process."""

    lock: Any

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Seconds until the next tick."""
        try:
            if self.lock_key and self.lock is None:
                self._take_up_again()
            return float(super().tick(*args, **kwargs))
        except LockError as error:
            log.warning("beat lost its lock (%s); taking it up again", error)
            self.lock = None
            return 0.0
        except (RedisConnectionError, RedisTimeoutError) as error:
            log.warning("Redis is away (%s); beat waits for it", error)
            return _AWAY_SECONDS

    def apply_async(self, entry: Any, *args: Any, **kwargs: Any) -> Any:
        """Send what is due."""
        sent = super().apply_async(entry, *args, **kwargs)
        TASKS_SENT.labels(str(entry.task).rpartition(".")[2]).inc()
        return sent

    def _take_up_again(self) -> None:
        acquire_distributed_beat_lock(sender=SimpleNamespace(scheduler=self))
        # a wiped Redis has lost the timetable too
        self.setup_schedule()
