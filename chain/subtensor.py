"""The chain, through bittensor's SDK: every call typed, with a deadline, on endpoints tried in turn.

The SDK is imported and connected on first use in each process, on an event loop of its own: a client that crosses a
fork hangs for ever, and so does a blocking call to a node that has gone silent.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from app.domain import Commitment, Neuron, ValidatorError
from app.observability.metrics import CHAIN_READS, WEIGHT_TRIES, chain_failed
from app.untrusted import shown
from chain.head_state import Asked, HeadState
from chain.sources import SourceUnavailable
from chain.weights import (
    SubmissionState,
    UnusableVector,
    WeightsOutcome,
    WeightsParameters,
    WeightsShown,
    dispatch_refusal,
    in_chain_units,
    pool_refusal,
    preflight_refusal,
)

T = TypeVar("T")

RAO: Final = 1_000_000_000

# An SS58 address of 32 bytes has 46 to 48 characters.
_LONGEST_ADDRESS: Final = 64

# The commitments pallet's largest plain field.
MAX_COMMITMENT_BYTES: Final = 128

# Blocks within which a signed weight submission can enter the chain; after that its absence is final.
SUBMISSION_ERA: Final = 16

# Entries of a map that are read in one request; a node gives up to 1000 keys.
_PAGE: Final = 500

# Signing, inclusion and finalization take three to five blocks of 12 s.
_SUBMIT_SECONDS: Final = 120.0

# A node whose newest block is older than this has lost the chain.
_STALE_SECONDS: Final = 300.0

# A dropped connection is reopened once even where there is no second endpoint.
_LEAST_ATTEMPTS: Final = 2

# A node that lies makes the SDK's decoder stumble in any of these ways.
LIES: Final = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)

log = logging.getLogger("celery_validator.subtensor")


class ChainUnavailable(SourceUnavailable):
    """No endpoint gave an answer in time; the message names each endpoint and its fault."""


class WalletError(ValidatorError):
    """The wallet cannot be read."""


@dataclass(frozen=True, slots=True)
class PreparedWeights:
    """A signed submission that was not sent yet: ``vector`` as the chain will show it, UID → u16."""

    vector: Mapping[int, int]
    reveal_round: int | None
    extrinsic: Any


def load_wallet(name: str, hotkey: str, path: Path) -> Any:
    """The validator's wallet; its hotkey must be readable without a password.

    Raises:
        WalletError: no such hotkey file, or it is encrypted; names the file.
    """
    file = path.expanduser() / name / "hotkeys" / hotkey
    if not file.is_file():
        raise WalletError(
            f"no hotkey at {file}; set --wallet.name, --wallet.hotkey or WALLET_PATH, "
            f"or make one with: btcli wallet new-hotkey --wallet {name}/{hotkey}"
        )
    # slow to import, and of no use without the file
    import bittensor as bt

    wallet = bt.Wallet(name, hotkey, str(path.expanduser()))
    try:
        _ = wallet.hotkey
    # the keyfile reader raises its own Rust errors, all of them about this one file
    except Exception as error:  # noqa: BLE001
        raise WalletError(f"the hotkey at {file} cannot be read: {type(error).__name__}: {error}") from None
    return wallet


def is_address(text: str) -> bool:
    """Whether a text is a hotkey's SS58 address as the chain writes it, checksum included."""
    import bittensor_core

    # decoding takes time that grows with the square of the length
    if len(text) > _LONGEST_ADDRESS:
        return False
    try:
        return bool(bittensor_core.ss58_encode(bytes(bittensor_core.ss58_decode(text)), 42) == text)
    except (ValueError, TypeError):
        return False


def signed_by_hotkey(hotkey: str, message: bytes, signature: str | bytes) -> bool:
    """Whether ``signature`` (64 bytes, or hex) over ``message`` is the hotkey's; False for anything malformed.

    The address must be the key's own SS58 text: other prefixes of the same key are refused.
    """
    import bittensor_core

    try:
        raw = bytes.fromhex(signature.removeprefix("0x")) if isinstance(signature, str) else bytes(signature)
        return is_address(hotkey) and bool(bittensor_core.verify(message, raw, hotkey))
    except (ValueError, TypeError):
        return False


