"""Metrics: what is counted, that nothing is lost with a child or counted twice, and that files name what exists."""

from __future__ import annotations

import http.server
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update

from app.api.application import create_app
from app.api.metrics import ClusterState, api_exporter
from app.celery import ROUTES
from app.domain import (
    PairScore,
    QueueName,
    Rejection,
    RejectionCode,
    ScoringModel,
)
from app.judgement import Cluster, Condition, Part
from app.observability import exporter, metrics
from app.observability.broker import QueueDepth
from app.observability.exporter import Exporter, PortOffset, ProcessFiles
from app.observability.metrics import EpochOutcome, Fault, Service
from app.observability.places import FOLDER_VARIABLE
from app.settings import Settings, get_settings
from app.store.database import Store, get_store
from app.store.epochs import Epochs
from app.store.records import Examination
from app.store.tables.epochs import SubmissionRow
from app.store.weight_submissions import WeightsState
from chain.github import GitHub
from chain.github_path import parse_github_path
from chain.web import HostUnavailable, WebSession
from tests.app.api.test_server import free_port
from tests.app.observability.promql import NoSuchLabel, labels_of, selectors
from tests.app.opened_epoch import opened
from tests.app.page_stores import settle_weights

PROJECT = Path(__file__).parents[3]
RULES = PROJECT / "docker" / "prometheus" / "rules" / "validator.yml"
DASHBOARD = PROJECT / "docker" / "grafana" / "dashboards" / "validator.json"
SCRAPE = PROJECT / "docker" / "prometheus" / "prometheus.yml"

# One child of a worker: counts, and is killed as the kernel kills.
CHILD = """
import os, signal
from app.observability import metrics
metrics.submission_examined(None)
metrics.TASK_SECONDS.labels("examine_submission").observe(3)
metrics.TASKS_RUNNING.labels("examine_submission").inc()
os.kill(os.getpid(), signal.SIGKILL)
"""


