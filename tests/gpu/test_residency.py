"""Models share a device while there is room, and give way, measurably, when there is none."""

from __future__ import annotations

import numpy as np
import pytest

from gpu.residency import BudgetMemory, DeviceTooSmall, MemoryNotReturned, Residency

MIB = 2**20


class Model:
    """Holds real memory between ``load`` and ``close``."""

    def __init__(self, megabytes: int) -> None:
        self.size = megabytes * MIB
        self.held: np.ndarray | None = None
        self.closed = 0

    def load(self) -> None:
        self.held = np.zeros(self.size, dtype=np.uint8)

    def close(self) -> None:
        self.held = None
        self.closed += 1

    def resident_bytes(self) -> int:
        return 0 if self.held is None else self.held.nbytes


class Leaking(Model):
    """Says that it holds nothing, and does not give its memory back."""

    def resident_bytes(self) -> int:
        return self.size if self.held is not None or self.closed else 0


def use(residency: Residency, model: Model) -> None:
    residency.admit(model, model.size)
    if model.held is None:
        model.load()


def test_both_stay_where_both_fit() -> None:
    residency = Residency.of_device("cpu", budget_bytes=10 * MIB)
    psichic, boltz = Model(2), Model(7)
    for model in (psichic, boltz, psichic, boltz):
        use(residency, model)
    assert psichic.closed == boltz.closed == 0
    assert set(residency.residents) == {psichic, boltz}


def test_one_gives_way_and_comes_back() -> None:
    residency = Residency.of_device("cpu", budget_bytes=8 * MIB)
    psichic, boltz = Model(2), Model(7)
    use(residency, psichic)
    use(residency, boltz)
    assert psichic.held is None
    assert residency.residents == (boltz,)
    use(residency, psichic)
    assert boltz.held is None
    assert residency.residents == (psichic,)
    assert (psichic.closed, boltz.closed) == (1, 1)


def test_the_one_used_longest_ago_goes_first_and_no_more_than_needed() -> None:
    residency = Residency.of_device("cpu", budget_bytes=10 * MIB)
    first, second, third = Model(3), Model(3), Model(5)
    use(residency, first)
    use(residency, second)
    use(residency, first)
    use(residency, third)
    assert (first.closed, second.closed) == (0, 1)


def test_headroom_is_kept_free() -> None:
    residency = Residency(BudgetMemory(10 * MIB), headroom_bytes=2 * MIB)
    small, large = Model(2), Model(7)
    use(residency, small)
    use(residency, large)
    assert small.closed == 1


def test_a_model_larger_than_the_device_is_refused_after_all_others_are_closed() -> None:
    residency = Residency.of_device("cpu", budget_bytes=8 * MIB)
    small, huge = Model(2), Model(9)
    use(residency, small)
    with pytest.raises(DeviceTooSmall, match=r"Model needs 0\.01 GiB and 0\.01 GiB are free"):
        use(residency, huge)
    assert small.closed == 1


def test_memory_that_does_not_come_back_is_an_error() -> None:
    residency = Residency.of_device("cpu", budget_bytes=8 * MIB)
    leaking, other = Leaking(4), Model(6)
    use(residency, leaking)
    with pytest.raises(MemoryNotReturned, match=r"only 0\.00 GiB came back"):
        use(residency, other)


def test_a_loaded_model_asks_for_nothing_more() -> None:
    residency = Residency.of_device("cpu", budget_bytes=4 * MIB)
    model = Model(4)
    use(residency, model)
    use(residency, model)
    assert model.closed == 0


def test_close_closes_all() -> None:
    residency = Residency.of_device("cpu", budget_bytes=8 * MIB)
    models = [Model(2), Model(2)]
    for model in models:
        use(residency, model)
    residency.close()
    assert [model.held for model in models] == [None, None]
    assert residency.residents == ()


@pytest.mark.gpu
def test_the_driver_sees_the_memory_come_back() -> None:
    import torch

    class OnDevice(Model):
        tensor: torch.Tensor | None = None

        def load(self) -> None:
            self.tensor = torch.zeros(self.size, dtype=torch.uint8, device="cuda")
            self.held = np.zeros(1, dtype=np.uint8)

        def close(self) -> None:
            self.tensor = None
            super().close()

        def resident_bytes(self) -> int:
            return 0 if self.tensor is None else self.tensor.nbytes

    free, _ = torch.cuda.mem_get_info()
    residency = Residency.of_device("cuda")
    first, second = OnDevice(int(free * 0.6 / MIB)), OnDevice(int(free * 0.6 / MIB))
    use(residency, first)
    use(residency, second)
    assert first.closed == 1
    residency.close()
