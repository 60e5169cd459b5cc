"""A node of the chain, made up, and what asks it."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator

import pytest

from chain.subtensor import Subtensor
from tests.chain.fake_subtensor import FakeChain, FakeNode
from tests.chain.nodes import subnet

HEAD = 6_000_100


@pytest.fixture
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("BITTENSOR_RUNTIME_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "runtime"))
    yield
    # the SDK leaves the socket of an interrupted handshake to the collector
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def chain() -> FakeChain:
    chain = FakeChain(HEAD)
    chain.put_subnet(subnet())
    return chain


@pytest.fixture
def node(chain: FakeChain) -> Iterator[FakeNode]:
    with FakeNode(chain) as node:
        yield node


@pytest.fixture
def subtensor(node: FakeNode) -> Iterator[Subtensor]:
    subtensor = Subtensor(node.url, (), (), timeout=5)
    yield subtensor
    subtensor.close()
