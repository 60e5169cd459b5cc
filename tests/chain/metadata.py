"""Runtime metadata (V15) of a small Subtensor, declared in Python and written in SCALE.

Only what the SDK reads is declared, as facts of the chain: pallet and call indices, storage hashers and defaults,
signed extensions, runtime APIs. Types are named in Rust's own notation: ``Vec<(u16,u16)>``, ``[u8;32]``.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

SPEC_VERSION: Final = 424
TX_VERSION: Final = 1

BLAKE2_128, TWOX_64_CONCAT, IDENTITY = 0, 5, 6

_PRIMITIVES: Final = {
    name: code
    for code, name in enumerate(
        ("bool", "char", "str", *(f"{sign}{bits}" for sign in "ui" for bits in (8, 16, 32, 64, 128, 256)))
    )
}


def compact(value: int) -> bytes:
    """SCALE's compact integer."""
    if value < 1 << 6:
        return bytes([value << 2])
    if value < 1 << 14:
        return (value << 2 | 1).to_bytes(2, "little")
    if value < 1 << 30:
        return (value << 2 | 2).to_bytes(4, "little")
    body = value.to_bytes((value.bit_length() + 7) // 8, "little")
    return bytes([(len(body) - 4) << 2 | 3]) + body


def read_compact(data: bytes, at: int) -> tuple[int, int]:
    """A compact integer and where the next field begins."""
    mode = data[at] & 3
    if mode == 3:
        width = (data[at] >> 2) + 4
        return int.from_bytes(data[at + 1 : at + 1 + width], "little"), at + 1 + width
    width = 1 << mode
    return int.from_bytes(data[at : at + width], "little") >> 2, at + width


def _text(value: str) -> bytes:
    return _blob(value.encode())


def _blob(value: bytes) -> bytes:
    return compact(len(value)) + value


def _list(items: Iterable[Any], encode: Callable[[Any], bytes]) -> bytes:
    encoded = [encode(item) for item in items]
    return compact(len(encoded)) + b"".join(encoded)


def _option(value: Any, encode: Callable[[Any], bytes]) -> bytes:
    return b"\0" if value is None else b"\1" + encode(value)


@dataclass(frozen=True)
class Struct:
    """A composite type: ``path::Name`` and its fields (name or None, type)."""

    path: str
    fields: tuple[tuple[str | None, str], ...] = ()


@dataclass(frozen=True)
class Enum:
    """A variant type: per variant its name, index and fields."""

    path: str
    variants: tuple[tuple[str, int, tuple[tuple[str | None, str], ...]], ...]


def _plain_enum(path: str, *names: str) -> Enum:
    return Enum(path, tuple((name, index, ()) for index, name in enumerate(names)))


def _fields(text: str) -> tuple[tuple[str | None, str], ...]:
    """``netuid: u16; dests: Vec<u16>`` as field pairs."""
    pairs = [part.strip().partition(": ") for part in re.split(r";(?!\d)", text) if part.strip()]
    return tuple((name, kind) for name, _, kind in pairs)


_WEIGHTS = "dests: Vec<u16>; weights: Vec<u16>; version_key: u64"
_COMMIT = "commit: Bounded<u8>; reveal_round: u64; commit_reveal_version: u16"

_METAGRAPH = """
netuid: Compact<u16>; name: Vec<Compact<u8>>; symbol: Vec<Compact<u8>>; identity: Option<SubnetIdentity>;
network_registered_at: Compact<u64>; owner_hotkey: AccountId; owner_coldkey: AccountId; block: Compact<u64>;
tempo: Compact<u16>; last_step: Compact<u64>; blocks_since_last_step: Compact<u64>; subnet_emission: Compact<u64>;
alpha_in: Compact<u64>; alpha_out: Compact<u64>; tao_in: Compact<u64>; alpha_out_emission: Compact<u64>;
alpha_in_emission: Compact<u64>; tao_in_emission: Compact<u64>; pending_alpha_emission: Compact<u64>;
pending_root_emission: Compact<u64>; subnet_volume: Compact<u128>; moving_price: FixedI128; rho: Compact<u16>;
kappa: Compact<u16>; min_allowed_weights: Compact<u16>; max_weights_limit: Compact<u16>;
weights_version: Compact<u64>; weights_rate_limit: Compact<u64>; activity_cutoff: Compact<u16>;
max_validators: Compact<u16>; num_uids: Compact<u16>; max_uids: Compact<u16>; burn: Compact<u64>;
difficulty: Compact<u64>; registration_allowed: bool; pow_registration_allowed: bool; immunity_period: Compact<u16>;
min_difficulty: Compact<u64>; max_difficulty: Compact<u64>; min_burn: Compact<u64>; max_burn: Compact<u64>;
adjustment_alpha: Compact<u64>; adjustment_interval: Compact<u16>; target_regs_per_interval: Compact<u16>;
max_regs_per_block: Compact<u16>; serving_rate_limit: Compact<u64>; commit_reveal_weights_enabled: bool;
commit_reveal_period: Compact<u64>; liquid_alpha_enabled: bool; alpha_high: Compact<u16>; alpha_low: Compact<u16>;
bonds_moving_avg: Compact<u64>; hotkeys: Vec<AccountId>; coldkeys: Vec<AccountId>;
identities: Vec<Option<ChainIdentity>>; axons: Vec<AxonInfo>; active: Vec<bool>; validator_permit: Vec<bool>;
pruning_score: Vec<Compact<u16>>; last_update: Vec<Compact<u64>>; emission: Vec<Compact<u64>>;
dividends: Vec<Compact<u16>>; incentives: Vec<Compact<u16>>; consensus: Vec<Compact<u16>>; trust: Vec<Compact<u16>>;
rank: Vec<Compact<u16>>; block_at_registration: Vec<Compact<u64>>; alpha_stake: Vec<Compact<u64>>;
tao_stake: Vec<Compact<u64>>; total_stake: Vec<Compact<u64>>;
tao_dividends_per_hotkey: Vec<(AccountId,Compact<u64>)>; alpha_dividends_per_hotkey: Vec<(AccountId,Compact<u64>)>
"""

_COMMITMENT_DATA: Final = Enum(
    "pallet_commitments::types::Data",
    (
        ("None", 0, ()),
        *((f"Raw{size}", size + 1, ((None, f"[u8;{size}]"),)) for size in range(129)),
        *(
            (name, 130 + index, ((None, "[u8;32]"),))
            for index, name in enumerate(("BlakeTwo256", "Sha256", "Keccak256", "ShaThree256"))
        ),
        ("TimelockEncrypted", 134, _fields("encrypted: Bounded<u8>; reveal_round: u64")),
        ("ResetBondsFlag", 135, ()),
        ("BigRaw", 136, ((None, "Bounded<u8>"),)),
    ),
)

_SIGNED_EXTENSIONS: Final = (
    # name, what is in the extrinsic, what is signed beside it
    ("CheckNonZeroSender", (), "()"),
    ("CheckSpecVersion", (), "u32"),
    ("CheckTxVersion", (), "u32"),
    ("CheckGenesis", (), "H256"),
    ("CheckMortality", ((None, "Era"),), "H256"),
    ("CheckNonce", ((None, "Compact<u32>"),), "()"),
    ("CheckWeight", (), "()"),
    ("ChargeTransactionPayment", ((None, "Compact<u64>"),), "()"),
    ("SudoTransactionExtension", (), "()"),
    ("CheckShieldedTxValidity", (), "()"),
    ("SubtensorTransactionExtension", (), "()"),
    ("DrandPriority", (), "()"),
    ("CheckMetadataHash", (("mode", "MetadataHashMode"),), "Option<[u8;32]>"),
)


def _module_errors() -> dict[int, list[tuple[int, str]]]:
    from bittensor._generated.errors import ERRORS

    found: dict[int, list[tuple[int, str]]] = {}
    for (pallet, index), error in sorted(ERRORS.items()):
        found.setdefault(pallet, []).append((index, error.name))
    return found


def _named_types() -> dict[str, Struct | Enum]:
    errors = _module_errors()
    subtensor = "pallet_subtensor::pallet"
    types: dict[str, Struct | Enum] = {
        "AccountId": Struct("sp_core::crypto::AccountId32", ((None, "[u8;32]"),)),
        "H256": Struct("primitive_types::H256", ((None, "[u8;32]"),)),
        "Data": _COMMITMENT_DATA,
        "CommitmentInfo": Struct("pallet_commitments::types::CommitmentInfo", _fields("fields: Bounded<Data>")),
        "Registration": Struct(
            "pallet_commitments::types::Registration", _fields("deposit: u64; block: u32; info: CommitmentInfo")
        ),
        "Pulse": Struct(
            "pallet_drand::types::Pulse", _fields("round: u64; randomness: Bounded<u8>; signature: Bounded<u8>")
        ),
        "EpochConsensus": _plain_enum(f"{subtensor}::EpochConsensus", "Yuma", "Null"),
        "Weight": Struct("sp_weights::weight_v2::Weight", _fields("ref_time: Compact<u64>; proof_size: Compact<u64>")),
        "DispatchClass": _plain_enum("frame_support::dispatch::DispatchClass", "Normal", "Operational", "Mandatory"),
        "Pays": _plain_enum("frame_support::dispatch::Pays", "Yes", "No"),
        "DispatchInfo": Struct(
            "frame_system::DispatchEventInfo", _fields("weight: Weight; class: DispatchClass; pays_fee: Pays")
        ),
        "ModuleError": Struct("sp_runtime::ModuleError", _fields("index: u8; error: [u8;4]")),
        "DispatchError": Enum(
            "sp_runtime::DispatchError",
            (
                ("Other", 0, ()),
                ("CannotLookup", 1, ()),
                ("BadOrigin", 2, ()),
                ("Module", 3, ((None, "ModuleError"),)),
            ),
        ),
        "SystemEvent": Enum(
            "frame_system::pallet::Event",
            (
                ("ExtrinsicSuccess", 0, _fields("dispatch_info: DispatchInfo")),
                ("ExtrinsicFailed", 1, _fields("dispatch_error: DispatchError; dispatch_info: DispatchInfo")),
            ),
        ),
        "RuntimeEvent": Enum("node_subtensor_runtime::RuntimeEvent", (("System", 0, ((None, "SystemEvent"),)),)),
        "Phase": Enum(
            "frame_system::Phase",
            (("ApplyExtrinsic", 0, ((None, "u32"),)), ("Finalization", 1, ()), ("Initialization", 2, ())),
        ),
        "EventRecord": Struct(
            "frame_system::EventRecord", _fields("phase: Phase; event: RuntimeEvent; topics: Vec<H256>")
        ),
        "TimestampCall": Enum("pallet_timestamp::pallet::Call", (("set", 0, _fields("now: Compact<u64>")),)),
        "SubtensorCall": Enum(
            f"{subtensor}::Call",
            (
                ("set_weights", 0, _fields(f"netuid: u16; {_WEIGHTS}")),
                ("commit_timelocked_weights", 113, _fields(f"netuid: u16; {_COMMIT}")),
                ("commit_timelocked_mechanism_weights", 118, _fields(f"netuid: u16; mecid: u8; {_COMMIT}")),
                ("set_mechanism_weights", 119, _fields(f"netuid: u16; mecid: u8; {_WEIGHTS}")),
            ),
        ),
        "CommitmentsCall": Enum(
            "pallet_commitments::pallet::Call",
            (("set_commitment", 0, _fields("netuid: u16; info: CommitmentInfo")),),
        ),
        "RuntimeCall": Enum(
            "node_subtensor_runtime::RuntimeCall",
            (
                ("Timestamp", 2, ((None, "TimestampCall"),)),
                ("SubtensorModule", 7, ((None, "SubtensorCall"),)),
                ("Commitments", 18, ((None, "CommitmentsCall"),)),
            ),
        ),
        "MultiAddress": Enum("sp_runtime::multiaddress::MultiAddress", (("Id", 0, ((None, "AccountId"),)),)),
        "MultiSignature": Enum(
            "sp_runtime::MultiSignature",
            (
                ("Ed25519", 0, ((None, "[u8;64]"),)),
                ("Sr25519", 1, ((None, "[u8;64]"),)),
                ("Ecdsa", 2, ((None, "[u8;65]"),)),
            ),
        ),
        "Era": Enum(
            "sp_runtime::generic::era::Era",
            (("Immortal", 0, ()), *((f"Mortal{n}", n, ((None, "u8"),)) for n in range(1, 256))),
        ),
        "MetadataHashMode": _plain_enum("frame_metadata_hash_extension::Mode", "Disabled", "Enabled"),
        "FixedI128": Struct("substrate_fixed::FixedI128", _fields("bits: i128")),
        "AxonInfo": Struct(
            f"{subtensor}::AxonInfo",
            _fields(
                "block: u64; version: u32; ip: u128; port: u16; ip_type: u8; protocol: u8; "
                "placeholder1: u8; placeholder2: u8"
            ),
        ),
        "SubnetIdentity": Struct(
            f"{subtensor}::SubnetIdentityV3",
            tuple(
                (name, "Vec<u8>")
                for name in (
                    "subnet_name", "github_repo", "subnet_contact", "subnet_url", "discord", "description",
                    "logo_url", "additional",
                )
            ),
        ),
        "ChainIdentity": Struct(
            f"{subtensor}::ChainIdentityV2",
            tuple(
                (name, "Vec<u8>")
                for name in ("name", "url", "github_repo", "image", "discord", "description", "additional")
            ),
        ),
        "Metagraph": Struct("pallet_subtensor::rpc_info::metagraph::Metagraph", _fields(" ".join(_METAGRAPH.split()))),
        "RuntimeDispatchInfo": Struct(
            "pallet_transaction_payment::types::RuntimeDispatchInfo",
            _fields("weight: Weight; class: DispatchClass; partial_fee: u64"),
        ),
        "RuntimeVersion": Struct(
            "sp_version::RuntimeVersion", _fields("spec_version: u32; transaction_version: u32")
        ),
    }  # fmt: skip
    for pallet, name in ((0, "frame_system"), (7, "pallet_subtensor"), (18, "pallet_commitments")):
        types[f"{name}::Error"] = Enum(
            f"{name}::pallet::Error", tuple((error, index, ()) for index, error in errors.get(pallet, []))
        )
    types["RuntimeError"] = Enum(
        "node_subtensor_runtime::RuntimeError",
        (
            ("System", 0, ((None, "frame_system::Error"),)),
            ("SubtensorModule", 7, ((None, "pallet_subtensor::Error"),)),
            ("Commitments", 18, ((None, "pallet_commitments::Error"),)),
        ),
    )
    for name, inside, _ in _SIGNED_EXTENSIONS:
        types[f"ext::{name}"] = Struct(f"ext::{name}", inside)
    return types


class _Registry:
    """Turns type names into the portable registry's numbers, adding what is new."""

    def __init__(self, named: dict[str, Struct | Enum]) -> None:
        self._named = named
        self._ids: dict[str, int] = {}
        self._bodies: list[bytes] = []

    def id(self, name: str) -> int:
        name = name.replace(" ", "")
        if name not in self._ids:
            self._ids[name] = len(self._bodies)
            self._bodies.append(b"")
            self._bodies[self._ids[name]] = self._body(name)
        return self._ids[name]

    def ref(self, name: str) -> bytes:
        return compact(self.id(name))

    def encoded(self) -> bytes:
        return compact(len(self._bodies)) + b"".join(compact(i) + body for i, body in enumerate(self._bodies))

    def _body(self, name: str) -> bytes:
        if name in _PRIMITIVES:
            return self._entry("", 5, bytes([_PRIMITIVES[name]]))
        if name.startswith("Vec<"):
            return self._entry("", 2, self.ref(name[4:-1]))
        if name.startswith("Compact<"):
            return self._entry("", 6, self.ref(name[8:-1]))
        if name.startswith("Bounded<"):
            return self._entry(
                "bounded_collections::bounded_vec::BoundedVec", 0, self._fields(((None, f"Vec<{name[8:-1]}>"),))
            )
        if name.startswith("Option<"):
            some = self._fields(((None, name[7:-1]),))
            body = compact(2) + self._variant("None", 0, self._fields(())) + self._variant("Some", 1, some)
            return self._entry("Option", 1, body, parameter=name[7:-1])
        if name.startswith("["):
            inner, size = name[1:-1].rsplit(";", 1)
            return self._entry("", 3, struct.pack("<I", int(size)) + self.ref(inner))
        if name.startswith("("):
            return self._entry("", 4, _list(_split(name[1:-1]), self.ref))
        found = self._named[name]
        if isinstance(found, Struct):
            return self._entry(found.path, 0, self._fields(found.fields))
        variants = b"".join(self._variant(v, index, self._fields(fields)) for v, index, fields in found.variants)
        return self._entry(found.path, 1, compact(len(found.variants)) + variants)

    def _entry(self, path: str, kind: int, body: bytes, parameter: str | None = None) -> bytes:
        parameters = [parameter] if parameter else []
        return (
            _list([part for part in path.split("::") if part], _text)
            + _list(parameters, lambda name: _text("T") + b"\1" + self.ref(name))
            + bytes([kind])
            + body
            + compact(0)
        )

    def _fields(self, fields: Sequence[tuple[str | None, str]]) -> bytes:
        return _list(fields, lambda field: _option(field[0], _text) + self.ref(field[1]) + b"\0" + compact(0))

    @staticmethod
    def _variant(name: str, index: int, fields: bytes) -> bytes:
        return _text(name) + fields + bytes([index]) + compact(0)


def _split(inner: str) -> list[str]:
    """The members of a tuple, split at its own commas only."""
    parts, depth, start = [], 0, 0
    for at, character in enumerate(inner):
        depth += character in "(<[" and 1
        depth -= character in ")>]" and 1
        if character == "," and not depth:
            parts.append(inner[start:at])
            start = at + 1
    if inner[start:]:
        parts.append(inner[start:])
    return parts


def _le(value: int, width: int) -> bytes:
    return value.to_bytes(width, "little")


# pallet → storage entries: name, keys with their hashers, value, default (None: the entry is optional)
_PER_SUBNET = (("u16", IDENTITY),)
_PER_HOTKEY = (("u16", IDENTITY), ("AccountId", TWOX_64_CONCAT))
_STORAGE: Final[dict[str, tuple[tuple[str, tuple[tuple[str, int], ...], str, bytes | None], ...]]] = {
    "System": (("Events", (), "Vec<EventRecord>", b"\0"),),
    "Timestamp": (("Now", (), "u64", _le(0, 8)),),
    "SubtensorModule": (
        ("NetworksAdded", _PER_SUBNET, "bool", b"\0"),
        ("Tempo", _PER_SUBNET, "u16", _le(360, 2)),
        ("WeightsSetRateLimit", _PER_SUBNET, "u64", _le(100, 8)),
        ("CommitRevealWeightsEnabled", _PER_SUBNET, "bool", b"\1"),
        ("RevealPeriodEpochs", (("u16", TWOX_64_CONCAT),), "u64", _le(1, 8)),
        ("MinAllowedWeights", _PER_SUBNET, "u16", _le(1024, 2)),
        ("MaxWeightsLimit", _PER_SUBNET, "u16", b"\xff\xff"),
        ("WeightsVersionKey", _PER_SUBNET, "u64", _le(0, 8)),
        ("CommitRevealWeightsVersion", (), "u16", _le(4, 2)),
        ("StakeThreshold", (), "u64", _le(0, 8)),
        ("MechanismCountCurrent", (("u16", TWOX_64_CONCAT),), "u8", b"\1"),
        ("SubnetOwnerHotkey", _PER_SUBNET, "AccountId", bytes(32)),
        ("LastEpochBlock", _PER_SUBNET, "u64", _le(0, 8)),
        ("PendingEpochAt", _PER_SUBNET, "u64", _le(0, 8)),
        ("SubnetEpochIndex", _PER_SUBNET, "u64", _le(0, 8)),
        ("BlocksSinceLastStep", _PER_SUBNET, "u64", _le(0, 8)),
        ("SubnetworkN", _PER_SUBNET, "u16", _le(0, 2)),
        ("TokenSymbol", _PER_SUBNET, "Vec<u8>", b"\x10\xf0\x9d\x9c\x8f"),
        ("Uids", (("u16", IDENTITY), ("AccountId", BLAKE2_128)), "u16", None),
        ("Keys", (("u16", IDENTITY), ("u16", IDENTITY)), "AccountId", bytes(32)),
        ("ValidatorPermit", _PER_SUBNET, "Vec<bool>", b"\0"),
        ("LastUpdate", _PER_SUBNET, "Vec<u64>", b"\0"),
        ("Weights", (("u16", IDENTITY), ("u16", IDENTITY)), "Vec<(u16,u16)>", b"\0"),
        ("SubnetEpochConsensus", _PER_SUBNET, "EpochConsensus", b"\0"),
    ),
    "Commitments": (
        ("CommitmentOf", _PER_HOTKEY, "Registration", None),
        ("LastCommitment", _PER_HOTKEY, "u32", None),
        ("RevealedCommitments", _PER_HOTKEY, "Vec<(Vec<u8>,u64)>", None),
    ),
    "Drand": (
        ("Pulses", (("u64", BLAKE2_128),), "Pulse", None),
        ("LastStoredRound", (), "u64", _le(0, 8)),
        ("OldestStoredRound", (), "u64", _le(0, 8)),
    ),
}

# name, index, calls, event, error, constants
_PALLETS: Final[tuple[tuple[str, int, str | None, str | None, str | None, tuple[tuple[str, str, bytes], ...]], ...]] = (
    (
        "System", 0, None, "SystemEvent", "frame_system::Error",
        (
            ("Version", "RuntimeVersion", struct.pack("<II", SPEC_VERSION, TX_VERSION)),
            ("SS58Prefix", "u16", _le(42, 2)),
        ),
    ),
    ("Timestamp", 2, "TimestampCall", None, None, ()),
    ("Aura", 3, None, None, None, (("SlotDuration", "u64", _le(12_000, 8)),)),
    ("SubtensorModule", 7, "SubtensorCall", None, "pallet_subtensor::Error", ()),
    ("Commitments", 18, "CommitmentsCall", None, "pallet_commitments::Error", ()),
    ("Drand", 26, None, None, None, ()),
)  # fmt: skip

_RUNTIME_APIS: Final = (
    (
        "SubnetInfoRuntimeApi",
        (
            ("get_metagraph", (("netuid", "u16"),), "Option<Metagraph>"),
            ("get_next_epoch_start_block", (("netuid", "u16"),), "Option<u64>"),
        ),
    ),
    ("TransactionPaymentApi", (("query_info", (("uxt", "Vec<u8>"), ("len", "u32")), "RuntimeDispatchInfo"),)),
)


@lru_cache(maxsize=8)
def runtime_metadata(without: frozenset[str] = frozenset()) -> bytes:
    """The metadata blob as a node serves it; an older runtime is one ``without`` some storage items."""
    types = _Registry(_named_types())
    pallets = _list(_PALLETS, lambda pallet: _pallet(types, *pallet, without=without))
    extrinsic = (
        bytes([4])
        + b"".join(types.ref(name) for name in ("MultiAddress", "RuntimeCall", "MultiSignature", "()"))
        + _list(_SIGNED_EXTENSIONS, lambda ext: _text(ext[0]) + types.ref(f"ext::{ext[0]}") + types.ref(ext[2]))
    )
    apis = _list(
        _RUNTIME_APIS,
        lambda api: (
            _text(api[0])
            + _list(
                api[1],
                lambda method: (
                    _text(method[0])
                    + _list(method[1], lambda argument: _text(argument[0]) + types.ref(argument[1]))
                    + types.ref(method[2])
                    + compact(0)
                ),
            )
            + compact(0)
        ),
    )
    outer = b"".join(types.ref(name) for name in ("RuntimeCall", "RuntimeEvent", "RuntimeError"))
    runtime = types.ref("()")
    return b"meta\x0f" + types.encoded() + pallets + extrinsic + runtime + apis + outer + compact(0)


def _pallet(
    types: _Registry,
    name: str,
    index: int,
    calls: str | None,
    event: str | None,
    error: str | None,
    constants: Sequence[tuple[str, str, bytes]],
    *,
    without: frozenset[str],
) -> bytes:
    entries = [entry for entry in _STORAGE[name] if entry[0] not in without] if name in _STORAGE else None
    return (
        _text(name)
        + _option(entries, lambda found: _text(name) + _list(found, lambda entry: _entry(types, *entry)))
        + _option(calls, types.ref)
        + _option(event, types.ref)
        + _list(constants, lambda c: _text(c[0]) + types.ref(c[1]) + _blob(c[2]) + compact(0))
        + _option(error, types.ref)
        + bytes([index])
        + compact(0)
    )


def _entry(types: _Registry, name: str, keys: Sequence[tuple[str, int]], value: str, default: bytes | None) -> bytes:
    if keys:
        key = keys[0][0] if len(keys) == 1 else "(" + ",".join(kind for kind, _ in keys) + ")"
        shape = b"\1" + _list(keys, lambda pair: bytes([pair[1]])) + types.ref(key) + types.ref(value)
    else:
        shape = b"\0" + types.ref(value)
    optional = default is None
    return (
        _text(name) + bytes([0 if optional else 1]) + shape + _blob(b"\0" if default is None else default) + compact(0)
    )
