"""The containers that miners' models run in. Sizes in bytes, or such as 18GiB."""

from __future__ import annotations

from datetime import timedelta

from pydantic import ByteSize, Field

from app.settings.concern import Concern
from app.settings.values import CommaSeparated, Duration, EngineAddress, NetworkName, RuntimeName, Size


class ContainerSettings(Concern):
    """The Docker Engine, and what a model may take of this machine."""

    docker_host: EngineAddress | None = Field(
        None, description="the Docker Engine, on this machine; its usual socket when empty"
    )
    model_size_limit: Size = Field(ByteSize(18 * 2**30), gt=0, description="largest repository of a model")
    disk_reserve: Size = Field(ByteSize(40 * 2**30), ge=0, description="disk that stays free after a model's download")
    build_limit: Duration = Field(timedelta(minutes=30), description="how long an image's build may take")
    build_network: NetworkName = Field(
        "default",
        description="network of a build's RUN steps: default, none, or a Docker network's name",
    )
    base_registries: CommaSeparated = Field(
        ("docker.io", "ghcr.io", "nvcr.io", "quay.io"),
        description="where base images may come from, separated by commas",
    )
    start_limit: Duration = Field(
        timedelta(minutes=10), description="how long a model may take from its start to healthy"
    )
    container_memory: Size = Field(
        ByteSize(32 * 2**30), gt=0, description="memory of a model's container, scratch included; its build's too"
    )
    container_cpus: float = Field(4.0, gt=0, le=4096, description="CPU cores of a model's container; its build's too")
    container_runtime: RuntimeName | None = Field(
        None, description="runtime of a model's container, such as runsc (gVisor); the Engine's own when empty"
    )
    container_firewall: bool = Field(
        False, description="the host's firewall drops new connections from cv-*: no warning of open ports"
    )
    container_port: int = Field(8000, ge=1024, le=65535, description="port on which a model's server listens")
