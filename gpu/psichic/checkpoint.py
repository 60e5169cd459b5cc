"""A weights folder: ``config.json``, ``degree.pt``, ``model.pt``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app.untrusted import read_json, shown
from gpu.psichic.errors import CheckpointError

if TYPE_CHECKING:
    import torch

    from gpu.psichic.network import DegreeAverages, NetworkShape, PsichicNetwork

FILES: Final = ("config.json", "degree.pt", "model.pt")
UNTRAINED_LABEL: Final = "untrained demo"

_FIXED: Final[Mapping[str, object]] = {
    "mol_in_channels": 43,
    "prot_in_channels": 33,
    "aggregators": ["mean", "min", "max", "std"],
    "scalers": ["identity", "amplification", "linear"],
    "pre_layers": 2,
    "post_layers": 1,
    "total_layer": 3,
}


@dataclass(frozen=True, slots=True)
class WeightsFolder:
    """Where a checkpoint lies, what it is, and the SHA-256 over its three files."""

    path: Path
    config: Mapping[str, Any]
    digest: str

    @property
    def label(self) -> str | None:
        """What the checkpoint says of itself; the demo says that it is untrained."""
        label = self.config.get("label")
        return str(label) if label is not None else None

    @property
    def untrained(self) -> bool:
        """Whether these weights say nothing about affinity."""
        return self.label is not None and self.label.startswith(UNTRAINED_LABEL)

    @property
    def hidden(self) -> int:
        """H."""
        return int(self.config["params"]["hidden_channels"])

    @property
    def evolutionary(self) -> int:
        """D."""
        return int(self.config["params"]["prot_evo_channels"])


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of one file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def open_weights(path: Path) -> WeightsFolder:
    """Check that the folder holds a PSICHIC checkpoint of the supported form, without loading its tensors.

    Raises :class:`CheckpointError` for missing files, an unreadable configuration, or another network.
    """
    missing = [name for name in FILES if not (path / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{path} holds no PSICHIC checkpoint: {', '.join(missing)} missing. "
            "Fetch the weights with `python -m app checkpoints fetch psichic`."
        )
    try:
        config = read_json((path / "config.json").read_text())
    except ValueError as error:
        raise CheckpointError(f"{path / 'config.json'} is not JSON ({error}); fetch the weights again.") from error
    _check_config(config, path / "config.json")
    digest = hashlib.sha256("".join(file_sha256(path / name) for name in FILES).encode()).hexdigest()
    return WeightsFolder(path, config, digest)


def _check_config(config: object, path: Path) -> None:
    if not isinstance(config, dict) or not isinstance(config.get("params"), dict):
        raise CheckpointError(f"{path} has no 'params': it is not a PSICHIC configuration.")
    params: dict[str, Any] = config["params"]
    for name, wanted in _FIXED.items():
        if params.get(name) != wanted:
            raise CheckpointError(
                f"{path} says {name} = {shown(params.get(name))}; this network is built for {wanted!r}."
            )
    for name in ("hidden_channels", "prot_evo_channels", "heads"):
        if not isinstance(params.get(name), int) or params[name] < 1:
            raise CheckpointError(f"{path} says {name} = {shown(params.get(name))}; a positive integer is needed.")
    clusters = params.get("K")
    if not isinstance(clusters, list) or len(clusters) != 3 or not all(isinstance(k, int) and k > 0 for k in clusters):
        raise CheckpointError(f"{path} says K = {shown(clusters)}; three cluster counts are needed.")
    if params["hidden_channels"] % params["heads"]:
        raise CheckpointError(
            f"{path} has {params['hidden_channels']} hidden channels for {params['heads']} heads; "
            "the heads must divide the channels."
        )
    tasks = config.get("tasks")
    if not isinstance(tasks, dict) or not tasks.get("regression_task"):
        raise CheckpointError(f"{path} has no regression task; only the affinity head is supported.")
    others = [name for name in ("classification_task", "mclassification_task") if tasks.get(name)]
    if others:
        raise CheckpointError(f"{path} also has {', '.join(others)}; only the affinity head is supported.")


def _load(path: Path) -> Any:
    import pickle

    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, OSError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} cannot be read as a torch file ({first}); fetch it again.") from error


def degree_averages(histogram: torch.Tensor) -> DegreeAverages:
    """The two averages from an in-degree histogram, rounded to float32 where the original rounds."""
    import torch

    from gpu.psichic.network import DegreeAverages

    h = histogram.to(torch.float32)
    total = int(h.sum())
    d = torch.arange(h.shape[0], dtype=torch.float32)
    return DegreeAverages(
        linear=float((d * h).sum()) / total,
        logarithm=float(((d + 1).log() * h).sum()) / total,
    )


def network_shape(weights: WeightsFolder) -> NetworkShape:
    """Widths and degree statistics of a checkpoint. Raises :class:`CheckpointError`."""
    import torch

    from gpu.psichic.network import NetworkShape

    degrees = _load(weights.path / "degree.pt")
    averages = []
    for name in ("ligand_deg", "protein_deg"):
        histogram = degrees.get(name) if isinstance(degrees, dict) else None
        if not isinstance(histogram, torch.Tensor) or histogram.ndim != 1 or int(histogram.sum()) <= 0:
            raise CheckpointError(f"{weights.path / 'degree.pt'} has no histogram {name!r}; fetch it again.")
        averages.append(degree_averages(histogram))
    params = weights.config["params"]
    return NetworkShape(
        hidden=params["hidden_channels"],
        evolutionary=params["prot_evo_channels"],
        heads=params["heads"],
        clusters=tuple(params["K"]),
        ligand_degrees=averages[0],
        protein_degrees=averages[1],
    )


def load_network(weights: WeightsFolder) -> PsichicNetwork:
    """The network with the checkpoint's parameters, float32 on the CPU, in eval mode.

    Raises :class:`CheckpointError` naming the missing, unexpected or misshapen tensors.
    """
    import torch

    from gpu.psichic.network import PsichicNetwork

    path = weights.path / "model.pt"
    state = _load(path)
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise CheckpointError(f"{path} is not a state_dict of tensors.")
    shape = network_shape(weights)
    with torch.device("meta"):
        network = PsichicNetwork(shape)
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or extra:
        told = [f"lacks {_some(missing)}"] if missing else []
        told += [f"has {_some(extra)} too many"] if extra else []
        raise CheckpointError(f"{path} {' and '.join(told)}: it is not the checkpoint of this network.")
    for name, size in wanted.items():
        if found[name] != size:
            raise CheckpointError(
                f"{path} has {name} of shape {found[name]}, but {weights.path / 'config.json'} "
                f"asks for {size}: the two files are not of one checkpoint."
            )
    network.load_state_dict({name: tensor.to(torch.float32) for name, tensor in state.items()}, assign=True)
    return network.requires_grad_(False).eval()


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more tensors"
