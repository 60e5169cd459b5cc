"""Every parser of untrusted input, on mutations of good and hostile inputs: a value, or that input's own refusal.

A quick slice with the other tests; ``make fuzz`` gives each parser 100,000 inputs (``FUZZ_INPUTS``).
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import math
import os
import random
import sqlite3
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bittensor.metagraph import _build as build_metagraph
from fastapi import HTTPException
from huggingface_hub import ModelInfo
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from app.api.authentication import _basic, _from_basic, _from_headers, _proof
from app.api.messages import ModelScoreResults
from app.api.scoring_messages import StartScoring
from app.cli.submission import _file_text, _plaintext, read_submission
from app.demo import RECORDING, RECORDING_2026
from app.domain import ScoringModel, SubmissionRejected, ValidatorError
from app.epochs.documents import (
    parse_commitments,
    parse_fasta,
    parse_header,
    parse_metagraph,
    parse_outages,
    parse_push_times,
    parse_signatures,
)
from app.epochs.recorded_scores import ScoreTable
from app.epochs.rules import RulesError, parse_rules
from app.epochs.rules.august_2026 import parse_payload
from app.untrusted import NotJson, read_json, shown
from chain.datasets import _rows as protein_rows
from chain.drand import Drand
from chain.github import GitHub
from chain.github_path import parse_github_path
from chain.huggingface import HubClient, HubUnavailable, checked
from chain.model_metadata import UnreadableMetadata, parse_model_id
from chain.score_sharing import Averages, Posted, ScoreSharing, SharingFailed
from chain.scoring_api import ScorerUnavailable, read_evaluation
from chain.sources import RoundNotReached, SourceError
from chain.submission import parse_submission, text_of
from chain.subtensor import LIES, _commitment_text, _field_bytes, _neurons, signed_by_hotkey
from chain.timelock import TimelockError, open_sealed, seal
from chain.uniprot import UniProt
from chain.web import Answer, HostUnavailable
from chem.archive import ArchiveUnreadable, read_archive
from chem.database import CombinatorialDatabase, DatabaseMalformed
from chem.history import read_history
from chem.names import parse_name, reaction_of
from chem.nanobodies.archive import read_nanobody_archive
from chem.properties import parse_smiles
from gpu.evaluation.contract import EvaluationImpossible, ModelFault
from gpu.evaluation.dockerfile import parse as parse_dockerfile
from gpu.evaluation.judge import rating_in
from gpu.evaluation.model_client import BadAnswer
from gpu.evaluation.model_client import _object as answered
from gpu.evaluation.model_client import _usable as usable_text
from gpu.evaluation.model_client import _waveform as waveform
from gpu.evaluation.repository import _listed as listed_file
from gpu.evaluation.repository import _refuse_clashes as refuse_clashes

INPUTS = int(os.environ.get("FUZZ_INPUTS", "300"))
SEED = int(os.environ.get("FUZZ_SEED", "7"))
ROUND = 1000
SIGNATURE = "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacbe47e4b6b63ed5e39"

PIECES = [
    b"", b"0", b"-1", b"9" * 20, b"9" * 5000, b"-0x" + b"f" * 4000, b"1e999", b"NaN", b"null", b"\x00", b"\xff\xfe",
    b"\xed\xa0\x80", b"\xef\xbb\xbf", "\u202e\u2028".encode(), b"\x1b[2J", b"..", b"/", b"\\", b"%2e", b":", b",",
    b"$A$A", b"${A:-",
    b"(" * 200, b"[" * 2000, b"{\"a\":" * 2000, b"&a [*a]", b"!!int x", b"2024-99-99", b"<<: [1]", b"'", b'"',
    b"\n", b"\r\n", b"\\ud800", b"ARG A=$A$A\n", b"FROM ", b"ONBUILD ", b"rxn:4:", b"None", b"True", b"--", b"\t",
    b"A" * 150_000,
]  # fmt: skip


class Web:
    """A host that answers with these bytes."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def get(self, url: str, limit: int, headers: object = None, service: object = None) -> Answer:
        return Answer(200, {}, self._body[:limit], len(self._body) > limit)


