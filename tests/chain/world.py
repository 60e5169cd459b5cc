"""A whole outside world made from a recording: chain, GitHub, drand, UniProt and hub, with keys that can sign."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chain.subtensor import Subtensor
from tests.chain.fake_subtensor import FakeChain, FakeNeuron, FakeNode, FakeSubnet
from tests.chain.internet import Drand, GitHub, Hub, Receiver, UniProt
from tests.chain.nodes import KeyedWallet, address

EXAMPLE = Path(__file__).parents[1] / "data" / "example"


@dataclass
class World:
    """Everything a validator talks to. ``validator`` is the UID of the wallet in ``wallets``."""

    recording: Path
    chain: FakeChain
    node: FakeNode
    github: GitHub
    drand: list[Drand]
    uniprot: UniProt
    hub: Hub
    receiver: Receiver
    subnet: FakeSubnet
    header: dict[str, Any]
    commitments: list[dict[str, Any]]
    wallets: Path
    validator: int
    hotkey: str

    @property
    def number(self) -> int:
        """The epoch's number."""
        return int(self.header["end_block"] // self.header["epoch_length"] - 1)

    def environment(self, folder: Path) -> dict[str, str]:
        """The settings that point a validator at this world."""
        return {
            "DATA_DIR": str(folder),
            "NETUID": "68",
            "LIVE": "1",
            "SUBTENSOR_NETWORK": self.node.url,
            "SUBTENSOR_FALLBACKS": "none",
            "SUBTENSOR_ARCHIVES": "none",
            "CHAIN_TIMEOUT": "PT5S",
            "WALLET_NAME": "validator",
            "WALLET_HOTKEY": "hot",
            "WALLET_PATH": str(self.wallets),
            "GITHUB_RAW_URL": self.github.raw_url,
            "GITHUB_API_URL": self.github.api_url,
            "DRAND_URLS": ",".join(drand.url for drand in self.drand),
            "UNIPROT_URL": self.uniprot.url,
            "HF_ENDPOINT": self.hub.url,
            "RULES_FILE": str(self.recording / "rules.yaml"),
            "REHEARSAL_SCORES": str(self.recording / "scores"),
            "BITTENSOR_RUNTIME_CACHE_DIR": str(folder / "runtime-cache"),
            "WATCH_EVERY": "PT1S",
            "WEIGHTS_PAUSE": "PT1S",
            "FETCH_BUDGET": "PT20S",
        }

    def publish(self, *, through_sdk: bool = True) -> None:
        """Let the recording's miners commit, each in its own block inside or outside the window, as recorded."""
        subtensor = Subtensor(self.node.url, (), (), timeout=10)
        last_chance = self.header["end_block"] - 12
        for commitment in sorted(self.commitments, key=lambda entry: entry["block"]):
            uid, block = commitment["uid"], commitment["block"]
            inside = self.header["start_block"] < block < last_chance
            if not inside or uid is None or not through_sdk or self.chain.head > last_chance - 8:
                hotkey = commitment["hotkey"] if uid is None else address(f"//hotkey{uid}")
                self.chain.commit(68, hotkey, commitment["data"].encode(), block)
            else:
                commit_through_sdk(subtensor, commitment["data"], KeyedWallet(f"//hotkey{uid}"))
        subtensor.close()

    def close_epoch(self) -> None:
        """Mine until the epoch's last block is final."""
        missing = self.header["end_block"] + self.chain.finality_lag - self.chain.head
        if missing > 0:
            self.node.mine(missing)

    def next_epoch(self, number: int) -> None:
        """The miners commit in the epoch of this number, and its last block becomes final."""
        length = self.header["epoch_length"]
        end = (number + 1) * length
        self.node.mine(max(0, end - length + 3 - self.chain.head))
        for offset, entry in enumerate(sorted(self.commitments, key=lambda entry: entry["uid"])):
            hotkey = address(f"//hotkey{entry['uid']}")
            self.chain.commit(68, hotkey, entry["data"].encode(), end - length + 5 + offset)
        self.node.mine(end + 2 - self.chain.head)


def commit_through_sdk(subtensor: Subtensor, data: str, wallet: KeyedWallet) -> None:
    """Commit a path to subnet 68 as a miner's own program does."""
    import bittensor as bt

    info = {"fields": [[{f"Raw{len(data)}": "0x" + data.encode().hex()}]]}
    call = bt.calls.Commitments.set_commitment(netuid=68, info=info)
    result = subtensor._once(lambda client: client.submit_call(call, wallet, signer="hotkey"), 60)
    assert result.success, result.message


def scores_for_any_challenge(folder: Path) -> Path:
    """The example's scores, with one score against every antitarget that may be drawn."""
    folder.mkdir()
    (folder / "boltz.csv").write_bytes((EXAMPLE / "scores" / "boltz.csv").read_bytes())
    rows = list(csv.DictReader((EXAMPLE / "scores" / "psichic.csv").read_text(encoding="utf-8").splitlines()))
    pool = [line[1:].split()[0] for line in (EXAMPLE / "proteins.fasta").read_text().splitlines() if line[:1] == ">"]
    with (folder / "psichic.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        for row in rows:
            if row["protein"] == "O15379":
                writer.writerow(row)
                writer.writerows(
                    row | {"protein": code, "predicted_binding_affinity": "5.0"} for code in pool if code != "O15379"
                )
    return folder


@contextmanager
def world(
    folder: Path, recording: Path = EXAMPLE, uids: frozenset[int] | None = None, **subnet: Any
) -> Iterator[World]:
    """Start every server; the chain stands a few blocks after the epoch's start. ``uids``: only these miners commit."""
    header = json.loads((recording / "recording.json").read_text())
    metagraph = json.loads((recording / "metagraph.json").read_text())
    uid_of = {row["hotkey"]: row["uid"] for row in metagraph}
    commitments = [
        entry | {"uid": uid_of.get(entry["hotkey"])}
        for entry in json.loads((recording / "commitments.json").read_text())
    ]
    if uids is not None:
        commitments = [entry for entry in commitments if entry["uid"] in uids]
    validator = len(metagraph)
    neurons = [
        FakeNeuron(address(f"//hotkey{row['uid']}"), row["coldkey"], row["stake"], row["validator_permit"])
        for row in metagraph
    ]
    hotkey = _wallet(folder / "wallets")
    neurons.append(FakeNeuron(hotkey, address("//validator-cold"), 50_000.0, validator_permit=True))
    chain = FakeChain(header["start_block"] + 2)
    chain.pin_hash(header["start_block"], header["start_block_hash"])
    chain.pin_hash(header["end_block"], header["end_block_hash"])
    scene = FakeSubnet(tempo=header["epoch_length"] - 1, neurons=neurons, **subnet)
    chain.put_subnet(scene)
    signatures = json.loads((recording / "drand.json").read_text())["signatures"]
    with ExitStack() as stack:
        github, hub = stack.enter_context(GitHub()), stack.enter_context(Hub())
        drand = [stack.enter_context(Drand(signatures)) for _ in range(3)]
        sequences = _fasta(recording / "proteins.fasta")
        uniprot = stack.enter_context(UniProt(sequences))
        receiver = stack.enter_context(Receiver())
        node = stack.enter_context(FakeNode(chain))
        contents = recording / "github" / "contents"
        github.contents = {
            str(path.relative_to(contents)): path.read_bytes() for path in contents.rglob("*") if path.is_file()
        }
        github.push_times = json.loads((recording / "github" / "push_times.json").read_text())
        hub.datasets = {
            "Metanova/Proteins": {"README.md": b"# proteins", "proteins_train.csv": _csv(sequences)},
            "Metanova/Mol-Rxn-DB": {"molecules.sqlite": (recording / "molecules.sqlite").read_bytes()},
            "Metanova/Submission-Archive": {
                path.name: path.read_bytes() for path in (recording / "archive").glob("*.csv")
            },
        }
        yield World(
            recording, chain, node, github, drand, uniprot, hub, receiver, scene, header, commitments,
            folder / "wallets", validator, hotkey,
        )  # fmt: skip


def _wallet(folder: Path) -> str:
    """A wallet that holds nothing but its hotkey; the hotkey's address."""
    import bittensor as bt

    wallet = bt.Wallet("validator", "hot", str(folder))
    wallet.create_new_hotkey(use_password=False, overwrite=True, suppress=True)
    return str(wallet.hotkey.ss58_address)


def _fasta(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in path.read_text().splitlines():
        if line.startswith(">"):
            code = line[1:].split()[0]
            found[code] = ""
        else:
            found[code] += line.strip()
    return found


def _csv(sequences: dict[str, str]) -> bytes:
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(["Entry", "Sequence"])
    writer.writerows(sequences.items())
    return stream.getvalue().encode()