class Subtensor:
    """One subnet's view of the chain.

    Args:
        network: a network's name (``finney``) or a ``ws://`` address; several addresses may be joined by commas.
        fallbacks: further endpoints; None takes the public ones of every network named, or, for an address, of the
            network that its node's genesis block is of.
        archives: endpoints that keep pruned state; None as above.
        timeout: deadline in seconds of one read on one endpoint.
    """

    def __init__(
        self,
        network: str,
        fallbacks: Sequence[str] | None = None,
        archives: Sequence[str] | None = None,
        timeout: float = 30.0,
    ) -> None:
        self.network = network
        self._fallbacks = fallbacks
        self._archives = archives
        self._timeout = timeout
        self._lock = threading.Lock()
        self._pid = -1
        self._turn = 0
        self._client: Any = None
        # the newest block as the weights' parameters were read from it; the submission is built on it
        self._head: HeadState | None = None
        # the public network that the node's genesis block is of; empty for another chain
        self._genesis_network: str | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # -- blocks ---------------------------------------------------------------------------------------------------

    def current_block(self) -> int:
        """The newest block's number."""
        return int(self._read("the current block", lambda client: client.block()))

    def finalized_block(self) -> int:
        """The newest block that no reorganisation can take back.

        A node whose clock stands still is left for the next endpoint; where all stand still, the furthest is believed.
        """
        best = -1
        for _ in range(max(1, len(self._endpoints()))):
            finalized, age = self._read("the finalized block", _finalized_and_age)
            best = max(best, finalized)
            if age < _STALE_SECONDS:
                return finalized
            log.warning("%s: the newest block is %.0f s old by this machine's clock", self._endpoint(), age)
            self._drop()
        return best

    def block_hash(self, block: int) -> str:
        """Hash of a block that exists, with its ``0x``."""

        async def read(client: Any) -> str:
            found = await client._substrate.block_hash(block)
            if not found:
                raise ValueError(f"block {block} is not known")
            return str(found)

        return self._read(f"the hash of block {block}", read)

    def block_time(self, block: int) -> float:
        """Unix time (s) of a block."""

        async def read(client: Any) -> float:
            return float((await client.timestamp(block)).timestamp())

        return self._read(f"the time of block {block}", read)

    # -- the subnet -----------------------------------------------------------------------------------------------

    def tempo(self, netuid: int, block: int) -> int:
        """The subnet's tempo at a block of the last few minutes."""
        import bittensor as bt

        async def read(client: Any) -> int:
            state = await HeadState.recent(client._substrate, block)
            return int(await state.value(bt.storage.SubtensorModule.Tempo, netuid))

        return self._read(f"tempo of subnet {netuid}", read)

    def metagraph(self, netuid: int, block: int) -> tuple[Neuron, ...]:
        """The metagraph at a block, UIDs ascending.

        Raises:
            ValidatorError: the chain has no such subnet.
        """

        async def read(client: Any) -> tuple[Neuron, ...] | None:
            found = await (await client.at(block)).subnets.metagraph(netuid, commitments=False)
            return None if found is None else _neurons(found)

        neurons = self._read(f"the metagraph of subnet {netuid} at block {block}", read)
        if neurons is None:
            raise ValidatorError(f"{self.network} has no subnet {netuid} at block {block}; correct --netuid")
        return neurons

    def commitments(self, netuid: int, block: int) -> tuple[Commitment, ...]:
        """Every commitment of the subnet as it stood at a block: one map query."""
        import bittensor as bt

        item = bt.storage.Commitments.CommitmentOf

        async def read(client: Any) -> tuple[Commitment, ...]:
            block_hash = await client._substrate.block_hash(block)

            async def pages(raw: Any) -> list[tuple[Any, Any]]:
                return [pair async for pair in await raw.query_map(*item, [netuid], block_hash, page_size=_PAGE)]

            return tuple(
                Commitment(str(hotkey), int(record["block"]), _commitment_text(record["info"]["fields"]))
                for hotkey, record in await client._substrate._read(pages)
            )

        return self._read(f"commitments of subnet {netuid} at block {block}", read)

    def weights_parameters(self, netuid: int, hotkey: str) -> tuple[WeightsParameters, tuple[Neuron, ...]]:
        """What decides whether the hotkey's weights are accepted, and the metagraph, both as of the newest block.

        Raises:
            ValidatorError: the chain has no such subnet.
        """

        async def read(client: Any) -> tuple[WeightsParameters, tuple[Neuron, ...]] | None:
            self._head = await _head_for_weights(client, netuid, hotkey)
            return await _weights_parameters(self._head, netuid, hotkey)

        found = self._read(f"the weight parameters of subnet {netuid}", read)
        if found is None:
            raise ValidatorError(f"{self.network} has no subnet {netuid}; correct --netuid")
        return found

    def weights_on_chain(self, netuid: int, uid: int) -> WeightsShown:
        """What the newest block shows of a validator's weights."""
        import bittensor as bt

        items = bt.storage.SubtensorModule
        asked: list[Asked] = [
            (items.Keys, [netuid, uid]),
            (items.LastUpdate, [netuid]),
            (items.Weights, [netuid, uid]),
        ]

        async def read(client: Any) -> WeightsShown:
            head = await HeadState.newest(client._substrate)
            await head.read(asked)
            hotkey, updates, weights = [await head.value(item, *keys) for item, keys in asked]
            return WeightsShown(
                block=head.number,
                hotkey=None if hotkey is None else str(hotkey),
                last_update=int(updates[uid]) if uid < len(updates or ()) else 0,
                weights={int(target): int(value) for target, value in weights or ()},
            )

        return self._read(f"the weights of UID {uid}", read)

    def drand_signature(self, drand_round: int) -> str | None:
        """A round's signature as the chain's own oracle stored it (hex, unproven); None where it did not."""
        import bittensor as bt

        pulse = self._read(
            f"drand round {drand_round} on the chain",
            lambda client: client.query(bt.storage.Drand.Pulses, [drand_round]),
        )
        if not pulse:
            return None
        signature = str(pulse["signature"])
        return signature[2:] if signature.startswith("0x") else signature.encode().hex()

    # -- writing --------------------------------------------------------------------------------------------------

    def set_weights(self, netuid: int, weights: Mapping[int, float], wallet: Any) -> WeightsOutcome:
        """Prepare and send one weight submission. Never sent twice; never raises for network, node or runtime."""
        try:
            found, _ = self.weights_parameters(netuid, str(wallet.hotkey.ss58_address))
        except SourceUnavailable as error:
            return WeightsOutcome(SubmissionState.BUSY, str(error))
        except ValidatorError as error:
            return WeightsOutcome(SubmissionState.REFUSED, str(error))
        prepared = self.prepare_weights(found, weights, wallet)
        return prepared if isinstance(prepared, WeightsOutcome) else self.send_weights(prepared, wallet)

    def prepare_weights(
        self, found: WeightsParameters, weights: Mapping[int, float], wallet: Any
    ) -> PreparedWeights | WeightsOutcome:
        """Build and sign a submission, with the subnet's version key; the outcome where the SDK's own look refuses it.

        Nothing is sent. Never raises for network, node or runtime.
        """
        import bittensor as bt
        from bittensor.intents.base import BuiltCall

        try:
            vector = in_chain_units(weights, found)
        except UnusableVector as error:
            return WeightsOutcome(SubmissionState.REFUSED, str(error))
        intent = bt.SetWeights(
            netuid=found.netuid,
            weights=vector,
            version_key=found.version_key or 0,
        )

        async def prepare(client: Any) -> PreparedWeights:
            head = self._head
            if head is None or head.number != found.block:
                head = await _head_for_weights(client, found.netuid, found.hotkey)
            built = await intent.build(head, wallet)
            call, extras = (built.call, built.extras) if isinstance(built, BuiltCall) else (built, {})
            signed = await client._substrate.raw.create_signed_extrinsic(
                call, wallet.hotkey, era={"period": SUBMISSION_ERA}
            )
            return PreparedWeights(vector, extras.get("reveal_round"), signed)

        try:
            return self._once(prepare, self._timeout)
        except bt.RpcConnectionError as error:
            self._drop()
            return WeightsOutcome(SubmissionState.BUSY, f"{self._endpoint()}: {error}")
        except bt.ChainError as error:
            return preflight_refusal(error.code.value, error.name, str(error.message))
        except (OSError, TimeoutError) as error:
            self._drop()
            return WeightsOutcome(SubmissionState.BUSY, f"{self._endpoint()}: {_named(error)}")
        # a runtime that lacks what this SDK reads (StorageFunctionNotFound) or a node that lies
        except Exception as error:  # noqa: BLE001
            sentence = f"the installed bittensor cannot prepare weights for this runtime: {_named(error)}"
            return WeightsOutcome(SubmissionState.REFUSED, sentence)

    def send_weights(self, prepared: PreparedWeights, wallet: Any) -> WeightsOutcome:
        """Send what was prepared and wait until it is final. Never sent twice; never raises for network or node.

        ``UNKNOWN`` means that it may be in the chain, or may yet enter it within ``SUBMISSION_ERA`` blocks.
        """
        outcome = replace(self._send_weights(prepared, wallet), reveal_round=prepared.reveal_round)
        WEIGHT_TRIES.labels(outcome.state.value).inc()
        return outcome

    def _send_weights(self, prepared: PreparedWeights, wallet: Any) -> WeightsOutcome:
        from bittensor.result import chain_error_from_substrate_request

        async def submit(client: Any) -> Any:
            raw = client._substrate.raw
            try:
                return await raw.submit_extrinsic(
                    prepared.extrinsic, wait_for_inclusion=True, wait_for_finalization=True
                )
            finally:
                # a submission that failed used no nonce; one that did is counted by the chain
                raw.clear_nonce_cache_for_account(wallet.hotkey.ss58_address)

        try:
            report = self._once(submit, _SUBMIT_SECONDS)
        # whatever ends the watch leaves the same question, unless the node's pool gave a code
        except Exception as error:  # noqa: BLE001
            payload = getattr(error, "payload", None)
            details = payload.get("error") if isinstance(payload, dict) else None
            code = details.get("code") if isinstance(details, dict) else None
            if not isinstance(code, int):
                self._drop()
                return pool_refusal(None, None, f"{self._endpoint()}: {_named(error)}")
            named = chain_error_from_substrate_request(error)
            return pool_refusal(code, named.name, shown(str(error), 300))
        extrinsic = None if report.extrinsic_idx is None else f"{report.block_number}-{report.extrinsic_idx:04d}"
        if report.is_success:
            return WeightsOutcome(SubmissionState.INCLUDED, "included", report.block_hash, extrinsic)
        details = report.error_message if isinstance(report.error_message, dict) else {}
        docs = details.get("docs") or details.get("name") or report.error_message
        text = " ".join(docs) if isinstance(docs, list) else str(docs)
        refused = dispatch_refusal(details.get("name"), shown(text, 300))
        return replace(refused, block_hash=report.block_hash, extrinsic=extrinsic)

    # -- the connection -------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close this process's connection and end its thread."""
        self._drop()
        with self._lock:
            loop, self._loop = self._loop, None
            if loop is not None and self._pid == os.getpid():
                with contextlib.suppress(Exception):
                    asyncio.run_coroutine_threadsafe(_cancel_others(), loop).result(2)
                loop.call_soon_threadsafe(loop.stop)
                self._thread.join(5)
                loop.close()

    def _labels(self) -> list[str]:
        """The networks that are named, and the one that a node of one's own says it belongs to."""
        from bittensor import settings

        named = [part.strip() for part in self.network.split(",") if part.strip()]
        try:
            labels = [settings.resolve_endpoint(part)[0] for part in named]
        except ValueError as error:
            raise ValidatorError(f"--subtensor.network: {error}") from None
        return [*labels, *([self._genesis_network] if self._genesis_network else [])]

    def _endpoints(self) -> list[str]:
        from bittensor import settings

        labels = self._labels()
        urls = [settings.resolve_endpoint(part.strip())[1] for part in self.network.split(",") if part.strip()]
        public = [url for label in labels for url in settings.default_fallback_endpoints(label)]
        return list(dict.fromkeys([*urls, *(public if self._fallbacks is None else self._fallbacks)]))

    def _archive_endpoints(self) -> list[str]:
        from bittensor import settings

        if self._archives is not None:
            return list(self._archives)
        return list(dict.fromkeys(url for label in self._labels() for url in settings.default_archive_endpoints(label)))

    def _endpoint(self) -> str:
        endpoints = self._endpoints()
        return endpoints[self._turn % len(endpoints)]

    async def _connected(self) -> Any:
        if self._client is None:
            client = await self._open()
            if self._genesis_network is None and None in {self._fallbacks, self._archives}:
                self._genesis_network = await _network_of(client)
                if self._genesis_network and self._genesis_network not in self._labels()[:-1]:
                    # a node of one's own: what it has pruned is read from its network's public archives
                    await client.close()
                    client = await self._open()
            self._client = client
        return self._client

    async def _open(self) -> Any:
        import bittensor as bt

        endpoints = self._endpoints()
        first = self._turn % len(endpoints)
        ordered = endpoints[first:] + endpoints[:first]
        archives = self._archive_endpoints()
        rpc = bt.RpcSubstrate(ordered[0], fallback_endpoints=ordered[1:], archive_endpoints=archives)
        client = bt.Client(self._labels()[0], substrate=rpc)
        try:
            # not the client's own: it reads the symbols of every subnet's token besides, for display
            await rpc.connect()
        except BaseException:
            with contextlib.suppress(Exception):
                await client.close()
            raise
        return client

    def _once(self, call: Callable[[Any], Awaitable[T]], seconds: float) -> T:
        """Run one call on this process's own loop, under a deadline that also bounds connecting."""
        with self._lock:
            # a fork copies the attributes, but neither the thread nor the right to the socket
            if self._pid != os.getpid() or self._loop is None:
                self._pid, self._client, self._head = os.getpid(), None, None
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="subtensor", daemon=True)
                self._thread.start()
            loop = self._loop

        async def bounded() -> T:
            async with asyncio.timeout(seconds):
                return await call(await self._connected())

        future = asyncio.run_coroutine_threadsafe(bounded(), loop)
        try:
            return future.result(seconds + 5)
        except concurrent.futures.TimeoutError:
            # also raised, as the same class, by the inner deadline
            future.cancel()
            raise TimeoutError(f"no answer within {seconds:.0f} s") from None

    def _read(self, what: str, call: Callable[[Any], Awaitable[T]]) -> T:
        """A read, on each endpoint in turn until one answers.

        Raises:
            ChainUnavailable: none did; names every endpoint tried.
        """
        import bittensor as bt

        faults: list[str] = []
        CHAIN_READS.inc()
        for _ in range(max(_LEAST_ATTEMPTS, len(self._endpoints()))):
            try:
                return self._once(call, self._timeout)
            except (bt.BittensorError, OSError, TimeoutError, *LIES) as error:
                faults.append(f"{self._endpoint()}: {_named(error)}")
                chain_failed(error)
                self._drop()
        raise ChainUnavailable(f"the chain did not give {what}: " + "; ".join(dict.fromkeys(faults)))

    def _drop(self) -> None:
        """Leave the present connection; the next call opens one to the next endpoint."""
        client, self._client, self._head = self._client, None, None
        self._turn += 1
        if client is not None and self._loop is not None and self._pid == os.getpid():
            closing = asyncio.run_coroutine_threadsafe(client.close(), self._loop)
            with contextlib.suppress(Exception):
                closing.result(2)


