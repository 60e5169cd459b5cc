"""Everything that locks an untrusted container in, as one value, and the check that the daemon kept to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

GIB: Final = 1 << 30
MIB: Final = 1 << 20

# RFC 5737's documentation network: routed nowhere, so a look-up fails whatever a daemon does with it
_NO_NAMESERVER: Final = "192.0.2.1"
_CACHE: Final = "/tmp/.cache"  # noqa: S108
_OFFLINE: Final = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PYTHONUNBUFFERED": "1",
}
_SCRATCH: Final = {"HOME": "/tmp", "TMPDIR": "/tmp", "XDG_CACHE_HOME": _CACHE}  # noqa: S108
_CACHES: Final = {
    "HF_HOME": f"{_CACHE}/huggingface",
    "TORCH_HOME": f"{_CACHE}/torch",
    "TRITON_CACHE_DIR": f"{_CACHE}/triton",
    "NUMBA_CACHE_DIR": f"{_CACHE}/numba",
    "MPLCONFIGDIR": f"{_CACHE}/matplotlib",
}


@dataclass(frozen=True, slots=True)
class Locks:
    """What a container may have. Sizes in bytes; ``gpu`` is a device index or UUID, None for none.

    ``runtime`` as the Engine names it (``runsc``), None for the Engine's own.

    ``tmpfs`` memory counts towards ``memory``, so the sizes below bound one mount, not the sum.
    """

    memory: int = 32 * GIB
    cpus: float = 4.0
    pids: int = 1024
    scratch: int = 8 * GIB
    shared_memory: int = 2 * GIB
    open_files: int = 16_384
    log: int = 8 * MIB
    gpu: str | None = None
    port: int = 8000
    user: str = "65534:65534"
    hostname: str = "model"
    runtime: str | None = None

    def tmpfs(self, volumes: Sequence[str] = ()) -> dict[str, str]:
        """Mount point → options: scratch, and a bounded place over every VOLUME that the image declares."""
        owner = ",".join(f"{kind}={number}" for kind, number in zip(("uid", "gid"), self.user.split(":"), strict=True))
        # the owner may write even where the daemon gives the mount the mode of the image's own folder
        options = f"rw,nosuid,nodev,exec,mode=1777,{owner}"
        fixed = {"/tmp": f"{options},size={self.scratch}", "/var/tmp": f"{options},size={self.scratch}"}  # noqa: S108
        fixed["/run"] = f"rw,nosuid,nodev,noexec,mode=1777,{owner},size={16 * MIB}"
        return dict.fromkeys(volumes, f"{options},size={self.scratch}") | fixed

    def environment(self, image: Sequence[str] = ()) -> dict[str, str]:
        """Offline, with its caches in scratch, except where the image (its ``NAME=value`` list) brings its own."""
        own = {item.partition("=")[0] for item in image}
        return {name: value for name, value in _CACHES.items() if name not in own} | _SCRATCH | _OFFLINE

    def host_config(self, client: Any, network: str, volumes: Sequence[str] = ()) -> dict[str, Any]:
        """The SDK's host configuration: what the kernel and the daemon hold the container to.

        The default seccomp and AppArmor profiles stay in force: naming none keeps them.
        """
        from docker.types import DeviceRequest, LogConfig, Ulimit

        devices = None
        if self.gpu is not None:
            devices = [DeviceRequest(device_ids=[self.gpu], capabilities=[["gpu", "compute", "utility"]])]
        made: dict[str, Any] = client.create_host_config(
            network_mode=network,
            port_bindings={f"{self.port}/tcp": ("127.0.0.1", None)},
            read_only=True,
            tmpfs=self.tmpfs(volumes),
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            pids_limit=self.pids,
            mem_limit=self.memory,
            memswap_limit=self.memory,
            nano_cpus=int(self.cpus * 1e9),
            shm_size=self.shared_memory,
            ipc_mode="private",
            cgroupns="private",
            ulimits=[
                Ulimit(name="nofile", soft=self.open_files, hard=self.open_files),
                Ulimit(name="core", soft=0, hard=0),
            ],
            oom_score_adj=1000,
            init=True,
            restart_policy={"Name": "no"},
            log_config=LogConfig(type="json-file", config={"max-size": str(self.log), "max-file": "1"}),
            dns=[_NO_NAMESERVER],
            dns_opt=["timeout:1", "attempts:1"],
            dns_search=["."],
            device_requests=devices,
            runtime=self.runtime,
        )
        return made

    def container(self, image: Mapping[str, Any]) -> dict[str, Any]:
        """The SDK's arguments for the container itself, for an image as ``inspect`` shows it."""
        config = image.get("Config") or {}
        return {
            "user": self.user,
            "hostname": self.hostname,
            "environment": self.environment(config.get("Env") or ()),
            "ports": [(self.port, "tcp")],
            # a check of the image's own would run programs that nobody asked for
            "healthcheck": {"test": ["NONE"]},
            # else the operator's proxy, password and all, is handed to the miner's code
            "use_config_proxy": False,
            "stdin_open": False,
            "tty": False,
        }

    def missing(self, container: Mapping[str, Any], network: Mapping[str, Any], volumes: Sequence[str]) -> list[str]:
        """The locks that a started container lacks, by what ``inspect`` says of it and of its network."""
        host, config = container["HostConfig"], container["Config"]
        health = (config.get("Healthcheck") or {}).get("Test")
        swap_kept = host.get("MemorySwap") == self.memory
        tmpfs = host.get("Tmpfs") or {}
        options = host.get("SecurityOpt") or []
        ulimits = {limit.get("Name"): limit for limit in host.get("Ulimits") or ()}
        log = host.get("LogConfig") or {}
        gpus = host.get("DeviceRequests") or []
        wanted_gpus = [] if self.gpu is None else [[self.gpu]]
        kept = {
            "user nobody": config.get("User") == self.user,
            "no capabilities": host.get("CapDrop") == ["ALL"] and not host.get("CapAdd"),
            "not privileged": not host.get("Privileged"),
            "no-new-privileges": any(option.startswith("no-new-privileges") for option in options)
            and "no-new-privileges:false" not in options,
            "seccomp and AppArmor": not any("unconfined" in option for option in options)
            and container.get("AppArmorProfile") != "unconfined",
            "read-only root": host.get("ReadonlyRootfs") is True,
            "tmpfs": tmpfs == self.tmpfs(volumes),
            "process limit": host.get("PidsLimit") == self.pids,
            "memory limit": host.get("Memory") == self.memory and not host.get("OomKillDisable"),
            "swap limit (memory and swap together; turn swap accounting on)": swap_kept,
            "cpu limit": host.get("NanoCpus") == int(self.cpus * 1e9),
            "shared memory limit": host.get("ShmSize") == self.shared_memory and host.get("IpcMode") == "private",
            "own namespaces": not any(host.get(key) == "host" for key in ("PidMode", "UTSMode", "UsernsMode"))
            and host.get("CgroupnsMode") in {"private", None},
            "ulimits": {"nofile", "core"} <= set(ulimits) and ulimits["core"].get("Hard") == 0,
            "its runtime": self.runtime is None or host.get("Runtime") == self.runtime,
            "no restart": (host.get("RestartPolicy") or {}).get("Name") in {"no", ""},
            "bounded log": (log.get("Config") or {}).get("max-size") == str(self.log),
            "no mounts of the host's": not host.get("Binds")
            and not host.get("VolumesFrom")
            and not any(mount.get("Type") != "tmpfs" for mount in container.get("Mounts") or ()),
            "no devices": not host.get("Devices") and [gpu.get("DeviceIDs") for gpu in gpus] == wanted_gpus,
            "no health check of its own": health == ["NONE"],
            "nothing published beyond the loopback": all(
                binding.get("HostIp") in {"127.0.0.1", "::1"}
                for bindings in ((container.get("NetworkSettings") or {}).get("Ports") or {}).values()
                for binding in bindings or ()
            )
            and not host.get("PublishAllPorts"),
            "its own internal network": network.get("Internal") is True
            and network.get("Driver") == "bridge"
            and set((container.get("NetworkSettings") or {}).get("Networks") or ()) == {network.get("Name")}
            and host.get("NetworkMode") in {network.get("Name"), network.get("Id")},
        }
        return [lock for lock, holds in kept.items() if not holds]
