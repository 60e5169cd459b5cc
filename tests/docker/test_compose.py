"""compose.yaml and its overlays keep step with queues, settings, ports, files and command lines."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.celery import configuration
from app.cli.readme import compose_lines, handed_on
from app.domain import QueueName
from app.observability.exporter import PortOffset
from app.settings import Settings, get_settings
from app.settings.secret_files import secret_names
from tests.command_lines import PROJECT, parse

DOCKER = PROJECT / "docker"
FILES = {path.name: yaml.safe_load(path.read_text()) for path in sorted(DOCKER.glob("compose*.yaml"))}
BASE: dict[str, Any] = FILES["compose.yaml"]["services"]

# Each way of running it: its services after the overlay, without those that a profile leaves out.
WAYS = {"alone": "compose.yaml", "without a GPU": "compose.cpu.yaml", "models": "compose.models.yaml"}

# What the operator makes (docs/deploy.md), so that the repository does not have it.
MADE_BY_THE_OPERATOR = {"./wallets", "./wallets-public", "./config", "./secrets"}


def _merged(overlay: str) -> dict[str, dict[str, Any]]:
    """The services of one way, as Compose merges them: mappings by key, the rest replaced."""
    services = {name: dict(service) for name, service in BASE.items()}
    if overlay != "compose.yaml":
        for name, service in FILES[overlay]["services"].items():
            before = services.get(name, {})
            both = {**before, **service}
            if isinstance(before.get("environment"), dict) and "environment" in service:
                both["environment"] = before["environment"] | service["environment"]
            services[name] = both
    return services


def _started(overlay: str) -> dict[str, dict[str, Any]]:
    return {name: service for name, service in _merged(overlay).items() if not service.get("profiles")}


EVERY_SERVICE = [
    pytest.param(overlay, name, _merged(overlay)[name], id=f"{overlay}:{name}")
    for overlay in FILES
    for name in FILES[overlay]["services"]
]
OWN = [case for case in EVERY_SERVICE if "celery-validator" in case.values[2]["image"]]


def _default(text: str) -> str:
    """What Compose makes of ``${NAME:-default}`` where nothing is set."""
    return re.sub(r"\$\{\w+(?::?-([^}]*))?\}", lambda found: found[1] or "", text)


def _duration(text: str) -> timedelta:
    parts = re.findall(r"(\d+)([hms])", _default(text))
    assert parts, text
    return timedelta(seconds=sum(int(n) * {"h": 3600, "m": 60, "s": 1}[unit] for n, unit in parts))


@pytest.mark.parametrize("way", WAYS)
def test_every_queue_has_one_worker(way: str) -> None:
    served = [
        service["command"][service["command"].index("-Q") + 1]
        for service in _started(WAYS[way]).values()
        if "worker" in service.get("command", ())
    ]
    assert sorted(served) == sorted(queue.value for queue in QueueName)


@pytest.mark.parametrize("way", WAYS)
def test_the_whole_validator_is_started(way: str) -> None:
    assert {"redis", "postgres", "migrate", "beat", "chain", "cpu", "api", "flower"} <= set(_started(WAYS[way]))
    assert {"prometheus", "grafana"} == {n for n, s in BASE.items() if s.get("profiles") == ["monitoring"]}


@pytest.mark.parametrize(("overlay", "name", "service"), OWN)
def test_commands_and_health_checks_are_those_of_the_program(overlay: str, name: str, service: dict[str, Any]) -> None:
    if name == "fetch":
        assert "python -m app checkpoints fetch" in service["entrypoint"][2]
        parse(["python", "-m", "app", "checkpoints", "fetch", "psichic", "--out", "/checkpoints/psichic"])
        return
    parse(service["command"])
    check = service["healthcheck"]
    if name == "migrate":
        assert check == {"disable": True}
        return
    kind, *words = check["test"]
    assert kind == "CMD"
    parse(words)
    asked = words[-1]
    assert asked in {name, name.split("-", maxsplit=1)[0]}
    if "worker" in service["command"]:
        assert service["command"][-1] == asked


@pytest.mark.parametrize(("overlay", "name", "service"), OWN)
def test_every_variable_is_a_setting_or_a_secrets_file(overlay: str, name: str, service: dict[str, Any]) -> None:
    fields = {field.upper() for field in Settings.model_fields}
    secrets = {f"{field.upper()}_FILE" for field in secret_names(Settings)}
    for variable, value in (service.get("environment") or {}).items():
        assert variable in fields | secrets, f"{variable} is no setting"
        if variable in secrets:
            mounted = str(value).removeprefix("/run/secrets/")
            assert mounted in service["secrets"], f"{variable} names a secret that {name} does not get"
        else:
            assert variable.lower() not in secret_names(Settings) or "//" in str(value), "a secret in the environment"


@pytest.mark.parametrize("overlay", FILES)
def test_settings_are_handed_on_from_dotenv(overlay: str) -> None:
    lines = (DOCKER / overlay).read_text().split("readme`\n")[1].split("\n  # /settings")[0]
    assert lines == compose_lines(), "run 'make readme'"
    assert set(FILES[overlay]["x-settings"]) == set(handed_on())


@pytest.mark.parametrize(("overlay", "name", "service"), OWN)
def test_the_settings_that_a_container_gets_are_accepted(
    overlay: str, name: str, service: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in (service.get("environment") or {}).items():
        if value is not None and not variable.endswith("_FILE"):
            monkeypatch.setenv(variable, _default(str(value)))
    settings = get_settings()
    if name not in {"fetch"}:
        assert settings.store_url.startswith("postgresql+psycopg://validator@")
        assert settings.broker.url.startswith("redis://")
        assert settings.data_dir == Path("/data")


@pytest.mark.parametrize("overlay", FILES)
def test_every_secret_is_declared_and_made_by_the_script(overlay: str, tmp_path: Path) -> None:
    declared = set(FILES[overlay].get("secrets", {})) | set(FILES["compose.yaml"]["secrets"])
    used = {secret for service in _merged(overlay).values() for secret in service.get("secrets", ())}
    assert used <= declared
    folder = tmp_path / "secrets"
    made = subprocess.run(["sh", DOCKER / "make-secrets.sh", folder], capture_output=True, text=True, check=False)
    assert made.returncode == (0 if os.geteuid() == 0 else 1), made.stderr
    assert declared <= {path.name for path in folder.iterdir()}
    for name in declared:
        assert _default(FILES[overlay].get("secrets", {}).get(name, {"file": f"./secrets/{name}"})["file"]) == (
            f"./secrets/{name}"
        )


def test_the_script_keeps_what_is_there_and_the_settings_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "github_token").write_text("mine\n")
    seen = []
    for _ in range(2):
        subprocess.run(["sh", DOCKER / "make-secrets.sh", folder], check=False, capture_output=True)
        seen.append({path.name: path.read_text() for path in folder.iterdir()})
    texts = seen[0]
    assert seen[1] == texts
    assert texts["github_token"] == "mine\n"
    assert re.fullmatch(r"[A-Za-z0-9]{40}\n", texts["redis_password"])
    assert texts["redis_password"] != texts["database_password"]
    # only root may give files to a group of which it is no member
    mode, group = (0o640, 10001) if os.geteuid() == 0 else (0o600, os.getegid())
    for path in folder.iterdir():
        if path.name != "github_token":
            assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_gid) == (mode, group), path
    monkeypatch.setenv("BROKER_PASSWORD_FILE", str(folder / "redis_password"))
    monkeypatch.setenv("FLOWER_BASIC_AUTH_FILE", str(folder / "flower_basic_auth"))
    monkeypatch.setenv("HF_TOKEN_FILE", str(folder / "hf_token"))
    settings = get_settings()
    assert settings.broker.url == f"redis://:{texts['redis_password'].strip()}@127.0.0.1:6379/0"
    assert settings.flower_basic_auth is not None
    assert settings.hf_token is None


@pytest.mark.parametrize(("overlay", "name", "service"), EVERY_SERVICE)
def test_what_is_mounted_is_there(overlay: str, name: str, service: dict[str, Any]) -> None:
    volumes = FILES["compose.yaml"]["volumes"]
    for volume in service.get("volumes", ()):
        source = re.sub(r":(?=/).*", "", _default(volume))
        if source.startswith("."):
            if source not in MADE_BY_THE_OPERATOR:
                assert (DOCKER / source).exists(), f"{source} is not in the repository"
        elif not source.startswith("/"):
            assert source in volumes


@pytest.mark.parametrize(("overlay", "name", "service"), EVERY_SERVICE)
def test_every_container_is_locked_and_bounded(overlay: str, name: str, service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert service["mem_limit"]
    assert not service.get("privileged")
    image = _default(service["image"])
    assert not image.endswith(":latest")
    assert ":" in image
    if service["restart"] == "unless-stopped":
        assert service["healthcheck"]["test"], "what is restarted says how it is"
    for port in service.get("ports", ()):
        assert _default(port).startswith("127.0.0.1:")


@pytest.mark.parametrize("overlay", FILES)
def test_the_private_hotkey_and_the_docker_socket_stay_where_they_are_needed(overlay: str) -> None:
    having_key, having_socket = set(), set()
    for name, service in _merged(overlay).items():
        for volume in service.get("volumes", ()):
            if "WALLETS_DIR:-./wallets}" in volume and "PUBLIC" not in volume:
                assert volume.endswith(":ro")
                having_key.add(name)
            if "docker.sock" in volume:
                having_socket.add(name)
    assert having_key == ({"chain", "cpu"} if overlay == "compose.models.yaml" else {"chain"})
    assert having_socket == ({"gpu-models"} if overlay == "compose.models.yaml" else set())


def test_only_gpu_workers_reserve_a_device() -> None:
    reserving = {
        (overlay, name)
        for overlay in FILES
        for name, service in FILES[overlay]["services"].items()
        if any("gpu" in device["capabilities"] for device in _devices(service))
    }
    assert reserving == {("compose.yaml", "gpu"), ("compose.models.yaml", "gpu-models")}
    assert not [name for name, service in _started("compose.cpu.yaml").items() if _devices(service)]


def _devices(service: dict[str, Any]) -> list[dict[str, Any]]:
    return service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])


@pytest.mark.parametrize("way", ["alone", "without a GPU"])
def test_a_warm_shutdown_has_time_for_the_longest_task(way: str) -> None:
    limits = configuration(get_settings())["task_annotations"]
    longest = {
        QueueName.CPU: limits["workers.submissions.examine_submission"]["time_limit"],
        QueueName.GPU: limits["workers.scoring.score_boltz"]["time_limit"],
        # one submission of weights: until its block is final (chain/subtensor.py), and the read before it
        QueueName.CHAIN: 120 + get_settings().chain_timeout.total_seconds(),
    }
    for service in _started(WAYS[way]).values():
        if "worker" in service.get("command", ()):
            queue = QueueName(service["command"][-1])
            assert _duration(service["stop_grace_period"]).total_seconds() >= longest[queue], queue


def test_ports_are_the_same_inside_and_in_the_settings() -> None:
    environment = BASE["api"]["environment"]
    assert BASE["api"]["ports"][0].endswith(f":{environment['API_PORT']}")
    assert BASE["flower"]["ports"][0].endswith(f":{environment['FLOWER_PORT']}")
    scoring = FILES["compose.models.yaml"]["services"]["scoring-api"]
    assert scoring["ports"][0].endswith(f":{scoring['environment']['SCORING_API_PORT']}")


def test_prometheus_asks_the_services_at_their_ports() -> None:
    scraped = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    targets = {target for job in scraped for group in job.get("static_configs", ()) for target in group["targets"]}
    targets |= {
        f"{name}:{found['port']}"
        for job in scraped
        for found in job.get("dns_sd_configs", ())
        for name in found["names"]
    }
    first = int(BASE["chain"]["environment"]["METRICS_PORT"])
    services = {offset: offset.name.lower().replace("_", "-") for offset in PortOffset}
    wanted = {f"{services[offset]}:{first + offset}" for offset in PortOffset if offset is not PortOffset.MIXED}
    assert wanted <= targets
    present = {*BASE, *FILES["compose.models.yaml"]["services"]}
    assert {target.split(":")[0] for target in targets} - {"localhost"} <= present


def test_the_images_are_targets_of_the_dockerfile() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    targets = set(re.findall(r"^FROM \S+ AS (\S+)", text, flags=re.MULTILINE))
    for services in (document["services"] for document in FILES.values()):
        for service in services.values():
            if "build" in service:
                assert service["build"]["target"] in targets
                assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
                for argument in service["build"].get("args", {}):
                    assert re.search(rf"^ARG {argument}\b", text, flags=re.MULTILINE), argument


def test_the_example_of_dotenv_names_settings_only() -> None:
    known = set(handed_on()) | {"LIVE", "FLOWER_URL", "PSICHIC_WEIGHTS", "ESM_CHECKPOINT", "BOLTZ_CACHE"}
    texts = [(DOCKER / name).read_text() for name in FILES]
    known |= {name for text in texts for name in re.findall(r"\$\{(\w+)", text)}
    for line in (DOCKER / "env.example").read_text().splitlines():
        found = re.match(r"#?([A-Z_]+)=", line)
        assert not line.strip() or line.startswith("#") or found, line
        if found:
            assert found[1] in known, found[1]