async def _cancel_others() -> None:
    """End what still runs on this loop: a reader of a node that went silent."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    # a transport closes its socket one turn of the loop after it was told to
    await asyncio.sleep(0.05)


async def _network_of(client: Any) -> str:
    """The public network that a node belongs to by its genesis block; empty for another chain."""
    from bittensor import settings

    genesis = await client._substrate.raw.genesis_hash()
    return settings.DEFAULT_NETWORK if genesis == settings.FINNEY_GENESIS_HASH else ""


async def _finalized_and_age(client: Any) -> tuple[int, float]:
    finalized, head = int(await client.finalized_block()), int(await client.block())
    if finalized > head:
        raise ValueError(f"the node says that block {finalized} is final and block {head} the newest")
    stamp = (await client.timestamp()).timestamp()
    return finalized, time.time() - stamp


async def _head_for_weights(client: Any, netuid: int, hotkey: str) -> HeadState:
    """The newest block, with all that weights depend on: what we judge by, and what the SDK builds the call from."""
    import bittensor as bt

    items = bt.storage.SubtensorModule
    head = await HeadState.newest(client._substrate)
    # the SDK's preflight asks for the first two, sealing a commit for the others
    for_the_call: tuple[Any, ...] = (
        items.SubnetEpochConsensus,
        items.ValidatorPermit,
        items.Tempo,
        items.RevealPeriodEpochs,
        items.LastEpochBlock,
        items.PendingEpochAt,
        items.SubnetEpochIndex,
        items.BlocksSinceLastStep,
    )
    asked: list[Asked] = [(item, [netuid]) for item in (*_weights_items(), *for_the_call)]
    asked += [(items.Uids, [netuid, hotkey]), (items.StakeThreshold, []), (items.CommitRevealWeightsVersion, [])]
    await head.read(asked)
    return head


def _weights_items() -> tuple[Any, ...]:
    import bittensor as bt

    items = bt.storage.SubtensorModule
    return (
        items.WeightsSetRateLimit,
        items.WeightsVersionKey,
        items.MinAllowedWeights,
        items.MaxWeightsLimit,
        items.CommitRevealWeightsEnabled,
        items.MechanismCountCurrent,
        items.SubnetOwnerHotkey,
        items.LastUpdate,
    )


async def _weights_parameters(
    head: HeadState, netuid: int, hotkey: str
) -> tuple[WeightsParameters, tuple[Neuron, ...]] | None:
    import bittensor as bt
    from bittensor import metagraph as metagraphs

    items = bt.storage.SubtensorModule
    metagraph = await metagraphs.fetch(head, netuid, commitments=False)
    if metagraph is None:
        return None
    uid, threshold = await head.value(items.Uids, netuid, hotkey), await head.value(items.StakeThreshold)
    commit_version = await head.value(items.CommitRevealWeightsVersion)
    values = [await head.value(item, netuid) for item in _weights_items()]
    rate, version_key, least, most, commits, mechanisms, owner, updates = values
    neurons = _neurons(metagraph)
    own = next((neuron for neuron in neurons if uid is not None and neuron.uid == int(uid)), None)
    last = None if own is None or updates is None else int(updates[own.uid]) if own.uid < len(updates) else 0
    return (
        WeightsParameters(
            netuid=netuid,
            hotkey=hotkey,
            block=head.number,
            uid=None if own is None else own.uid,
            last_update=last,
            rate_limit=_whole(rate),
            version_key=_whole(version_key),
            min_allowed=_whole(least),
            max_limit=_whole(most),
            permit=None if own is None else own.validator_permit,
            owns_subnet=owner == hotkey,
            stake=None if own is None else own.stake,
            stake_threshold=None if threshold is None else int(threshold) / RAO,
            commit_reveal=None if commits is None else bool(commits),
            commit_reveal_version=_whole(commit_version),
            mechanisms=_whole(mechanisms),
        ),
        neurons,
    )


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)


def _neurons(metagraph: Any) -> tuple[Neuron, ...]:
    """The SDK's neurons as ours, UIDs ascending."""
    neurons = (
        Neuron(
            uid=int(neuron.uid),
            hotkey=neuron.hotkey,
            coldkey=neuron.coldkey,
            stake=neuron.total_stake.rao / RAO,
            validator_permit=bool(neuron.validator_permit),
        )
        for neuron in metagraph.neurons
    )
    return tuple(sorted(neurons, key=lambda neuron: neuron.uid))


def _named(error: BaseException) -> str:
    return shown(error, 300) if str(error) else type(error).__name__


def _commitment_text(fields: Sequence[Any]) -> str:
    """The text of a commitment's first raw field; bytes that are not UTF-8 stay visible as escapes.

    A commitment may have up to three fields; they are never joined.
    """
    for group in fields:
        for item in group if isinstance(group, (list, tuple)) else (group,):
            if not isinstance(item, Mapping):
                continue
            for kind, value in item.items():
                if kind.startswith("Raw") or kind == "BigRaw":
                    return _field_bytes(value).decode("utf-8", "backslashreplace")
    return ""


def _field_bytes(value: Any) -> bytes:
    """The bytes of a field as the SDK gives them: ``0x`` and hex digits, text, or bytes; none of anything else."""
    if isinstance(value, str):
        # a BigRaw arrives as text where it is valid UTF-8
        with contextlib.suppress(ValueError):
            if value.startswith("0x"):
                return bytes.fromhex(value[2:])
        return value.encode("utf-8", "backslashreplace")
    # bytes(n) of a number is n zeros: as much memory as somebody likes
    with contextlib.suppress(ValueError, TypeError):
        return bytes(value) if isinstance(value, Iterable) else b""
    return b""
