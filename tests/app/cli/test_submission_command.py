"""The miner's tool: what it accepts a validator accepts, what it seals a validator opens."""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import cli
from app.cli.submission import _plaintext
from app.demo import RECORDING_2026
from app.domain import Challenge, SubmissionRejected, ValidatorError
from app.epochs.recording import Recording
from app.epochs.rules import parse_rules
from app.settings import get_settings
from chain.submission import open_submission, parse_submission
from chain.timelock import round_at, seal
from tests.chain.fake_subtensor import FakeChain, FakeNode
from tests.chain.nodes import subnet

EXAMPLE = Path(__file__).parents[2] / "data" / "example"


def sealed_names(uid: int) -> tuple[str, ...]:
    """The names in a submission of the example."""
    source = Recording(EXAMPLE).facts
    (path,) = (EXAMPLE / "github" / "contents" / f"miner{uid}").rglob("*.txt")
    sealed = parse_submission(path.read_bytes())
    return tuple(open_submission(source, uid, sealed).split(","))


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, list(arguments), env={"COLUMNS": "300"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize("form", ["lines", "commas", "with uid", "argument"])
def test_a_sound_submission_is_accepted(tmp_path: Path, form: str) -> None:
    names = sealed_names(3)
    text = {"lines": "\n".join(names) + "\n", "commas": ",".join(names), "with uid": f"3:{','.join(names)}"}
    argument = ",".join(names)
    if form != "argument":
        (tmp_path / "names.txt").write_text(text[form])
        argument = str(tmp_path / "names.txt")
    code, output = run("submission", "check", argument, "--recording", str(EXAMPLE))
    assert code == 0
    assert "accepted: 100 molecules, entropy 0." in output


@pytest.mark.parametrize("space", ["", " ", "\t", "\x1c", "\u2003"])
def test_a_text_that_begins_with_its_uid_is_sealed_as_it_is(space: str) -> None:
    assert _plaintext(f"{space}7{space}:rxn:4:1:2", None) == (f"{space}7{space}:rxn:4:1:2", 7)
    assert _plaintext(f"{space}:rxn:4:1:2", None) == (f"0:{space}:rxn:4:1:2", 0)


@pytest.mark.parametrize(
    ("uid", "code"),
    [(8, "duplicate_names"), (10, "not_in_database"), (13, "already_used"), (15, "wrong_molecule_count")],
)
def test_a_refusal_is_the_validators_own(uid: int, code: str) -> None:
    status, output = run("submission", "check", ",".join(sealed_names(uid)), "--recording", str(EXAMPLE), "--json")
    verdict = json.loads(output)
    assert status == 1
    assert verdict["accepted"] is False
    assert verdict["rejection"]["code"] == code


AS_BYTES: dict[str, Callable[[tuple[str, ...]], bytes]] = {
    "UTF-8 mark": lambda names: codecs.BOM_UTF8 + ",".join(names).encode(),
    "UTF-16": lambda names: ",".join(names).encode("utf-16"),
    "UTF-16, one a line": lambda names: "\n".join(names).encode("utf-16"),
}


@pytest.mark.parametrize("form", AS_BYTES)
def test_an_editors_encoding_is_read_with_a_note(tmp_path: Path, form: str) -> None:
    names = sealed_names(3)
    (tmp_path / "names.txt").write_bytes(AS_BYTES[form](names))
    code, output = run("submission", "check", str(tmp_path / "names.txt"), "--recording", str(EXAMPLE), "--json")
    verdict = json.loads(output)
    assert (code, verdict["accepted"]) == (0, True)
    assert verdict["sealed"] == f"0:{','.join(names)}"
    assert "sealed as UTF-8" in verdict["note"]


SPELLINGS: dict[str, Callable[[tuple[str, ...]], str]] = {
    "blank after each comma": ", ".join,
    "CRLF": "\r\n".join,
    "comma and CRLF": ",\r\n".join,
    "comma and line end": ",\n".join,
    "trailing comma": lambda names: ",".join(names) + ",",
    "trailing line end": lambda names: ",".join(names) + "\n",
    "leading line end": lambda names: "\n" + ",".join(names),
    "blank line": lambda names: "\n".join(names) + "\n\n",
    "blank UID": lambda names: " 3:" + ",".join(names),
    "other digits": lambda names: "\u0663:" + ",".join(names),
    "no name": lambda names: ",",
    "lines": lambda names: "\n".join(names) + "\n",
    "plain": ",".join,
    "with uid": lambda names: "3:" + ",".join(names),
    "escape": lambda names: ",".join(("rxn:4:\x1b[31mX\x1b]0;t\x07:1", *names[1:])),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_check_says_what_the_validator_says(tmp_path: Path, spelling: str) -> None:
    """The sealed text goes through time-lock, parser and validation as a validator does it; the verdicts agree."""
    (tmp_path / "names.txt").write_text(SPELLINGS[spelling](sealed_names(3)), newline="")
    arguments = ("submission", "check", str(tmp_path / "names.txt"), "--recording", str(EXAMPLE))
    status, output = run(*arguments, "--json")
    verdict = json.loads(output)
    plaintext = verdict["sealed"]
    uid = 3 if plaintext.startswith(("3:", " 3:")) else 0
    source = Recording(EXAMPLE).facts
    drand_round = int(next(iter(json.loads((EXAMPLE / "drand.json").read_text())["signatures"])))
    code = None
    try:
        sealed = parse_submission(repr((drand_round, seal(plaintext.encode(), drand_round))).encode())
        rules = parse_rules(source.rules_text())
        items = rules.parse(open_submission(source, uid, sealed))
        rules.inspection(source, Challenge(("O15379",), (), (4, 5)))(uid, items)
    except SubmissionRejected as refusal:
        code = refusal.rejection.code.value
    assert (status, verdict["accepted"]) == ((0, True) if code is None else (1, False))
    assert (verdict["rejection"] or {}).get("code") == code
    assert verdict["accepted"] is (spelling in {"lines", "plain", "with uid"})
    _, printed = run(*arguments)
    assert "sealed text (" in printed
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", output + printed)


def test_a_name_with_square_brackets_is_printed_as_it_is(tmp_path: Path) -> None:
    names = ",".join(("rxn:4:[/bold][red]1:2", *sealed_names(3)[1:]))
    status, output = run("submission", "check", names, "--recording", str(EXAMPLE))
    assert status == 1
    assert output.count("rxn:4:[/bold][red]1:2") >= 2


def test_files_of_ones_own_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLINE", "1")
    get_settings.cache_clear()
    database, archive = EXAMPLE / "molecules.sqlite", EXAMPLE / "archive" / "O15379_molecules.csv"
    names = ",".join(sealed_names(3))
    code, _ = run("submission", "check", names, "--database", str(database), "--archive", str(archive))
    assert code == 0
    with pytest.raises(ValidatorError, match="OFFLINE is set"):
        run("submission", "check", names)
    with pytest.raises(ValidatorError, match="neither a file nor a list"):
        run("submission", "check", "nothing.txt", "--recording", str(EXAMPLE))


# a nanobody and a molecule of the bundled epoch's UID 1, whose figures are recorded
NANOBODY = (
    "QVQLVESGGGLVQPGGSLRLSCAASGFTFSSYAMGWFRQAPGKEREFVAAISWSGGSTYYADSVKGRFTISRDNAKNTVYLQMNSLKPEDTAVYYCAATDANTDEPRRYDPY"
    "DWGQGTQVTVSS"
)
UNKNOWN = NANOBODY.replace("ATDANTDEP", "GTNADTEDP")
MOLECULE = "rxn:4:100054:100570"


@pytest.mark.parametrize(
    ("payload", "verdict", "words"),
    [
        (f"{MOLECULE}|{NANOBODY}", True, ["accepted: molecule and nanobody", "nearest archived: C1=CC", "nativeness"]),
        (f"{MOLECULE}|~", True, ["accepted: molecule", "not entered"]),
        # similar to an archived molecule; one after it that ends the list; what was accepted between stays
        (
            f"rxn:4:100388:100678,{MOLECULE},rxn:4:100339:100897|~",
            True,
            ["accepted: molecule", "too_similar", "banned_atom"],
        ),
        (f"rxn:4:100339:100897|{NANOBODY}", True, ["accepted: nanobody", "banned_atom"]),
        ("rxn:4:100339:100897|~", False, ["refused: banned_atom"]),
        ("~|~", False, ["refused: nothing_submitted"]),
        (MOLECULE, False, ["refused: payload_malformed"]),
        # nothing is recorded of this one
        (f"~|{UNKNOWN}", None, ["not known:", "not judged here", "hmmscan is not on the PATH"]),
    ],
)
def test_each_track_and_item_of_2026_has_its_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, payload: str, verdict: bool | None, words: list[str]
) -> None:
    # a machine without the programs that judge nanobodies, whatever this one has
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "payload.txt").write_text(payload + "\n")
    arguments = ("submission", "check", str(tmp_path / "payload.txt"), "--recording", str(RECORDING_2026))
    status, output = run(*arguments)
    assert status == (0 if verdict else 1)
    assert [word for word in words if word not in output] == []
    status, output = run(*arguments, "--json")
    found = json.loads(output)
    assert found["accepted"] is verdict
    assert found["sealed"] == f"0:{payload}"
    if "too_similar" in words:
        items = found["tracks"]["molecule"]["items"]
        assert [(item["rejection"] or {}).get("code") for item in items] == ["too_similar", None, "banned_atom"]
        assert items[0]["nearest"]["target"] == "Q9UQM7"
        assert items[0]["nearest"]["similarity"] == pytest.approx(0.617, abs=1e-3)


