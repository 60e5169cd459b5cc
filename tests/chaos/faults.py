"""The faults, each one function of the scene; what it returns is printed."""

from __future__ import annotations

import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from sqlalchemy import text

from app.store.database import Store
from tests.chaos.scene import WORK, Scene
from tests.cluster.proxy import Proxy

Fault = Callable[[Scene, random.Random], object]


def _queue(dice: random.Random) -> str:
    return dice.choice(["cpu", "cpu", "gpu", "chain"])


def kill_child(scene: Scene, dice: random.Random) -> object:
    queue = _queue(dice)
    children = scene.pool(queue)
    scene.kill(dice.choice(children) if children else None)
    return queue


def kill_all_children(scene: Scene, _: random.Random) -> None:
    for queue in WORK:
        for child in scene.pool(queue):
            scene.kill(child)


def kill_worker(scene: Scene, dice: random.Random) -> object:
    queue = _queue(dice)
    scene.kill(scene.pid(queue))
    return queue


def kill_everything(scene: Scene, _: random.Random) -> None:
    for name in (*WORK, "beat", "redis"):
        scene.kill_group(name)


def stop_worker(scene: Scene, dice: random.Random) -> object:
    queue, seconds = _queue(dice), dice.uniform(8, 20)
    main = scene.pid(queue)
    stopped = [main, *scene.pool(queue)]
    for pid in stopped:
        scene.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    for pid in stopped:
        scene.kill(pid, signal.SIGCONT)
    return queue, round(seconds, 1)


def stop_child(scene: Scene, dice: random.Random) -> object:
    queue, seconds = _queue(dice), dice.uniform(8, 30)
    stopped = scene.pool(queue)
    for pid in stopped:
        scene.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    for pid in stopped:
        scene.kill(pid, signal.SIGCONT)
    return queue, round(seconds, 1)


def warm_shutdown(scene: Scene, dice: random.Random) -> object:
    queue = _queue(dice)
    scene.kill(scene.pid(queue), signal.SIGTERM)
    return queue


def cold_shutdown(scene: Scene, dice: random.Random) -> object:
    queue = _queue(dice)
    scene.kill(scene.pid(queue), signal.SIGQUIT)
    return queue


def redis_killed(scene: Scene, _: random.Random) -> None:
    scene.kill(scene.pid("redis"))


def redis_killed_with_its_file(scene: Scene, _: random.Random) -> None:
    scene.kill(scene.pid("redis"))
    time.sleep(0.2)
    for path in (scene.folder / "embedded" / "redis").iterdir():
        path.unlink(missing_ok=True)


def redis_file_torn(scene: Scene, dice: random.Random) -> None:
    scene.kill(scene.pid("redis"))
    time.sleep(0.2)
    path = scene.folder / "embedded" / "redis" / "appendonly.aof"
    if path.exists():
        path.write_bytes(path.read_bytes()[: -dice.randrange(1, 40)])


def redis_stopped(scene: Scene, dice: random.Random) -> object:
    pid, seconds = scene.pid("redis"), dice.uniform(5, 12)
    scene.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    scene.kill(pid, signal.SIGCONT)
    return round(seconds, 1)


def redis_flushed(scene: Scene, _: random.Random) -> None:
    scene.redis.flushall()


def redis_full(scene: Scene, dice: random.Random) -> object:
    seconds = dice.uniform(5, 15)
    scene.redis.config_set("maxmemory", "1")
    time.sleep(seconds)
    scene.redis.config_set("maxmemory", "0")
    return round(seconds, 1)


def redis_readonly(scene: Scene, dice: random.Random) -> object:
    seconds = dice.uniform(5, 15)
    scene.redis.execute_command("REPLICAOF", "127.0.0.1", "1")
    time.sleep(seconds)
    scene.redis.execute_command("REPLICAOF", "NO", "ONE")
    return round(seconds, 1)


def clients_unblocked(scene: Scene, _: random.Random) -> object:
    clients = [client for client in scene.redis.client_list() if client["cmd"] == "brpop"]
    for client in clients:
        scene.redis.client_unblock(int(client["id"]), error=True)
    return len(clients)


def stalled_and_cut(scene: Scene, dice: random.Random) -> object:
    return _stalled_and_cut(scene.proxy, dice)


def _stalled_and_cut(proxy: Proxy, dice: random.Random) -> object:
    seconds = dice.uniform(6, 14)
    proxy.freeze()
    time.sleep(seconds)
    proxy.cut()
    proxy.thaw()
    return round(seconds, 1)


def cut(scene: Scene, _: random.Random) -> None:
    scene.proxy.cut()


