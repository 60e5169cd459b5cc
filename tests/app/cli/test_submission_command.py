"""The miner's tool: what it accepts a validator accepts, what it seals a validator opens."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import cli
from app.domain import ValidatorError
from app.settings import get_settings
from chain.sources.recorded import RecordedSource
from chain.submission import open_submission, parse_submission
from chain.timelock import round_at
from tests.chain.fake_subtensor import FakeChain, FakeNode
from tests.chain.nodes import subnet

EXAMPLE = Path(__file__).parents[2] / "data" / "example"


def sealed_names(uid: int) -> tuple[str, ...]:
    """The names in a submission of the example."""
    source = RecordedSource(EXAMPLE)
    (path,) = (EXAMPLE / "github" / "contents" / f"miner{uid}").rglob("*.txt")
    sealed = parse_submission(path.read_bytes())
    wanted = 99 if uid == 15 else 100
    return open_submission(source, uid, sealed, wanted)


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
    assert open_submission(RecordedSource(EXAMPLE), 12, sealed, 100) == names


def test_sealing_refuses_what_cannot_be_accepted(tmp_path: Path) -> None:
    with pytest.raises(ValidatorError, match="exactly 100 molecules"):
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
        monkeypatch.setenv("SUBTENSOR_FALLBACKS", "")
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