def exposed(collector: object) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample, as Prometheus reads them."""
    registry = CollectorRegistry()
    registry.register(collector)  # type: ignore[arg-type]
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def value(samples: dict[tuple[str, tuple[tuple[str, str], ...]], float], name: str, **labels: str) -> float | None:
    return samples.get((name, tuple(sorted(labels.items()))))


# -- files of children ------------------------------------------------------------------------------------------------


def test_what_killed_children_counted_is_kept_in_a_few_files(tmp_path: Path) -> None:
    files = ProcessFiles(tmp_path / "cpu@host")
    files.begin()
    environment = {**os.environ, FOLDER_VARIABLE: str(files.folder), "PYTHONPATH": str(PROJECT)}
    for children in (1, 2, 3):
        ended = subprocess.run([sys.executable, "-c", CHILD], env=environment, cwd=tmp_path, check=False)
        assert ended.returncode == -signal.SIGKILL
        samples = exposed(files)
        assert value(samples, "validator_submissions_accepted_total") == children
        assert value(samples, "validator_task_seconds_sum", task="examine_submission") == 3 * children
        assert value(samples, "validator_task_seconds_bucket", task="examine_submission", le="2.0") == 0
        assert value(samples, "validator_task_seconds_bucket", task="examine_submission", le="5.0") == children
        assert value(samples, "validator_task_seconds_count", task="examine_submission") == children
        assert value(samples, "validator_tasks_running", task="examine_submission") is None, "nobody runs it"
    assert exposed(files) == samples, "a second look counts nothing twice"
    assert sorted(path.name for path in files.folder.glob("*.db")) == ["counter_0.db", "histogram_0.db"]


def test_processes_that_live_at_once_keep_files_apart(tmp_path: Path) -> None:
    files = ProcessFiles(tmp_path / "cpu@host")
    files.begin()
    environment = {**os.environ, FOLDER_VARIABLE: str(files.folder), "PYTHONPATH": str(PROJECT)}
    living = CHILD.replace("os.kill(os.getpid(), signal.SIGKILL)", "print('ready', flush=True); input()")
    started = [
        subprocess.Popen(
            [sys.executable, "-c", living], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path
        )
        for _ in range(2)
    ]
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
    samples = exposed(files)
    assert value(samples, "validator_submissions_accepted_total") == 2
    assert value(samples, "validator_tasks_running", task="examine_submission") == 2
    started[0].kill()
    started[0].communicate()
    samples = exposed(files)
    assert value(samples, "validator_submissions_accepted_total") == 2
    assert value(samples, "validator_tasks_running", task="examine_submission") == 1
    started[1].communicate(b"\n")
    files.begin()
    assert value(exposed(files), "validator_submissions_accepted_total") is None


def test_known_counters_begin_at_zero(tmp_path: Path) -> None:
    files = ProcessFiles(tmp_path / "gpu@host")
    files.begin()
    environment = {**os.environ, FOLDER_VARIABLE: str(files.folder), "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", "import app.observability.metrics"]
    subprocess.run(command, env=environment, cwd=tmp_path, check=True)
    samples = exposed(files)
    for code in RejectionCode:
        assert value(samples, "validator_submissions_rejected_total", code=code.value) == 0
    assert value(samples, "validator_epochs_total", outcome="failed") == 0


# -- ports ------------------------------------------------------------------------------------------------------------


def test_a_taken_port_is_a_warning_and_taken_when_it_is_free(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(exporter, "_LOOK_EVERY", 0.1)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        server = Exporter(CollectorRegistry(), "127.0.0.1", port)
        with caplog.at_level(logging.WARNING):
            server.start()
        assert f"port {port} is taken" in caplog.text
        assert "METRICS_PORT" in caplog.text
    deadline = time.monotonic() + 10
    while server._server is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server._server is not None
    server.stop()


def test_every_process_has_a_port_of_its_own() -> None:
    settings = Settings(metrics_port=9540, _env_file=None)
    assert {queue: exporter.worker_port(settings, {queue}) for queue in QueueName} == {
        QueueName.CHAIN: 9540,
        QueueName.CPU: 9541,
        QueueName.GPU: 9542,
    }
    assert exporter.worker_port(settings, {"cpu", "gpu"}) == 9544
    assert len(set(PortOffset)) == len(PortOffset)
    off = Settings(metrics_port=0, _env_file=None)
    assert exporter.worker_exporter(off, "cpu@host", {"cpu"}) is None
    assert exporter.single_exporter(off, PortOffset.BEAT) is None


# -- what is counted --------------------------------------------------------------------------------------------------


class _Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status = int(self.path.split("/")[1].split("?")[0])
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "3")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture
def host() -> Iterator[str]:
    """A host whose first path segment is the status it answers with."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def errors(service: Service, fault: Fault) -> float:
    return metrics.SERVICE_ERRORS.labels(service.value, fault.value)._value.get()


def requests(service: Service) -> float:
    return metrics.SERVICE_REQUESTS.labels(service.value)._value.get()


@pytest.mark.parametrize(
    ("status", "fault"), [(200, None), (404, None), (429, Fault.RATE_LIMITED), (503, Fault.SERVER_ERROR)]
)
def test_an_answer_is_counted_under_its_service(host: str, status: int, fault: Fault | None) -> None:
    before = {kind: errors(Service.UNIPROT, kind) for kind in Fault}, requests(Service.UNIPROT)
    session = WebSession()
    if fault is None:
        session.get(f"{host}/{status}", 100, service=Service.UNIPROT)
    else:
        with pytest.raises(HostUnavailable):
            session.get(f"{host}/{status}", 100, service=Service.UNIPROT)
    assert requests(Service.UNIPROT) == before[1] + 1
    assert {kind for kind in Fault if errors(Service.UNIPROT, kind) > before[0][kind]} == ({fault} if fault else set())
    session._session.close()


def test_a_host_that_is_gone_and_then_left_alone() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/"
    before = errors(Service.DRAND, Fault.CONNECTION), errors(Service.DRAND, Fault.LEFT_ALONE)
    session = WebSession()
    for adapter in session._session.adapters.values():
        adapter.max_retries = type(adapter.max_retries)(0, read=False)  # type: ignore[attr-defined]
    for _ in range(8):
        with pytest.raises(HostUnavailable):
            session.get(address, 10, service=Service.DRAND)
    assert errors(Service.DRAND, Fault.CONNECTION) == before[0] + 6
    assert errors(Service.DRAND, Fault.LEFT_ALONE) == before[1] + 2
    session._session.close()