def test_a_sealed_payload_of_2026_opens_to_its_tracks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules_file = tmp_path / "rules.yaml"
    rules_file.write_text("era: august-2026\n")
    monkeypatch.setenv("RULES_FILE", str(rules_file))
    get_settings.cache_clear()
    seal_it = ("--uid", "12", "--to", "me/subs/main/d", "--round", "1000", "--out", str(tmp_path / "out"))
    # without a colon or a comma, too
    assert run("submission", "seal", f"~|{NANOBODY}", *seal_it)[0] == 0
    (file,) = (tmp_path / "out").glob("*.txt")
    opened = open_submission(Recording(EXAMPLE).facts, 12, parse_submission(file.read_bytes()))
    assert parse_rules(rules_file.read_text()).parse(opened) == {"molecule": (), "nanobody": (NANOBODY,)}
    with pytest.raises(ValidatorError, match=r"molecules\|sequences"):
        run("submission", "seal", f"{MOLECULE},{MOLECULE}", *seal_it)


def test_what_is_sealed_opens_for_its_uid(tmp_path: Path) -> None:
    names = sealed_names(3)
    code, output = run(
        *("submission", "seal", ",".join(names), "--uid", "12", "--to", "me/subs/main/d"),
        *("--round", "1000", "--out", str(tmp_path)),
    )
    assert code == 0
    (file,) = tmp_path.glob("*.txt")
    content = file.read_bytes()
    assert file.stem == hashlib.sha256(content).hexdigest()[:20]
    assert f"Commit me/subs/main/d/{file.name}" in output
    sealed = parse_submission(content)
    assert sealed.drand_round == 1000
    assert open_submission(Recording(EXAMPLE).facts, 12, sealed) == ",".join(names)


