"""Beat's scheduler: celery-redbeat's (one beat per cluster), made to outlive a restarted or wiped Redis."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any, Final

from redbeat.schedulers import RedBeatScheduler, acquire_distributed_beat_lock, get_redis
from redis.exceptions import LockError, RedisError
from tenacity import before_sleep_log, retry, retry_if_exception_type, wait_fixed

from app.cluster import watchdog
from app.observability.metrics import TASKS_SENT

# How long (s) beat waits for a Redis that does not answer, or answers with an error.
_PAUSE_SECONDS: Final = 2.0

# How long (s) one tick may take: a publication is tried several times where Redis is slow.
_TICK_SECONDS: Final = 90.0

log = logging.getLogger("celery_validator.beat")


class SteadyScheduler(RedBeatScheduler):  # type: ignore[misc]
    """Takes up its lock and its timetable again where redbeat's own would end the process."""

    lock: Any

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Seconds until the next tick."""
        watchdog.start(_TICK_SECONDS)
        try:
            if self.lock_key and self.lock is None:
                self._take_up_again()
            # Redis may have been wiped while this beat waited for its lock, or without losing it
            if not get_redis(self.app).exists(self.app.redbeat_conf.schedule_key):
                self.setup_schedule()
            return float(super().tick(*args, **kwargs))
        except LockError as error:
            log.warning("beat lost its lock (%s); taking it up again", error)
            self.lock = None
            return 0.0
        except RedisError as error:
            log.warning("Redis is unavailable (%s); beat waits for it", error)
            return _PAUSE_SECONDS

    @retry(
        retry=retry_if_exception_type(RedisError),
        wait=wait_fixed(_PAUSE_SECONDS),
        before_sleep=before_sleep_log(log, logging.WARNING),
    )
    def setup_schedule(self) -> None:
        """Write the timetable, as soon as Redis takes it."""
        # this may be long
        watchdog.stop()
        super().setup_schedule()

    def apply_async(self, entry: Any, *args: Any, **kwargs: Any) -> Any:
        """Send what is due."""
        sent = super().apply_async(entry, *args, **kwargs)
        TASKS_SENT.labels(str(entry.task).rpartition(".")[2]).inc()
        return sent

    def _take_up_again(self) -> None:
        # another beat may hold the lock for as long as it likes
        watchdog.stop()
        acquire_distributed_beat_lock(sender=SimpleNamespace(scheduler=self))