def _pushed(body: bytes) -> str:
    path = parse_github_path("o/r/main/a/b.txt")
    return GitHub(Web(body), "http://raw", "http://api", warn=lambda _: None).push_time(path)  # type: ignore[arg-type]


def _signed(body: bytes) -> str:
    web: Any = Web(body)
    return Drand(web, ["http://drand"], lambda _: None, lambda _: None).signature(ROUND)


def _named(body: bytes) -> object:
    text = body.decode("utf-8", "replace")
    name, reaction = parse_name(text), reaction_of(text)
    assert name is None or name.reaction == reaction
    return name


@dataclass(frozen=True)
class Parser:
    """A parser, the refusals that it may raise, and good inputs to begin from."""

    read: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    seeds: list[bytes] = field(default_factory=list)


def _text(read: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda body: read(body.decode("utf-8", "surrogateescape"))


def _document(parse: Callable[[str, str], object], name: str) -> Parser:
    return Parser(_text(lambda text: parse(text, name)), (SourceError,), [(RECORDING / name).read_bytes()[:4_000]])


def _archived(body: bytes) -> object:
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as stream:
        stream.write(body)
        stream.flush()
        return read_archive(Path(stream.name))


def _table_of(suffix: str) -> Callable[[bytes], object]:
    def read(body: bytes) -> object:
        with tempfile.NamedTemporaryFile(dir="/dev/shm", suffix=suffix) as stream:
            stream.write(body)
            stream.flush()
            return protein_rows(Path(stream.name), f"proteins{suffix}")

    return read


def _message(kind: type[BaseModel]) -> Callable[[bytes], object]:
    """As the API reads a body; what is accepted can be stored."""
    return lambda body: kind.model_validate(read_json(body, unique_names=True)).model_dump_json().encode()


def _answered(body: bytes) -> None:
    answer = answered(body)
    with suppress(BadAnswer):
        usable_text(answer.get("text"), "text").encode()
    waveform(answer.get("audio_data"))


def _listed(body: bytes) -> object:
    info = HubClient("http://hub").ask("the files", lambda: checked(ModelInfo(**json.loads(body))), attempts=1)
    files = tuple(listed_file(entry, "a model") for entry in info.siblings or ())
    refuse_clashes(files, "a model")
    return files


def _averages(body: bytes) -> object:
    web: Any = Web(body)
    found = ScoreSharing(web, "http://share", "key").averages(Posted(1), 5, ["rxn:1:2:3"], [])
    return json.dumps(found.document(), allow_nan=False)


def _sequence(body: bytes) -> object:
    web: Any = Web(body)
    return UniProt(web, "http://uniprot").sequence("P12345")


def _wave() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros(8, np.float32))
    return json.dumps({"text": "hello", "audio_data": base64.b64encode(stream.getvalue()).decode()}).encode()


def _status(body: bytes) -> object:
    document = read_json(body)
    return read_evaluation(document) if isinstance(document, dict) else None


def _as_file(read: Callable[[Path], object], name: str) -> Callable[[bytes], object]:
    """The parser reads a file of this name."""

    def reading(body: bytes) -> object:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            path = Path(folder, name)
            path.write_bytes(body)
            return read(path)

    return reading


def _scores_of(model: ScoringModel) -> Callable[[Path], None]:
    """As they are kept in the store, which takes finite numbers and Unicode."""

    def read(path: Path) -> None:
        for pairs in ScoreTable(path.parent, model).molecules():
            for pair in pairs:
                assert all(map(math.isfinite, pair.metrics.values()))
                for text in (pair.protein, pair.smiles, pair.error or "", *pair.metrics):
                    text.encode()

    return read