def cut_halfway(scene: Scene, _: random.Random) -> None:
    scene.proxy.cut_chance = 0.05
    time.sleep(4)
    scene.proxy.cut_chance = 0.0


def slow_network(scene: Scene, _: random.Random) -> None:
    scene.proxy.latency = 0.1
    time.sleep(10)
    scene.proxy.latency = 0.0


def messages_doubled(scene: Scene, _: random.Random) -> object:
    doubled, end = 0, time.monotonic() + 3
    while time.monotonic() < end and doubled < 60:
        for queue in WORK:
            for message in scene.redis.lrange(scene.key(queue), 0, 20):
                scene.redis.lpush(scene.key(queue), message)
                doubled += 1
        time.sleep(0.01)
    return doubled


def held_messages_delivered_again(scene: Scene, _: random.Random) -> object:
    held = scene.redis.hvals(scene.key("unacked"))
    for raw in held:
        message, _exchange, queue = json.loads(raw)
        scene.redis.rpush(scene.key(queue), json.dumps(message))
    return len(held)


def messages_dropped(scene: Scene, _: random.Random) -> object:
    return scene.redis.delete(*map(scene.key, WORK))


def chord_counts_dropped(scene: Scene, _: random.Random) -> object:
    keys = scene.redis.keys(scene.key("celery-taskset-meta*"))
    return scene.redis.delete(*keys) if keys else 0


def beat_killed(scene: Scene, _: random.Random) -> None:
    scene.kill(scene.pid("beat"))


def beat_doubled(scene: Scene, _: random.Random) -> None:
    second = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "app", "beat", "--pidfile", ""],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(12)
    second.kill()
    second.wait()


def store_locked(scene: Scene, dice: random.Random) -> object:
    seconds = dice.choice([6, 12])
    if scene.kind == "sqlite":
        connection = sqlite3.connect(scene.folder / "validator.sqlite", isolation_level=None, timeout=30)
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(seconds)
        connection.rollback()
        connection.close()
    else:
        with scene.store.engine.connect() as session:
            session.execute(text("LOCK TABLE epochs, submissions IN ACCESS EXCLUSIVE MODE"))
            time.sleep(seconds)
            session.rollback()
    return seconds


def disk_full(scene: Scene, dice: random.Random) -> object:
    filler, seconds = scene.folder / "filler", dice.uniform(4, 10)
    for size in (1 << 16, 512):
        with suppress(OSError), filler.open("ab", buffering=0) as stream:
            while True:
                stream.write(b"x" * size)
    time.sleep(seconds)
    filler.unlink()
    return round(seconds, 1), f"{shutil.disk_usage(scene.folder).free >> 20} MiB free again"


def connections_dropped(scene: Scene, _: random.Random) -> object:
    others = "pid <> pg_backend_pid() and backend_type = 'client backend'"
    store = Store(scene.store.engine.url.render_as_string(hide_password=False))
    try:
        with store.engine.connect() as session:
            query = f"select count(pg_terminate_backend(pid)) from pg_stat_activity where {others}"
            return session.execute(text(query)).scalar()
    finally:
        store.close()


def connections_dropped_often(scene: Scene, dice: random.Random) -> None:
    for _ in range(12):
        connections_dropped(scene, dice)
        time.sleep(0.25)


def database_stalled_and_cut(scene: Scene, dice: random.Random) -> object:
    assert scene.database_proxy is not None
    return _stalled_and_cut(scene.database_proxy, dice)


def database_crashed(scene: Scene, _: random.Random) -> None:
    with scene.store.engine.connect() as session:
        query = "select pid from pg_stat_activity where backend_type = 'walwriter'"
        pid = session.execute(text(query)).scalar()
    # PostgreSQL ends every connection and recovers from its log
    scene.kill(pid)


ALWAYS: tuple[Fault, ...] = (
    kill_child, kill_all_children, kill_worker, kill_everything, stop_worker, stop_child, warm_shutdown, cold_shutdown,
    redis_killed, redis_killed_with_its_file, redis_file_torn, redis_stopped, redis_flushed, redis_full, redis_readonly,
    clients_unblocked, stalled_and_cut, cut, cut_halfway, slow_network, messages_doubled, held_messages_delivered_again,
    messages_dropped, chord_counts_dropped, beat_killed, beat_doubled, store_locked,
)  # fmt: skip
POSTGRESQL: tuple[Fault, ...] = (
    connections_dropped, connections_dropped_often, database_crashed, database_stalled_and_cut,
)  # fmt: skip


def of(scene: Scene) -> list[Fault]:
    """The faults that this scene can have."""
    found = [*ALWAYS]
    if scene.kind == "postgresql":
        found += POSTGRESQL
    if scene.small_disk:
        found.append(disk_full)
    return found