def test_a_refused_github_is_counted_for_each_of_its_hosts(host: str) -> None:
    session = WebSession()
    github = GitHub(session, f"{host}/401", f"{host}/403", "a-token")
    path = parse_github_path("owner/repository/main/file/738e5509692aa3a62227.txt")
    before = errors(Service.GITHUB_RAW, Fault.REFUSED), errors(Service.GITHUB_API, Fault.REFUSED)
    with pytest.raises(HostUnavailable):
        github.content(path)
    with pytest.raises(HostUnavailable):
        github.push_time(path)
    assert errors(Service.GITHUB_RAW, Fault.REFUSED) == before[0] + 1
    assert errors(Service.GITHUB_API, Fault.REFUSED) == before[1] + 1
    session._session.close()


def test_an_epochs_stages_are_told_when_it_ends() -> None:
    def seconds(stage: str) -> float:
        return metrics.STAGE_SECONDS.labels(stage)._sum.get()

    before = seconds("announced"), seconds("examining"), metrics.EPOCHS.labels("failed")._value.get()
    at = {
        "announced": "2026-01-01T00:00:00+00:00",
        "examining": "2026-01-01T00:00:05+00:00",
        "failed": "2026-01-01T00:01:05+00:00",
    }
    metrics.epoch_ended(EpochOutcome.FAILED, at)
    assert (seconds("announced"), seconds("examining")) == (before[0] + 5, before[1] + 60)
    assert metrics.EPOCHS.labels("failed")._value.get() == before[2] + 1


def test_pairs_are_counted_by_whether_they_have_a_score() -> None:
    counter = metrics.PAIRS
    before = [counter.labels("boltz", result)._value.get() for result in ("scored", "error")]
    scores = [PairScore("P", "C", {"x": 1.0}), PairScore("P", "CC", error="bad"), PairScore("P", "CCC", {"x": 2.0})]
    metrics.pairs_scored(ScoringModel.BOLTZ, 4.0, (score.error is not None for score in scores))
    after = [counter.labels("boltz", result)._value.get() for result in ("scored", "error")]
    assert [new - old for new, old in zip(after, before, strict=True)] == [2, 1]


# -- the cluster's state ----------------------------------------------------------------------------------------------


def live_epoch(store: Store, number: int) -> int:
    epoch_id = opened(store, number, f"68:{number}", publishes=True)
    with store.writing() as session:
        epochs = Epochs(session)
        refusal = Rejection(RejectionCode.HASH_MISMATCH, "a sentence")
        epochs.record_examination(epoch_id, 0, Examination("", rejection=refusal))
        epochs.record_examination(epoch_id, 1, Examination(""))
    return epoch_id


def test_the_clusters_state_is_read_from_the_store(store: Store) -> None:
    epoch_id = live_epoch(store, 100)
    samples = exposed(ClusterState())
    assert value(samples, "validator_store_up") == 1
    assert value(samples, "validator_epoch_number") == 100
    assert value(samples, "validator_epoch_stage", stage="examining") == 1
    assert value(samples, "validator_epoch_submissions", result="hash_mismatch") == 1
    assert value(samples, "validator_epoch_submissions", result="valid") == 1
    assert value(samples, "validator_epoch_submissions", result="pending") == 1
    assert value(samples, "validator_last_epoch_done_timestamp_seconds") == 0
    assert 0 < (value(samples, "validator_epoch_open_seconds") or 0) < 60
    with store.writing() as session:
        epochs = Epochs(session)
        epochs.plan(epoch_id, {})
        epochs.close(epoch_id, [], {}, None, [])
        settle_weights(session, epoch_id, WeightsState.LATE.value, "too late")
    samples = exposed(ClusterState())
    now = datetime.now(UTC).timestamp()
    assert value(samples, "validator_epoch_open_seconds") == 0
    assert abs((value(samples, "validator_last_epoch_done_timestamp_seconds") or 0) - now) < 60
    assert value(samples, "validator_last_weights_timestamp_seconds", of="molecules", ended="fine") == 0
    failed = value(samples, "validator_last_weights_timestamp_seconds", of="molecules", ended="failed") or 0
    assert abs(failed - now) < 60


