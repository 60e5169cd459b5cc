"""Which models stay on a device when one worker needs several.

Both where both fit. Else the one that was needed longest ago is closed first, and the memory is *measured* to
have come back before the next is loaded: a model that is still held somewhere would otherwise show up as an
out-of-memory in the middle of somebody else's batch.
"""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, Protocol

from app.domain import ValidatorError

_HEADROOM: Final = 512 * 2**20
_RETURNED: Final = 0.9
"""Share of what a model held that must be free after its ``close()``; the rest is the allocator's rounding."""


class Resident(Protocol):
    """A scorer as the residency sees it: it can say what it holds and give it back."""

    def close(self) -> None:
        """Free the device; the next use loads again."""
        ...

    def resident_bytes(self) -> int:
        """Bytes held on the device now; 0 where nothing is loaded."""
        ...


class Memory(Protocol):
    """How much room a device has."""

    def free_bytes(self, residents: Iterable[Resident]) -> int:
        """Bytes that a new model could take now, with ``residents`` where they are."""
        ...


class DeviceTooSmall(ValidatorError):
    """A model does not fit on the device even when it has it to itself."""


class MemoryNotReturned(ValidatorError):
    """A closed model's memory did not come back."""


class CudaMemory:
    """What the driver says is free on one CUDA device, whatever uses the rest."""

    def __init__(self, device: str = "cuda") -> None:
        self._device = device

    def free_bytes(self, residents: Iterable[Resident]) -> int:
        """Free bytes after torch has handed its unused blocks back."""
        import torch

        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(torch.device(self._device))
        return int(free)


class BudgetMemory:
    """A fixed budget for all residents together: a CPU worker's share of the machine."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes

    def free_bytes(self, residents: Iterable[Resident]) -> int:
        """What the residents leave of the budget, by their own account."""
        return self._budget - sum(resident.resident_bytes() for resident in residents)


class Residency:
    """The models of one worker process on one device. Ask :meth:`admit` before each use of a model.

    ``headroom_bytes`` stay free beside the models, for what scoring itself needs.
    """

    def __init__(self, memory: Memory, headroom_bytes: int = _HEADROOM) -> None:
        self._memory = memory
        self._headroom = headroom_bytes
        self._residents: OrderedDict[int, Resident] = OrderedDict()

    @classmethod
    def of_device(cls, device: str, budget_bytes: int | None = None) -> Residency:
        """For ``cuda…``: what the driver has. For ``cpu``: ``budget_bytes``, by default 8 GiB."""
        if device.startswith("cuda"):
            return cls(CudaMemory(device))
        return cls(BudgetMemory(8 * 2**30 if budget_bytes is None else budget_bytes), headroom_bytes=0)

    @property
    def residents(self) -> tuple[Resident, ...]:
        """Those admitted and not closed by the residency, the one used longest ago first."""
        return tuple(self._residents.values())

    def admit(self, resident: Resident, needed_bytes: int) -> None:
        """Make room for ``resident``, which will hold ``needed_bytes`` once loaded, and count it as used now.

        Others stay where there is room beside them; where there is none they are closed, the one used longest
        ago first.

        Raises:
            DeviceTooSmall: when it does not fit although every other is closed.
            MemoryNotReturned: when a closed model's memory is still taken.
        """
        if self._residents and next(reversed(self._residents)) == id(resident):
            return  # nothing was loaded since it was admitted
        self._residents[id(resident)] = resident
        self._residents.move_to_end(id(resident))
        missing = needed_bytes - resident.resident_bytes()
        if missing <= 0:
            return
        while (free := self._memory.free_bytes(self.residents)) < missing + self._headroom:
            oldest = next(iter(self._residents.values()))
            if oldest is resident:
                del self._residents[id(resident)]
                raise DeviceTooSmall(
                    f"{_name(resident)} needs {_gib(missing + self._headroom)} GiB and {_gib(free)} GiB are free with "
                    "nothing else of this worker loaded; give the worker a larger device or end what else uses it."
                )
            self._evict(oldest)

    def close(self) -> None:
        """Close every resident."""
        while self._residents:
            _, resident = self._residents.popitem()
            resident.close()

    def _evict(self, resident: Resident) -> None:
        held = resident.resident_bytes()
        before = self._memory.free_bytes(self.residents)
        resident.close()
        gc.collect()
        del self._residents[id(resident)]
        returned = self._memory.free_bytes((*self.residents, resident)) - before
        if returned < held * _RETURNED:
            raise MemoryNotReturned(
                f"{_name(resident)} held {_gib(held)} GiB and only {_gib(returned)} GiB came back when it was closed; "
                "something still refers to its tensors. Restart this worker."
            )


def _name(resident: Resident) -> str:
    return type(resident).__name__


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f}"
