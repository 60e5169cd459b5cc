"""A task of the tests' own: which device is this child bound to."""

import os
import time

from app.celery import app


@app.task(name="probe.device", ignore_result=False)
def device() -> list[str]:
    """The child's visible device and its process id, after long enough for the other child to take the next one."""
    time.sleep(1)
    return [os.environ.get("CUDA_VISIBLE_DEVICES", ""), str(os.getpid())]