def test_no_submission_is_left_out_whatever_its_code(store: Store) -> None:
    epoch_id = live_epoch(store, 100)
    with store.writing() as session:
        refused = update(SubmissionRow).where(SubmissionRow.epoch_id == epoch_id)
        for uid, code in enumerate(("a_code_of_a_newer_version", None, '"} 1\n')):
            session.execute(refused.where(SubmissionRow.uid == uid).values(state="rejected", code=code))
    found = {
        dict(labels)["result"]: count
        for (name, labels), count in exposed(ClusterState()).items()
        if name == "validator_epoch_submissions" and count
    }
    assert found == {"a_code_of_a_newer_version": 1, "rejected": 1, "other": 1}


def test_a_store_and_a_broker_that_do_not_answer_are_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/not-migrated.sqlite")
    get_settings.cache_clear()
    samples = exposed(ClusterState())
    assert value(samples, "validator_store_up") == 0
    assert value(samples, "validator_broker_up") == 0
    assert value(samples, "validator_epoch_number") is None


def test_metrics_have_their_own_address_and_no_typed_path(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_URL", "redis://127.0.0.1:1/0")
    get_settings.cache_clear()
    monkeypatch.setenv("METRICS_PORT", str(free_port() - PortOffset.API))
    get_settings.cache_clear()
    get_store()
    exporter = api_exporter(get_settings())
    assert exporter is not None
    exporter.start()
    with TestClient(create_app(), raise_server_exceptions=False) as client:
        client.get("/no/such/page-by-hand")
        assert client.get("/metrics").status_code == 404
    try:
        address = f"http://127.0.0.1:{get_settings().metrics_port + PortOffset.API}/metrics"
        with urllib.request.urlopen(address, timeout=20) as answer:
            assert answer.headers["content-type"].startswith("text/plain")
            text = answer.read().decode()
    finally:
        exporter.stop()
    assert "by-hand" not in text
    assert 'validator_http_requests_total{route="none",status="404"}' in text
    assert "validator_store_up 1.0" in text
    assert "_created" not in text
    monkeypatch.setenv("METRICS_PORT", "0")
    get_settings.cache_clear()
    assert api_exporter(get_settings()) is None


# -- the files --------------------------------------------------------------------------------------------------------


def defined(store: Store) -> set[str]:
    """The name of every series that any process serves."""
    live_epoch(store, 7)
    names = {"up"}
    for metric in metrics.ALL:
        for family in metric.collect():
            suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
            names |= {f"{family.name}{suffix}" for suffix in suffixes}
    state = [*ClusterState().collect(), *exporter.DataDisk(Path("/")).collect()]
    names |= {family.name for family in state}
    # these two need a broker
    names |= {"validator_queue_messages", "validator_workers"}
    return names


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def expressions() -> dict[str, str]:
    found = {rule.get("alert", rule.get("record")): rule["expr"] for rule in rules()}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            found[f"panel {panel['title']} {target['refId']}"] = target["expr"]
    return found


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_rules_and_dashboard_ask_for_metrics_that_exist(store: Store) -> None:
    known = defined(store)
    known |= {
        rule["record"] for g in yaml.safe_load(RULES.read_text())["groups"] for rule in g["rules"] if "record" in rule
    }
    for where, expression in expressions().items():
        used = {selector.name for selector in selectors(expression)}
        assert used, where
        assert used <= known, (where, used - known)


def test_rules_and_dashboard_ask_for_labels_that_exist() -> None:
    values = {
        "outcome": {*EpochOutcome, *metrics.TaskOutcome, *metrics.BatchOutcome, "included"},
        "result": {"valid", "pending", "scored", "error", *RejectionCode},
        "kind": set(Fault),
        "state": {"ready", "unacknowledged"},
        "ended": {"fine", "failed"},
        "condition": {condition.name.lower() for condition in Condition},
        "part": set(Part),
        "job": {"chain", "cpu", "gpu", "beat", "api"},
    }
    for where, expression in expressions().items():
        for asked in (matcher for selector in selectors(expression) for matcher in selector.matchers.matchers):
            assert set(asked.value.split("|")) <= {str(item) for item in values[asked.name]}, (where, asked)


def served(store: Store, monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Series → labels, as the processes' exporters serve them to Prometheus, which adds job and instance."""
    live_epoch(store, 7)
    asked = Cluster(depths={name: QueueDepth(1, 0) for name in QueueName}, workers=())
    monkeypatch.setattr("app.api.metrics.cluster", lambda: asked)
    found: dict[str, set[str]] = {"up": set()}
    families = [*ClusterState().collect(), *exporter.DataDisk(Path("/")).collect()]
    labels = {family.name: set(family._labelnames) for family in families}
    labels |= {metric._name: set(metric._labelnames) for metric in metrics.ALL}
    for family in [*families, *(family for metric in metrics.ALL for family in metric.collect())]:
        ends = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        found |= {f"{family.name}{end}": labels[family.name] | ({"le"} if end == "_bucket" else set()) for end in ends}
    return {name: given | {"job", "instance"} for name, given in found.items()}


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_every_expression_asks_for_what_the_exporters_serve(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    known = served(store, monkeypatch)
    known |= {rule["record"]: labels_of(rule["expr"], known) for rule in rules() if "record" in rule}
    panels = [
        (target["expr"], re.findall(r"\{\{\s*(\w+)\s*\}\}", target.get("legendFormat", "")))
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for target in panel.get("targets", ())
    ]
    alerts = [(rule["expr"], re.findall(r"\$labels\.(\w+)", json.dumps(rule))) for rule in rules()]
    assert len(panels) > 30
    assert len(alerts) > 20
    for expression, shown in [*panels, *alerts]:
        assert set(shown) <= labels_of(expression, known), expression


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("sum(", ValueError),
        ("rate(up)", ValueError),
        ("per_second(up[5m])", ValueError),
        ("validator_nothing", KeyError),
        ('up{pool="gpu"}', NoSuchLabel),
        ("sum by (color) (up)", NoSuchLabel),
        ("sum by (job) (up) and on (instance) up", NoSuchLabel),
        ("sum by (job) (up) / up", NoSuchLabel),
    ],
)
def test_what_is_wrong_with_an_expression_is_found(expression: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        labels_of(expression, {"up": {"job", "instance"}})


def test_the_labels_that_an_expression_leaves() -> None:
    known = {"up": {"job", "instance"}, "seconds_bucket": {"le", "task"}}
    assert labels_of("sum(up) > 0", known) == set()
    assert labels_of("max without (job) (up)", known) == {"instance"}
    assert labels_of("histogram_quantile(0.9, sum by (le, task) (rate(seconds_bucket[5m])))", known) == {"task"}
    assert labels_of("time() - (up > 0)", known) == {"job", "instance"}
    assert labels_of("up == on (job) up", known) == {"job"}
    assert labels_of("up and on (job) up", known) == {"job", "instance"}


def test_every_alert_is_explained() -> None:
    text = (PROJECT / "docs" / "alerts.md").read_text()
    anchors = {heading.lower() for heading in re.findall(r"^## (\w+)$", text, re.MULTILINE)}
    alerts = [
        rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"] if "alert" in rule
    ]
    assert len(alerts) >= 15
    for rule in alerts:
        assert rule["annotations"]["runbook"] == f"docs/alerts.md#{rule['alert'].lower()}"
        assert rule["alert"].lower() in anchors


def test_every_metric_is_explained() -> None:
    text = (PROJECT / "docs" / "metrics.md").read_text()
    for metric in metrics.ALL:
        for family in metric.collect():
            name = f"{family.name}_total" if family.type == "counter" else family.name
            assert f"`{name}`" in text, name
    asked = {selector.name for expression in expressions().values() for selector in selectors(expression)}
    for used in (name for name in asked if name.startswith("validator_")):
        assert f"`{re.sub('_(bucket|sum|count)$', '', used)}`" in text, used


def test_prometheus_asks_the_ports_that_processes_serve() -> None:
    jobs = {job["job_name"]: job for job in yaml.safe_load(SCRAPE.read_text())["scrape_configs"]}
    base = Settings(_env_file=None).metrics_port
    for name, offset in (
        ("chain", PortOffset.CHAIN),
        ("cpu", PortOffset.CPU),
        ("gpu", PortOffset.GPU),
        ("beat", PortOffset.BEAT),
    ):
        (target,) = jobs[name]["dns_sd_configs"]
        assert (target["names"], target["port"]) == ([name], base + offset)
    assert jobs["api"]["static_configs"] == [{"targets": [f"api:{base + PortOffset.API}"]}]


def test_labels_of_tasks_are_short_names_of_known_tasks() -> None:
    names = [name.rpartition(".")[2] for name in ROUTES]
    assert len(set(names)) == len(names), "two tasks would share a label"
