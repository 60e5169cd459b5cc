"""The application as operators meet it: queues, routes, timetable."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

import beat_schedule
from app.celery import ROUTES, app, concurrency_for
from app.domain import QueueName
from app.settings import Settings, get_settings
from gpu.devices import visible_gpus


def test_every_task_has_a_route_and_every_route_a_task() -> None:
    app.loader.import_default_modules()
    ours = {name for name in app.tasks if name.startswith("workers.")}
    assert ours == set(ROUTES)


def test_every_beat_entry_expires_and_names_a_known_task() -> None:
    for name, entry in beat_schedule.timetable(get_settings()).items():
        assert entry["options"]["expires"] > 0, name
        assert entry["task"] in ROUTES, name


def test_ticks_do_not_crowd_flower() -> None:
    app.loader.import_default_modules()
    often = set()
    for netuid in (21, 68):
        for entry in beat_schedule.timetable(Settings(netuid=netuid, live=netuid == 68, _env_file=None)).values():
            every = entry["schedule"]
            if isinstance(every, timedelta) and every <= timedelta(minutes=1):
                often.add(entry["task"])
    assert len(often) >= 5
    assert {name for name in ROUTES if not app.tasks[name].send_events} == often


def test_reliability() -> None:
    conf = app.conf
    assert conf.task_acks_late
    assert conf.task_reject_on_worker_lost
    assert conf.worker_prefetch_multiplier == 1
    assert conf.worker_pool_start_method == "fork"
    assert conf.accept_content == ["json"]
    longest = max(limits["time_limit"] for limits in conf.task_annotations.values())
    assert conf.broker_transport_options["visibility_timeout"] > longest


def test_concurrency_follows_from_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(cpu_concurrency=7, _env_file=None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    assert concurrency_for({QueueName.CHAIN}, settings) == 1
    assert concurrency_for({QueueName.CPU}, settings) == 7
    assert concurrency_for({QueueName.GPU}, settings) == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert concurrency_for({QueueName.GPU}, settings) == 1


def test_gpus_are_found_without_cuda(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert visible_gpus({}, tmp_path) == ["0", "1", "10"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "GPU-abc, 1"}, tmp_path) == ["GPU-abc", "1"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"}, tmp_path) == []