def test_sealing_refuses_what_cannot_be_accepted(tmp_path: Path) -> None:
    with pytest.raises(ValidatorError, match="exactly 100 are needed"):
        run("submission", "seal", "rxn:4:1:2,rxn:4:1:3", "--uid", "1", "--to", "me/subs/main/d", "--round", "1000")
    with pytest.raises(ValidatorError, match="--to"):
        names = ",".join(sealed_names(3))
        run("submission", "seal", names, "--uid", "1", "--to", "me/subs", "--round", "1000", "--out", str(tmp_path))


def test_the_running_epochs_round_lies_between_the_window_and_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import app.epochs.capture

    end = 6_000_181
    chain = FakeChain(end - 100)
    chain.put_subnet(subnet())
    monkeypatch.setenv("BITTENSOR_RUNTIME_CACHE_DIR", str(tmp_path / "runtime"))
    with FakeNode(chain) as node:
        monkeypatch.setenv("SUBTENSOR_NETWORK", node.url)
        monkeypatch.setenv("SUBTENSOR_FALLBACKS", "none")
        get_settings.cache_clear()
        arguments = ["--uid", "1", "--to", "me/subs/main/d", "--out", str(tmp_path)]
        run("submission", "seal", ",".join(sealed_names(3)), *arguments)
        (file,) = tmp_path.glob("*.txt")
        chosen = parse_submission(file.read_bytes()).drand_round
        seconds = chain._genesis_ms / 1000
        assert round_at(seconds + (end - 10) * 12) <= chosen < round_at(seconds + end * 12)
        node.mine(95)
        with pytest.raises(ValidatorError, match="takes no more commitments"):
            run("submission", "seal", ",".join(sealed_names(3)), *arguments)
        for connection in app.epochs.capture._chains.values():
            connection.close()
        app.epochs.capture._chains.clear()