def _of_database(path: Path) -> None:
    database = CombinatorialDatabase(path)
    try:
        for reaction in database.reactions.values():
            for block in database.building_blocks(range(-1, 6)).values():
                block.smiles.encode()
                block.serves(reaction.role_a), block.serves(reaction.role_b), block.serves(reaction.role_c)
            reaction.smarts.encode()
    finally:
        database.close()


def _database() -> bytes:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, closing(sqlite3.connect(f"{folder}/db")) as connection:
        # small pages, so that a mutation meets what matters
        connection.executescript(
            """
            PRAGMA page_size = 512;
            CREATE TABLE reactions (rxn_id INTEGER PRIMARY KEY, smarts, roleA, roleB, roleC);
            CREATE TABLE molecules (mol_id INTEGER PRIMARY KEY, smiles, role_mask);
            INSERT INTO reactions VALUES (1, '[C:1]>>[C:1]', 1, 2, NULL), (4, NULL, 1, 2, 4);
            INSERT INTO molecules VALUES (1, 'CCO', 3), (2, 'c1ccccc1', 2), (3, 'CN', 4);
            """
        )
        return Path(folder, "db").read_bytes()


def _untyped_database() -> bytes:
    """Columns that hold anything at all."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, closing(sqlite3.connect(f"{folder}/db")) as connection:
        connection.executescript(
            """
            PRAGMA page_size = 512;
            CREATE TABLE reactions (rxn_id, smarts, roleA, roleB, roleC);
            CREATE TABLE molecules (mol_id, smiles, role_mask);
            INSERT INTO reactions VALUES (1, x'ff', '1', 1.5, x'00'), (4, 7, 1, 2, 4), ('2', 'C', 1, 1, 1);
            INSERT INTO molecules VALUES (1, 'CCO', 3), (1.0, 'C', 2), ('3', x'ff', '4'), (4, CAST(x'ff' AS TEXT), 1);
            """
        )
        return Path(folder, "db").read_bytes()


def _shared(body: bytes) -> None:
    document = read_json(body)
    found = Averages.of_document(document if isinstance(document, dict) else {"molecules": document})
    json.dumps(found.document(), allow_nan=False, ensure_ascii=False).encode()


def _committed(body: bytes) -> None:
    # as the SDK decodes: also text that is not Unicode, and numbers of any size
    fields = read_json(body, lenient=True)
    text = _commitment_text(fields if isinstance(fields, list) else [fields])
    assert len(text) <= 4 * len(body)
    text.encode()
    _field_bytes(fields)


def _neurons_of(body: bytes) -> None:
    graph = read_json(body)
    for neuron in _neurons(build_metagraph(68, graph if isinstance(graph, dict) else {"hotkeys": graph}, {})):
        assert math.isfinite(neuron.stake)
        assert isinstance(neuron.hotkey, str)


def _signed_request(body: bytes) -> None:
    """Hotkey, time and signature, a line each, as the server decodes headers; NOW is the present time."""
    text = body.replace(b"NOW", str(int(time.time())).encode()).decode("latin-1")
    hotkey, timestamp, signature = (*text.split("\n", 2), "", "")[:3]
    request = Request({"type": "http", "method": "POST", "path": "/a", "raw_path": text.encode(), "headers": []})
    proof = _proof(hotkey, timestamp, signature)
    claim = _from_headers(request, body, hotkey, timestamp, proof)
    signed_by_hotkey(claim.hotkey, claim.message, claim.signature)
    datetime.fromtimestamp(claim.expires_at or 0, UTC)


def _basic_request(body: bytes) -> None:
    # one more layer than the header: mutations of what is within Base64
    for header in (body, b"Basic " + base64.b64encode(body)):
        request = Request({"type": "http", "method": "GET", "path": "/", "headers": [(b"authorization", header)]})
        if (credentials := asyncio.run(_basic(request))) is not None:
            claim = _from_basic(credentials)
            signed_by_hotkey(claim.hotkey, claim.message, claim.signature)


def _names(text: str) -> None:
    """As a shell gives the argument: no NUL."""
    read, _ = read_submission(text.replace("\x00", ""))
    _plaintext(read, None)[0].encode()


def _names_file(path: Path) -> None:
    notes: list[str] = []
    _file_text(path, notes).encode()
    read, found = read_submission(str(path))
    _plaintext(read, None)[0].encode()
    assert all(note.isprintable() for note in (*notes, *found))


HOTKEY = b"5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"

PARSERS = {
    "submission file": Parser(parse_submission, (SubmissionRejected,), [b"(1000, b'ab\\x00')", b"(0xff, b'')"]),
    "opened text": Parser(_text(lambda text: text_of(text, 5)), (SubmissionRejected,), [b"5:rxn:4:1:2,rxn:5:1:2:3"]),
    "time-lock": Parser(
        lambda body: open_sealed(body, ROUND, SIGNATURE), (TimelockError,), [seal(b"5:a,b", ROUND), seal(b"", ROUND)]
    ),
    "molecule name": Parser(_named, (), [b"rxn:4:123:456", b"rxn:5:1:2:3"]),
    "GitHub path": Parser(_text(parse_github_path), (SubmissionRejected,), [b"owner/repo/main/a/0123.txt"]),
    "model commitment": Parser(_text(parse_model_id), (UnreadableMetadata,), [b"owner:name:1:abcdef0:hash:v1"]),
    "rules": Parser(_text(parse_rules), (RulesError,), [(RECORDING / "rules.yaml").read_bytes()]),
    "Dockerfile": Parser(
        parse_dockerfile,
        (ModelFault,),
        [b"ARG A=x\nARG B=$A$A\nFROM ${B:-a} AS s\nCOPY --from=s /a /b\n"],
    ),
    "GitHub's answer": Parser(
        _pushed, (SourceError,), [b'[{"commit": {"committer": {"date": "2025-10-01T00:00:00Z"}}}]', b"[]"]
    ),
    "drand's answer": Parser(
        _signed, (SourceError, RoundNotReached), [json.dumps({"round": ROUND, "signature": SIGNATURE}).encode()]
    ),
    "rules of 2026": Parser(_text(parse_rules), (RulesError,), [(RECORDING_2026 / "rules.yaml").read_bytes()]),
    "opened text of 2026": Parser(_text(parse_payload), (SubmissionRejected,), [b"rxn:1:2:3,rxn:1:4:5|QVQL,~", b"~|~"]),
    "metagraph of a recording": _document(parse_metagraph, "metagraph.json"),
    "commitments of a recording": _document(parse_commitments, "commitments.json"),
    "push times of a recording": _document(parse_push_times, "github/push_times.json"),
    "signatures of a recording": _document(parse_signatures, "drand.json"),
    "header of a recording": _document(parse_header, "recording.json"),
    "proteins of a recording": _document(parse_fasta, "proteins.fasta"),
    "archive": Parser(_archived, (ArchiveUnreadable,), [b"InChI_Key,SMILES\nAAAAAAAAAAAAAA-AAAAAAAAAA-N,CC\n"]),
    "scoring node's status": Parser(
        _status,
        (
            NotJson,
            ScorerUnavailable,
        ),
        [b'{"status": "completed", "score": 0.5, "metric_scores": {}, "started_at": "2026-01-01T00:00:00"}'],
    ),
    "model's answer": Parser(_answered, (BadAnswer,), [_wave(), b'{"text": "\\ud800"}']),
    "Hugging Face's answer": Parser(
        _listed,
        (HubUnavailable, ModelFault, EvaluationImpossible),
        [b'{"id": "o/m", "sha": "' + b"a" * 40 + b'", "siblings": [{"rfilename": "a/b", "size": 3, "blobId": "c"}]}'],
    ),
    "score for the validator API": Parser(
        _message(ModelScoreResults),
        (ValidationError, NotJson),
        [
            b'{"miner_hotkey": "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY", "miner_uid": 3, '
            b'"model_metadata": {"a": [1]}, "model_hash": null, "model_score": 0.5, "metric_scores": {"b": 1.0}}'
        ],
    ),
    "request to a scoring node": Parser(
        _message(StartScoring),
        (ValidationError, NotJson),
        [
            b'{"hf_repo_id": "maker/model", "competition_id": "voicebench", "block": 5, '
            b'"hotkey": "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"}'
        ],
    ),
    "shared averages": Parser(
        _averages, (SharingFailed,), [b'{"status": "pending", "target_averages": {"P1": {"score": 0.5}}}']
    ),
    "UniProt's answer": Parser(_sequence, (HostUnavailable,), [b">sp|P12345\nMKT\nLLV\n"]),
    "protein table (CSV)": Parser(_table_of(".csv"), (SourceError,), [b"Entry,Sequence\nP1,MKT\nP2,\n"]),
    "protein table (JSON)": Parser(_table_of(".json"), (SourceError,), [b'[{"Entry": "P1", "Sequence": "MKT"}]']),
    "protein table (JSON lines)": Parser(_table_of(".jsonl"), (SourceError,), [b'{"Entry": "P1", "Sequence": null}\n']),
    "judge's rating": Parser(_text(rating_in), (), [b"4", b"Rating: [[3]]", "\u0664".encode()]),
    "outages of a recording": Parser(
        _text(lambda text: parse_outages(text, "outages.json")),
        (SourceError,),
        [b'{"warnings": ["a"], "contents": {"o/r/b/x.txt": "gone"}, "signatures": {"5": "x"}, "archive": null}'],
    ),
    "recorded scores of PSICHIC": Parser(
        _as_file(_scores_of(ScoringModel.PSICHIC), "psichic.csv"),
        (SourceError,),
        [b"protein,smiles,predicted_binding_affinity\nP1,CCO,5.5\nP2,CCO,\n"],
    ),
    "recorded scores of Boltz-2": Parser(
        _as_file(_scores_of(ScoringModel.BOLTZ), "boltz.csv"),
        (SourceError,),
        [b"smiles,affinity_probability_binary,ptm\nCCO,0.5,1e-3\nCN,nan,\n"],
    ),
    "recorded scores of BoltzGen": Parser(
        _as_file(_scores_of(ScoringModel.BOLTZGEN), "boltzgen.csv"),
        (SourceError,),
        [b"protein,sequence,design_ptm\nP1,QVQL,0.5\n"],
    ),
    "recorded failures": Parser(
        _as_file(_scores_of(ScoringModel.PSICHIC), "failures.csv"),
        (SourceError,),
        [
            b"model,protein,smiles,error\npsichic,P1,CCO,out of memory\npsichic,P2,C,\nboltz,,CN,x\n",
            b"model,protein,smiles,error\npsichic,P1\n",
        ],
    ),
    "averages of a recording": Parser(
        _shared,
        (NotJson,),
        [b'{"molecules": {"rxn:1:2:3": {"P1": {"score": 0.5, "ptm": null}}}, "nanobodies": null, "notes": ["a", [1]]}'],
    ),
    "combinatorial database": Parser(
        _as_file(_of_database, "molecules.sqlite"), (DatabaseMalformed,), [_database(), _untyped_database()]
    ),
    "archive as history": Parser(
        _as_file(lambda path: read_history(path).nearest(parse_smiles("CCO")), "P1_molecules.csv"),
        (ArchiveUnreadable,),
        [b"InChI_Key,SMILES\nA,CCO\nB,c1ccccc1\nC,[nonsense\n"],
    ),
    "archive of nanobodies": Parser(
        _as_file(read_nanobody_archive, "P1_nanobodies.csv"),
        (ArchiveUnreadable,),
        [
            b"sequence,sequence_hash,design_iiptm,design_ptm,min_design_to_target_pae,plip_hbonds_refolded,"
            b"plip_saltbridge_refolded,delta_sasa_refolded,liability_num_violations\n"
            b"QVQL,ab,0.5,0.5,1,2,3,4,5\nEVQL,cd,inf,nan,,x,1_0,-1e999,\n"
        ],
    ),
    "commitment on the chain": Parser(
        _committed,
        (NotJson,),
        [
            b'[[{"Raw15": "0x6f2f722f622f66697273742e747874"}], [{"Raw6": "second"}]]',
            b'[{"BigRaw": "0xzz"}, "ResetBondsFlag"]',
            b'[{"Raw3": "\\ud800"}]',
            b'[{"Raw3": 99999999999}]',
            b'[{"Raw3": [1, 2, 300]}]',
        ],
    ),
    "metagraph on the chain": Parser(
        _neurons_of,
        LIES,
        [
            b'{"hotkeys": ["a", "b"], "coldkeys": ["c", "d"], "total_stake": [5000000000, 0], "block": 9, '
            b'"validator_permit": [true, null], "symbol": [945], "alpha_stake": [1], "emission": [3, 4], "tempo": 360, '
            b'"last_step": 5, "blocks_since_last_step": 4, "owner_hotkey": "o", "owner_coldkey": "o", "rank": [1, 2], '
            b'"network_registered_at": 1, "moving_price": {"bits": 5}, "alpha_in": 1, "tao_in": 1}'
        ],
    ),
    "signature headers": Parser(
        _signed_request,
        (HTTPException,),
        [HOTKEY + b"\nNOW\n0x" + b"ab" * 64, HOTKEY + b"\nNOW.5\n0x" + b"0" * 128],
    ),
    "Basic header": Parser(
        _basic_request, (HTTPException,), [HOTKEY + b":0x" + b"ab" * 64, b"Basic " + base64.b64encode(b"a:b")]
    ),
    "names to check": Parser(
        _text(_names),
        (ValidatorError,),
        [b"rxn:4:1:2,rxn:5:1:2:3", b"5:rxn:4:1:2", b"rxn:1:2:3|QVQL", b"/etc/x", "\U0001f9ea".encode() * 100],
    ),
    "file of names to check": Parser(
        _as_file(_names_file, "names.txt"),
        (ValidatorError,),
        [b"rxn:4:1:2\nrxn:5:1:2:3\n", "\ufeffrxn:4:1:2,".encode(), "rxn:4:1:2\r\n".encode("utf-16")],
    ),
    "JSON": Parser(read_json, (NotJson,), [b'{"a": [1, 2.5, "x\\ud83d\\ude00"], "b": null}']),
    "message": Parser(_text(lambda text: shown(text).encode()), (), [b"plain", "\u202e".encode()]),
}


def mutated(chance: random.Random, seed: bytes) -> bytes:
    """The seed with a few pieces put in, taken out, repeated or flipped."""
    body = bytearray(seed)
    for _ in range(chance.choice((0, 1, 1, 2, 3, 6))):
        start = chance.randrange(len(body) + 1)
        end = min(len(body), start + chance.randrange(1, 12))
        match chance.randrange(5):
            case 0:
                body[start:start] = chance.choice(PIECES)
            case 1:
                body[start:end] = chance.choice(PIECES)
            case 2:
                del body[start:end]
            case 3:
                body[end:end] = body[start:end] * chance.choice((1, 2, 40))
            case _ if body:
                body[start % len(body)] ^= 1 << chance.randrange(8)
    return bytes(body[:300_000])


@pytest.mark.timeout(0 if INPUTS > 10_000 else 300)
@pytest.mark.parametrize("name", PARSERS)
def test_a_value_or_its_own_refusal(name: str) -> None:
    parser = PARSERS[name]
    chance = random.Random(f"{SEED} {name}")
    seeds = [*parser.seeds, *PIECES]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(INPUTS):
            body = mutated(chance, chance.choice(seeds if number % 4 == 0 else parser.seeds))
            try:
                try:
                    parser.read(body)
                except parser.refusals as refusal:
                    # what cannot be encoded can be neither printed nor stored
                    str(refusal).encode()
            except Exception as error:
                raise AssertionError(f"input {number}, {body[:300]!r}: {type(error).__name__}") from error
