"""A Subtensor node that is not one: the real SDK talks to it over a real websocket.

State is kept per block in memory, in true SCALE; signatures and nonces are checked as a node does. Weights are checked
as the pallet does: at dispatch, or, where they are committed, at the reveal. Forks replace the newest blocks and give
their extrinsics back to the pool. Not modelled: consensus, fees, and drand: a commit is opened by what
:func:`tests.chain.nodes.remembered_commits` saw being sealed, a set number of blocks after it.
"""

# ruff: noqa: N802, N815  (the handlers bear the names of the RPC methods)

from __future__ import annotations

import asyncio
import bisect
import json
import logging
import struct
import threading
import time
import zlib
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from http import HTTPStatus
from typing import Any

import bittensor_core
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tests.chain.metadata import SPEC_VERSION, TX_VERSION, compact, read_compact, runtime_metadata

RAO = 10**9
BLOCK_MS = 12_000

log = logging.getLogger("fake_subtensor")


class RpcError(Exception):
    """An error object of JSON-RPC."""

    def __init__(self, code: int, message: str, data: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, data

    def payload(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message} | ({"data": self.data} if self.data else {})


class DispatchFailure(Exception):
    """A pallet's error: the extrinsic is in the block, and failed."""

    def __init__(self, name: str, pallet: str = "SubtensorModule") -> None:
        super().__init__(f"{pallet}.{name}")
        self.pallet, self.name = pallet, name


@dataclass
class FakeNeuron:
    hotkey: str
    coldkey: str
    stake: float = 0.0
    validator_permit: bool = False
    last_update: int = 0
    registered_at: int = 0


@dataclass
class FakeSubnet:
    netuid: int = 68
    tempo: int = 360
    weights_rate_limit: int = 100
    commit_reveal: bool = False
    min_allowed_weights: int = 1
    max_weights_limit: int = 65_535
    weights_version_key: int = 0
    commit_reveal_version: int = 4
    # blocks from the commit to its reveal
    reveal_after: int = 5
    mechanisms: int = 1
    owner_hotkey: str | None = None
    neurons: list[FakeNeuron] = field(default_factory=list)


@dataclass
class SealedWeights:
    """What a time-locked commit holds."""

    weights: dict[int, int]
    version_key: int


class FakeChain:
    """Block-versioned state. ``head`` is the newest block; reads of any earlier block see what held then.

    ``without``: storage items that this runtime does not have. ``keeps``: a lite node's blocks of state.
    """

    def __init__(
        self,
        head: int = 6_000_100,
        finality_lag: int = 1,
        genesis_ms: int | None = None,
        *,
        without: Iterable[str] = (),
        keeps: int | None = None,
    ) -> None:
        self.metadata = runtime_metadata(frozenset(without))
        # the SDK keeps a runtime's metadata by its version
        self.spec_version = SPEC_VERSION + zlib.crc32(" ".join(sorted(without)).encode()) % 100_000
        self._without, self._keeps = frozenset(without), keeps
        self._runtime = bittensor_core.Runtime(self.metadata, self.spec_version, TX_VERSION, 42)
        self._types = {entry["id"]: entry["type"] for entry in json.loads(self._runtime.registry_json())["types"]}
        facts = self._runtime.metadata_ir()
        self._pallet_index = {pallet["name"]: pallet["index"] for pallet in facts["pallets"]}
        self._error_index = {
            (pallet["name"], error["name"]): error["index"] for pallet in facts["pallets"] for error in pallet["errors"]
        }
        self.head = head
        self.finality_lag = finality_lag
        self.lie_about_head: int | None = None
        self.pruned_below: int | None = None
        # by default the newest block is as old as this moment
        self._genesis_ms = int(time.time() * 1000) - head * BLOCK_MS if genesis_ms is None else genesis_ms
        self._salt: dict[int, int] = {}
        self._pinned: dict[int, str] = {}
        self._number_of: dict[str, int] = {}
        self._history: dict[bytes, list[tuple[int, bytes | None]]] = {}
        self._sorted_keys: list[bytes] = []
        self._neurons: dict[int, list[tuple[int, list[FakeNeuron]]]] = {}
        self.subnets: dict[int, FakeSubnet] = {}
        self.bodies: dict[int, list[bytes]] = {}
        self.nonces: dict[str, int] = {}
        self.pool: list[dict[str, Any]] = []
        self.extrinsics: list[dict[str, Any]] = []
        # answers to the next submissions: instead of taking them, or after having taken them
        self.pool_errors: list[RpcError] = []
        self.pool_errors_after: list[RpcError] = []
        self.pool_limit = 100
        self.banned: set[str] = set()
        self.stake_threshold = 0.0
        self.sealed: dict[bytes, SealedWeights] = {}
        self.commits: list[dict[str, Any]] = []
        self.failed_reveals: list[str] = []
        self.dispatch_failures: list[DispatchFailure] = []
        self.write("Timestamp", "Now", [], self._genesis_ms + head * BLOCK_MS, block=0)
        for block in (0, head):
            self.hash(block)

    # -- blocks ---------------------------------------------------------------------------------------------------

    def hash(self, block: int) -> str | None:
        if not 0 <= block <= self.head:
            return None
        seed = struct.pack("<QQ", block, self._salt.get(block, 0))
        digest = self._pinned.get(block) or "0x" + blake2b(b"fake subtensor" + seed, digest_size=32).hexdigest()
        self._number_of[digest] = block
        return digest

    def pin_hash(self, block: int, digest: str) -> None:
        """Give a block the hash that a recording has for it."""
        self._pinned[block] = digest

    def number(self, digest: str | None) -> int:
        if digest is None:
            return self.head
        if digest not in self._number_of:
            for recent in range(max(0, self.head - 1000), self.head + 1):
                self.hash(recent)
        block = self._number_of.get(digest)
        if block is None or block > self.head or self.hash(block) != digest:
            raise RpcError(4003, f"Client error: UnknownBlock: Header was not found in the database: {digest}")
        return block

    def state_at(self, digest: str | None) -> int:
        block = self.number(digest)
        lowest = self.pruned_below if self._keeps is None else self.head - self._keeps + 1
        if lowest is not None and block < lowest:
            raise RpcError(4003, f"Client error: Api called for an unknown Block: State already discarded for {digest}")
        return block

    def header(self, block: int) -> dict[str, Any]:
        number = self.lie_about_head if self.lie_about_head is not None and block == self.head else block
        return {
            "parentHash": self.hash(block - 1) if block else "0x" + "00" * 32,
            "number": hex(number),
            "stateRoot": "0x" + "11" * 32,
            "extrinsicsRoot": "0x" + "22" * 32,
            "digest": {"logs": []},
        }

    @property
    def finalized(self) -> int:
        return max(0, self.head - self.finality_lag)

    def reorganise(self, depth: int) -> None:
        """Replace the newest ``depth`` blocks by others of the same height; their state stays."""
        for block in range(self.head - depth + 1, self.head + 1):
            self._salt[block] = self._salt.get(block, 0) + 1
            self.hash(block)

    def fork(self, depth: int, *, to_pool: bool = True) -> list[dict[str, Any]]:
        """Undo the newest ``depth`` blocks with all that happened in them; what they held goes back to the pool.

        The caller mines the longer branch that takes their place. Returns the extrinsics that lost their block.
        """
        base = self.head - depth
        for block in range(base + 1, self.head + 1):
            self._salt[block] = self._salt.get(block, 0) + 1
            self.bodies.pop(block, None)
        for versions in self._history.values():
            versions[:] = [version for version in versions if version[0] <= base]
        for netuid, snapshots in self._neurons.items():
            snapshots[:] = [snapshot for snapshot in snapshots if snapshot[0] <= base]
            self.subnets[netuid].neurons = [replace(neuron) for neuron in snapshots[-1][1]]
        self.commits = [commit for commit in self.commits if commit["block"] <= base]
        undone = [extrinsic for extrinsic in self.extrinsics if extrinsic["block"] > base]
        self.extrinsics = [extrinsic for extrinsic in self.extrinsics if extrinsic["block"] <= base]
        for extrinsic in reversed(undone):
            self.nonces[extrinsic["signer"]] = extrinsic["nonce"]
            extrinsic["block"] = extrinsic["failure"] = None
        self.head = base
        if to_pool:
            self.pool = [*undone, *self.pool]
        return undone

    # -- storage --------------------------------------------------------------------------------------------------

    def _key(self, pallet: str, item: str, keys: list[Any]) -> bytes:
        return bytes(self._runtime.storage_key(pallet, item, keys))

    def write_raw(self, key: bytes, value: bytes | None, block: int) -> None:
        versions = self._history.get(key)
        if versions is None:
            versions = self._history[key] = []
            bisect.insort(self._sorted_keys, key)
        versions[:] = sorted([version for version in versions if version[0] != block] + [(block, value)])

    def read_raw(self, key: bytes, block: int) -> bytes | None:
        versions = self._history.get(key, [])
        at = bisect.bisect_right(versions, block, key=lambda version: version[0])
        return versions[at - 1][1] if at else None

    def write(self, pallet: str, item: str, keys: list[Any], value: Any, block: int | None = None) -> None:
        kind = self._runtime.storage_entry(pallet, item).value_type
        raw = None if value is None else bytes(self._runtime.encode(kind, value))
        self.write_raw(self._key(pallet, item, keys), raw, self.head if block is None else block)

    def read(self, pallet: str, item: str, keys: list[Any], block: int | None = None) -> Any:
        entry = self._runtime.storage_entry(pallet, item)
        raw = self.read_raw(self._key(pallet, item, keys), self.head if block is None else block)
        if raw is None:
            if entry.modifier == "Optional":
                return None
            raw = bytes(entry.default_bytes)
        return self._runtime.decode(entry.value_type, raw, True)

    def keys_after(self, prefix: bytes, count: int, start: bytes | None, block: int) -> list[bytes]:
        at = bisect.bisect_right(self._sorted_keys, start) if start else bisect.bisect_left(self._sorted_keys, prefix)
        found: list[bytes] = []
        for key in self._sorted_keys[at:]:
            if not key.startswith(prefix) or len(found) == count:
                break
            if self.read_raw(key, block) is not None:
                found.append(key)
        return found

    # -- the scene ------------------------------------------------------------------------------------------------

    def put_subnet(self, subnet: FakeSubnet, block: int = 0) -> None:
        """Write a subnet as it is from ``block`` on."""
        netuid = subnet.netuid
        self.subnets[netuid] = subnet
        for item, value in {
            "NetworksAdded": True,
            "Tempo": subnet.tempo,
            "WeightsSetRateLimit": subnet.weights_rate_limit,
            "CommitRevealWeightsEnabled": subnet.commit_reveal,
            "MinAllowedWeights": subnet.min_allowed_weights,
            "MaxWeightsLimit": subnet.max_weights_limit,
            "WeightsVersionKey": subnet.weights_version_key,
            "MechanismCountCurrent": subnet.mechanisms,
            "SubnetworkN": len(subnet.neurons),
        }.items():
            if item not in self._without:
                self.write("SubtensorModule", item, [netuid], value, block)
        if subnet.owner_hotkey is not None:
            self.write("SubtensorModule", "SubnetOwnerHotkey", [netuid], subnet.owner_hotkey, block)
        if "CommitRevealWeightsVersion" not in self._without:
            self.write("SubtensorModule", "CommitRevealWeightsVersion", [], subnet.commit_reveal_version, block)
        hotkeys = {neuron.hotkey for neuron in subnet.neurons}
        for gone in self.neurons_at(netuid, self.head):
            if gone.hotkey not in hotkeys:
                self.write("SubtensorModule", "Uids", [netuid, gone.hotkey], None, block)
        for uid, neuron in enumerate(subnet.neurons):
            self.write("SubtensorModule", "Uids", [netuid, neuron.hotkey], uid, block)
            self.write("SubtensorModule", "Keys", [netuid, uid], neuron.hotkey, block)
        self._write_vectors(subnet, block)

    def _write_vectors(self, subnet: FakeSubnet, block: int) -> None:
        permits = [neuron.validator_permit for neuron in subnet.neurons]
        updates = [neuron.last_update for neuron in subnet.neurons]
        self.write("SubtensorModule", "ValidatorPermit", [subnet.netuid], permits, block)
        self.write("SubtensorModule", "LastUpdate", [subnet.netuid], updates, block)
        versions = self._neurons.setdefault(subnet.netuid, [])
        snapshot = (block, [replace(neuron) for neuron in subnet.neurons])
        versions[:] = sorted([v for v in versions if v[0] != block] + [snapshot], key=lambda version: version[0])

    def neurons_at(self, netuid: int, block: int) -> list[FakeNeuron]:
        versions = self._neurons.get(netuid, [])
        at = bisect.bisect_right(versions, block, key=lambda version: version[0])
        return versions[at - 1][1] if at else []

    def ask_stake(self, threshold: float) -> None:
        """From now on, a hotkey that sets weights needs so much stake."""
        self.stake_threshold = threshold
        self.write("SubtensorModule", "StakeThreshold", [], round(threshold * RAO), 0)

    def commit(self, netuid: int, hotkey: str, data: bytes | list[Any], block: int | None = None) -> None:
        """Write a commitment as the pallet does; bytes become one ``Raw`` field."""
        at = self.head if block is None else block
        fields = data if isinstance(data, list) else [{f"Raw{len(data)}": "0x" + data.hex()}]
        record = {"deposit": 0, "block": at, "info": {"fields": fields}}
        self.write("Commitments", "CommitmentOf", [netuid, hotkey], record, at)
        self.write("Commitments", "LastCommitment", [netuid, hotkey], at, at)

    def pulse(self, drand_round: int, signature: str) -> None:
        """Store a drand pulse as the chain's own oracle does."""
        value = {"round": drand_round, "randomness": "0x" + "00" * 32, "signature": "0x" + signature}
        self.write("Drand", "Pulses", [drand_round], value, 0)

    def weights_of(self, netuid: int, uid: int) -> dict[int, int]:
        return dict(self.read("SubtensorModule", "Weights", [netuid, uid]))

    # -- runtime APIs ---------------------------------------------------------------------------------------------

    def runtime_call(self, method: str, data: bytes, block: int) -> bytes:
        metadata = self.metadata
        if method == "Metadata_metadata_at_version":
            return b"\1" + compact(len(metadata)) + metadata if data == struct.pack("<I", 15) else b"\0"
        if method == "Metadata_metadata":
            return compact(len(metadata)) + metadata
        for api, methods in self._runtime.runtime_api_map().items():
            name = method.removeprefix(f"{api}_")
            if name in methods:
                output = methods[name]["output"]
                value = self._answer(name, int.from_bytes(data[:2], "little"), block, int(output.split("::")[1]))
                return b"\0" if value is None else bytes(self._runtime.encode(output, value))
        raise RpcError(4003, f"Client error: Execution failed: Exported method {method} is not found")

    def _answer(self, name: str, netuid: int, block: int, output: int) -> Any:
        if name == "query_info":
            return self._blank(output) | {"partial_fee": 125_000}
        if netuid not in self.subnets:
            return None
        if name == "get_next_epoch_start_block":
            return block + int(self.read("SubtensorModule", "Tempo", [netuid], block))
        return self._metagraph(netuid, block, output)

    def _metagraph(self, netuid: int, block: int, output: int) -> dict[str, Any]:
        inner = self._types[output]["def"]["variant"]["variants"][1]["fields"][0]["type"]
        fields = {f["name"]: f["type"] for f in self._types[inner]["def"]["composite"]["fields"]}
        axon = self._blank(self._types[fields["axons"]]["def"]["sequence"]["type"])
        neurons = self.neurons_at(netuid, block)
        zeros = [0] * len(neurons)
        stakes = [round(neuron.stake * RAO) for neuron in neurons]
        return self._blank(inner) | {
            "netuid": netuid,
            "name": list(b"fake"),
            "symbol": list(b"f"),
            "block": block,
            "tempo": self.read("SubtensorModule", "Tempo", [netuid], block),
            "num_uids": len(neurons),
            "max_uids": 256,
            "hotkeys": [neuron.hotkey for neuron in neurons],
            "coldkeys": [neuron.coldkey for neuron in neurons],
            "identities": [None] * len(neurons),
            "axons": [axon] * len(neurons),
            "active": [True] * len(neurons),
            "validator_permit": [neuron.validator_permit for neuron in neurons],
            "last_update": [neuron.last_update for neuron in neurons],
            "block_at_registration": [neuron.registered_at for neuron in neurons],
            "total_stake": stakes,
            "alpha_stake": stakes,
            "tao_stake": zeros,
            **dict.fromkeys(
                ("pruning_score", "emission", "dividends", "incentives", "consensus", "trust", "rank"), zeros
            ),
        }

    def _blank(self, type_id: int) -> Any:
        """A value of any type of the registry, all zeros."""
        entry = self._types[type_id]
        (kind, shape), path = next(iter(entry["def"].items())), entry.get("path", [])
        if path[-1:] == ["AccountId32"]:
            return "0x" + "00" * 32
        match kind:
            case "primitive":
                return {"bool": False, "str": ""}.get(shape, 0)
            case "compact":
                return 0
            case "sequence":
                return []
            case "array":
                return "0x" + "00" * shape["len"]
            case "tuple":
                return tuple(self._blank(member) for member in shape)
            case "composite":
                members = shape.get("fields") or []
                if members and members[0].get("name"):
                    return {member["name"]: self._blank(member["type"]) for member in members}
                return self._blank(members[0]["type"])
            case _:
                return None if path == ["Option"] else shape["variants"][0]["name"]

    # -- extrinsics -----------------------------------------------------------------------------------------------

    def submit(self, raw: bytes) -> dict[str, Any]:
        """Take an extrinsic into the pool, after a node's own checks."""
        if self.pool_errors:
            raise self.pool_errors.pop(0)
        extrinsic = self._checked(raw)
        if extrinsic["hash"] in self.banned:
            raise RpcError(1012, "Transaction is temporarily banned")
        if any(known["hash"] == extrinsic["hash"] for known in (*self.pool, *self.extrinsics)):
            raise RpcError(1013, "Transaction Already Imported")
        if extrinsic["nonce"] < self.nonces.get(extrinsic["signer"], 0):
            raise RpcError(1010, "Invalid Transaction", "Transaction is outdated")
        if extrinsic["nonce"] < self.next_nonce(extrinsic["signer"]):
            raise RpcError(1014, "Priority is too low: (7 vs 7)", "The transaction has too low priority to replace")
        if extrinsic["nonce"] > self.next_nonce(extrinsic["signer"]):
            raise RpcError(1010, "Invalid Transaction", "the nonce leaves a gap")
        if len(self.pool) >= self.pool_limit:
            raise RpcError(1016, "Immediately Dropped", "The transaction couldn't enter the pool because of the limit")
        self.pool.append(extrinsic)
        if self.pool_errors_after:
            raise self.pool_errors_after.pop(0)
        return extrinsic

    def next_nonce(self, address: str) -> int:
        return self.nonces.get(address, 0) + sum(waiting["signer"] == address for waiting in self.pool)

    def _checked(self, raw: bytes) -> dict[str, Any]:
        """The fields of a signed V4 extrinsic whose sr25519 signature is good."""
        _, at = read_compact(raw, 0)
        if raw[at] != 0x84 or raw[at + 1] != 0:
            raise RpcError(1010, "Invalid Transaction", "not a signed V4 extrinsic")
        public, at = raw[at + 2 : at + 34], at + 34
        kind, signature, at = raw[at], raw[at + 1 : at + 65], at + 65
        era, at, birth = self._era(raw, at)
        nonce, at = read_compact(raw, at)
        tip, at = read_compact(raw, at)
        call = raw[at + 1 :]
        address = bittensor_core.ss58_encode(public, 42)
        birth_hash = self.hash(birth)
        if birth_hash is None:
            raise RpcError(1010, "Invalid Transaction", "Transaction has an ancient birth block")
        genesis = self.hash(0)
        assert genesis is not None
        payload = self._runtime.signature_payload(
            call,
            era=era,
            nonce=nonce,
            tip=tip,
            tip_asset_id=None,
            genesis_hash=bytes.fromhex(genesis[2:]),
            era_block_hash=bytes.fromhex(birth_hash[2:]),
            metadata_hash=None,
        )
        if not bittensor_core.verify(bytes(payload), signature, address, kind):
            raise RpcError(1010, "Invalid Transaction", "Transaction has a bad signature")
        decoded = self._runtime.decode_extrinsic(raw, True)["call"]
        return {
            "signer": address,
            "nonce": nonce,
            "era": era,
            "function": (decoded["call_module"], decoded["call_function"]),
            "arguments": {argument["name"]: argument["value"] for argument in decoded["call_args"]},
            "raw": raw,
            "hash": "0x" + blake2b(raw, digest_size=32).hexdigest(),
            "block": None,
            "failure": None,
        }

    def _era(self, raw: bytes, at: int) -> tuple[Any, int, int]:
        if raw[at] == 0:
            return "00", at + 1, 0
        packed = int.from_bytes(raw[at : at + 2], "little")
        period = 2 << (packed & 15)
        phase = (packed >> 4) * max(period >> 12, 1)
        birth = (max(self.head, phase) - phase) // period * period + phase
        return {"period": period, "current": birth}, at + 2, birth

    def _dispatch(self, extrinsic: dict[str, Any]) -> None:
        if self.dispatch_failures:
            raise self.dispatch_failures.pop(0)
        (_, function), arguments = extrinsic["function"], extrinsic["arguments"]
        subnet = self.subnets.get(arguments["netuid"])
        if subnet is None:
            raise DispatchFailure("MechanismDoesNotExist")
        uids = [uid for uid, neuron in enumerate(subnet.neurons) if neuron.hotkey == extrinsic["signer"]]
        if not uids:
            raise DispatchFailure("HotKeyNotRegisteredInSubNet")
        neuron = subnet.neurons[uids[0]]
        if function == "set_commitment":
            self.commit(subnet.netuid, neuron.hotkey, arguments["info"]["fields"])
            return
        committing = "commit" in function
        if committing != subnet.commit_reveal:
            raise DispatchFailure("CommitRevealDisabled" if committing else "CommitRevealEnabled")
        if neuron.last_update and self.head - neuron.last_update < subnet.weights_rate_limit:
            raise DispatchFailure("CommittingWeightsTooFast" if committing else "SettingWeightsTooFast")
        if committing:
            if arguments["commit_reveal_version"] != subnet.commit_reveal_version:
                raise DispatchFailure("IncorrectCommitRevealVersion")
            commit = arguments["commit"]
            raw = bytes.fromhex(commit.removeprefix("0x")) if isinstance(commit, str) else bytes(commit)
            self.commits.append({"block": self.head, "netuid": subnet.netuid, "hotkey": neuron.hotkey, "commit": raw})
        else:
            pairs = dict(zip(arguments["dests"], arguments["weights"], strict=True))
            self._set_weights(subnet, uids[0], SealedWeights(pairs, int(arguments["version_key"])))
        neuron.last_update = self.head
        self._write_vectors(subnet, self.head)

    def _set_weights(self, subnet: FakeSubnet, uid: int, given: SealedWeights) -> None:
        """What the pallet checks where weights become known: in a plain call, or at a commit's reveal."""
        neuron, weights = subnet.neurons[uid], given.weights
        owner, only_itself = neuron.hotkey == subnet.owner_hotkey, list(weights) == [uid]
        if neuron.stake < self.stake_threshold and not owner:
            raise DispatchFailure("NotEnoughStakeToSetWeights")
        if given.version_key < subnet.weights_version_key:
            raise DispatchFailure("IncorrectWeightVersionKey")
        if not (neuron.validator_permit or owner or only_itself):
            raise DispatchFailure("NeuronNoValidatorPermit")
        if any(target >= len(subnet.neurons) for target in weights):
            raise DispatchFailure("UidVecContainInvalidOne")
        if len(weights) < subnet.min_allowed_weights and not only_itself:
            raise DispatchFailure("WeightVecLengthIsLow")
        if max(weights.values()) * 65_535 > subnet.max_weights_limit * sum(weights.values()) and not only_itself:
            raise DispatchFailure("MaxWeightExceeded")
        self.write("SubtensorModule", "Weights", [subnet.netuid, uid], sorted(weights.items()))

    def _reveal_commits(self) -> None:
        """Open the commits whose time has come; one that fails is only noted, as the chain only logs it."""
        due = [c for c in self.commits if self.head >= c["block"] + self.subnets[c["netuid"]].reveal_after]
        for commit in due:
            subnet = self.subnets[commit["netuid"]]
            self.commits.remove(commit)
            uids = [uid for uid, neuron in enumerate(subnet.neurons) if neuron.hotkey == commit["hotkey"]]
            try:
                if not uids or commit["commit"] not in self.sealed:
                    raise DispatchFailure("HotKeyNotRegisteredInSubNet" if not uids else "InvalidRevealCommitHash")
                self._set_weights(subnet, uids[0], self.sealed[commit["commit"]])
            except DispatchFailure as failure:
                self.failed_reveals.append(failure.name)

    def produce_block(self) -> None:
        """A new head that holds the whole pool."""
        self.head += 1
        self.hash(self.head)
        now = self._genesis_ms + self.head * BLOCK_MS
        self.write("Timestamp", "Now", [], now)
        inherent = b"\x04" + bytes(self._runtime.compose_call("Timestamp", "set", {"now": now}))
        body = [compact(len(inherent)) + inherent]
        info = bytes([4, 8, 0, 0])
        # an event: phase ApplyExtrinsic(index), System.ExtrinsicSuccess or .ExtrinsicFailed, no topics
        events = [b"\0" + struct.pack("<I", 0) + b"\0\0" + info + b"\0"]
        self._reveal_commits()
        for extrinsic in self.pool:
            index = len(body)
            body.append(extrinsic["raw"])
            self.nonces[extrinsic["signer"]] = extrinsic["nonce"] + 1
            try:
                self._dispatch(extrinsic)
                outcome = b"\0\0"
            except DispatchFailure as failure:
                extrinsic["failure"] = str(failure)
                error = self._error_index[failure.pallet, failure.name]
                outcome = bytes([0, 1, 3, self._pallet_index[failure.pallet]]) + struct.pack("<I", error)
            extrinsic["block"] = self.head
            events.append(b"\0" + struct.pack("<I", index) + outcome + info + b"\0")
            self.extrinsics.append(extrinsic)
        self.pool = []
        self.write_raw(self._key("System", "Events", []), compact(len(events)) + b"".join(events), self.head)
        self.bodies[self.head] = body

    def weight_extrinsics(self) -> list[dict[str, Any]]:
        """The weight submissions that reached a block, in order."""
        return [extrinsic for extrinsic in self.extrinsics if "weights" in extrinsic["function"][1]]


class FakeNode:
    """The websocket server over one chain, in a thread of its own.

    Faults: ``silent`` (answers nothing), ``refuse_with`` (an HTTP status at connecting; ``refused`` counts them),
    ``latency`` (s per request),
    ``errors`` (per method, the next answers), :meth:`drop_connections`.
    """

    def __init__(self, chain: FakeChain, *, block_seconds: float | None = None, mine_on_submit: bool = True) -> None:
        self.chain = chain
        self.block_seconds = block_seconds
        self.mine_on_submit = mine_on_submit
        self.silent = False
        self.refuse_with: int | None = None
        self.refused = 0
        self.latency = 0.0
        self.errors: dict[str, list[RpcError]] = {}
        self.requests: list[str] = []
        self.paused = False
        self._connections: set[ServerConnection] = set()
        self._watchers: dict[str, tuple[ServerConnection, str, dict[str, Any]]] = {}
        self._counter = 0
        self._background: set[asyncio.Task[Any]] = set()

    # -- life -----------------------------------------------------------------------------------------------------

    def __enter__(self) -> FakeNode:
        ready = threading.Event()

        async def run() -> None:
            self._loop = asyncio.get_running_loop()
            self._stop = asyncio.Event()
            server = await serve(self._serve, "127.0.0.1", 0, max_size=1 << 26, process_request=self._gate)
            self.port = server.sockets[0].getsockname()[1]
            miner = asyncio.create_task(self._mine_for_ever()) if self.block_seconds else None
            ready.set()
            await self._stop.wait()
            if miner:
                miner.cancel()
            for connection in list(self._connections):
                connection.transport.abort()
            server.close(close_connections=True)
            await server.wait_closed()
            for task in self._background:
                task.cancel()

        self._thread = threading.Thread(target=asyncio.run, args=(run(),), daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Do something in the node's thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(120)

    def mine(self, blocks: int = 1) -> None:
        self.run(self._mine(blocks))

    def fork(self, depth: int, *, to_pool: bool = True) -> None:
        """A branch one block longer takes the place of the newest ``depth`` blocks."""

        async def fork() -> None:
            undone = self.chain.fork(depth, to_pool=to_pool)
            for name, (connection, kind, extrinsic) in list(self._watchers.items()):
                if any(extrinsic is lost for lost in undone):
                    await self._notify(connection, kind, name, {"retracted": self.chain.hash(self.chain.head)})
            await self._mine(depth + 1)

        self.run(fork())

    def drop_connections(self) -> None:
        async def drop() -> None:
            for connection in list(self._connections):
                connection.transport.abort()

        self.run(drop())

    # -- blocks ---------------------------------------------------------------------------------------------------

    async def _mine_for_ever(self) -> None:
        assert self.block_seconds is not None
        while True:
            await asyncio.sleep(self.block_seconds)
            if not self.paused:
                await self._mine(1)

    async def _mine(self, blocks: int) -> None:
        for _ in range(blocks):
            self.chain.produce_block()
            await self._tell_watchers()

    async def _tell_watchers(self) -> None:
        chain = self.chain
        for name, (connection, kind, extrinsic) in list(self._watchers.items()):
            try:
                if kind == "chain_newHead":
                    await self._notify(connection, kind, name, chain.header(chain.head))
                elif kind == "chain_finalizedHead":
                    await self._notify(connection, kind, name, chain.header(chain.finalized))
                elif extrinsic["block"] is not None:
                    if extrinsic["block"] == chain.head:
                        await self._notify(connection, kind, name, {"inBlock": chain.hash(chain.head)})
                    if extrinsic["block"] <= chain.finalized:
                        await self._notify(connection, kind, name, {"finalized": chain.hash(extrinsic["block"])})
                        self._watchers.pop(name, None)
            except ConnectionClosed:
                self._watchers.pop(name, None)

    # -- JSON-RPC -------------------------------------------------------------------------------------------------

    def _gate(self, connection: ServerConnection, _request: Any) -> Any:
        if self.refuse_with:
            self.refused += 1
            return connection.respond(HTTPStatus(self.refuse_with), "refused\n")
        return None

    async def _serve(self, connection: ServerConnection) -> None:
        self._connections.add(connection)
        try:
            async for text in connection:
                if self.silent:
                    continue
                if self.latency:
                    await asyncio.sleep(self.latency)
                message = json.loads(text)
                afterwards: list[Coroutine[Any, Any, None]] = []
                if isinstance(message, list):
                    answer: Any = [self._answer(connection, part, afterwards) for part in message]
                else:
                    answer = self._answer(connection, message, afterwards)
                await connection.send(json.dumps(answer))
                for work in afterwards:
                    task = asyncio.create_task(work)
                    self._background.add(task)
                    task.add_done_callback(self._background.discard)
        except ConnectionClosed:
            pass
        finally:
            self._connections.discard(connection)

    def _answer(self, connection: ServerConnection, message: Any, afterwards: list[Any]) -> dict[str, Any]:
        method, parameters = message["method"], message.get("params") or []
        self.requests.append(method)
        reply = {"jsonrpc": "2.0", "id": message["id"]}
        try:
            if self.errors.get(method):
                raise self.errors[method].pop(0)
            if method.startswith(("author_submit", "chain_subscribe")):
                return reply | {"result": self._subscribe(connection, method, parameters, afterwards)}
            handler = getattr(self, f"_{method}", None)
            if handler is None:
                raise RpcError(-32601, "Method not found")
            return reply | {"result": handler(*parameters)}
        except RpcError as error:
            return reply | {"error": error.payload()}
        except Exception as error:
            log.exception("%s%r", method, parameters)
            return reply | {"error": {"code": -32603, "message": f"the fake node failed: {error!r}"}}

    def _subscribe(self, connection: ServerConnection, method: str, parameters: Any, afterwards: list[Any]) -> str:
        chain = self.chain
        self._counter += 1
        name = f"subscription{self._counter}"
        if method == "chain_subscribeNewHeads":
            self._watchers[name] = (connection, "chain_newHead", {})
            afterwards.append(self._notify(connection, "chain_newHead", name, chain.header(chain.head)))
            return name
        if method == "chain_subscribeFinalizedHeads":
            self._watchers[name] = (connection, "chain_finalizedHead", {})
            afterwards.append(self._notify(connection, "chain_finalizedHead", name, chain.header(chain.finalized)))
            return name
        try:
            extrinsic = chain.submit(bytes.fromhex(parameters[0][2:]))
        except RpcError:
            if chain.pool and self.mine_on_submit and not self.block_seconds:
                afterwards.append(self._mine(1 + chain.finality_lag))
            raise
        if self.mine_on_submit and not self.block_seconds:
            afterwards.append(self._mine(1 + chain.finality_lag))
        if method == "author_submitExtrinsic":
            return str(extrinsic["hash"])
        self._watchers[name] = (connection, "author_extrinsicUpdate", extrinsic)
        afterwards.insert(0, self._notify(connection, "author_extrinsicUpdate", name, "ready"))
        return name

    async def _notify(self, connection: ServerConnection, method: str, subscription: str, result: Any) -> None:
        parameters = {"subscription": subscription, "result": result}
        await connection.send(json.dumps({"jsonrpc": "2.0", "method": method, "params": parameters}))

    def _chain_getHead(self) -> str | None:
        return self.chain.hash(self.chain.head)

    def _chain_getFinalizedHead(self) -> str | None:
        return self.chain.hash(self.chain.finalized)

    def _chain_getBlockHash(self, block: Any = None) -> Any:
        if isinstance(block, list):
            return [self.chain.hash(number) for number in block]
        return self.chain.hash(self.chain.head if block is None else int(block))

    def _chain_getHeader(self, digest: str | None = None) -> Any:
        try:
            return self.chain.header(self.chain.number(digest))
        except RpcError:
            return None

    def _chain_getBlock(self, digest: str | None = None) -> Any:
        try:
            block = self.chain.number(digest)
        except RpcError:
            return None
        body = ["0x" + extrinsic.hex() for extrinsic in self.chain.bodies.get(block, [])]
        return {"block": {"header": self.chain.header(block), "extrinsics": body}, "justifications": None}

    def _state_getRuntimeVersion(self, digest: str | None = None) -> dict[str, Any]:
        self.chain.number(digest)
        return {
            "specName": "node-subtensor",
            "implName": "node-subtensor",
            "authoringVersion": 1,
            "specVersion": self.chain.spec_version,
            "implVersion": 1,
            "transactionVersion": TX_VERSION,
            "stateVersion": 1,
            "apis": [],
        }

    def _state_getMetadata(self, _digest: str | None = None) -> str:
        return "0x" + self.chain.metadata.hex()

    def _state_call(self, method: str, data: str, digest: str | None = None) -> str:
        block = self.chain.state_at(digest)
        return "0x" + self.chain.runtime_call(method, bytes.fromhex(data.removeprefix("0x")), block).hex()

    def _state_getStorage(self, key: str, digest: str | None = None) -> str | None:
        raw = self.chain.read_raw(bytes.fromhex(key[2:]), self.chain.state_at(digest))
        return None if raw is None else "0x" + raw.hex()

    _state_getStorageAt = _state_getStorage

    def _state_queryStorageAt(self, keys: list[str], digest: str | None = None) -> Any:
        block = self.chain.state_at(digest)
        return [
            {"block": self.chain.hash(block), "changes": [[key, self._state_getStorage(key, digest)] for key in keys]}
        ]

    def _state_getKeysPaged(self, prefix: str, count: int, start: str | None = None, digest: str | None = None) -> Any:
        block = self.chain.state_at(digest)
        after = bytes.fromhex(start[2:]) if start and start != prefix else None
        keys = self.chain.keys_after(bytes.fromhex(prefix[2:]), count, after, block)
        return ["0x" + key.hex() for key in keys]

    def _system_accountNextIndex(self, address: str) -> int:
        return self.chain.next_nonce(address)

    _account_nextIndex = _system_accountNextIndex

    def _author_unwatchExtrinsic(self, name: str) -> bool:
        return self._watchers.pop(name, None) is not None

    _chain_unsubscribeNewHeads = _author_unwatchExtrinsic
    _chain_unsubscribeFinalizedHeads = _author_unwatchExtrinsic

    def _system_chain(self) -> str:
        return "Fake Subtensor"

    def _system_health(self) -> dict[str, Any]:
        return {"peers": 1, "isSyncing": False, "shouldHavePeers": True}
