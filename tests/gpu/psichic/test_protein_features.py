"""ESM-2 features, their three file forms, windows, and the cache."""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_psichic import FOLDER, protein_records

from gpu.psichic.errors import CheckpointError, ProteinError
from gpu.psichic.language_model import LanguageModel, load_language_model
from gpu.psichic.protein import FeatureCache, ProteinFeatures, features_from, read_feature_file

CPU = torch.device("cpu")
TINY = FOLDER / "tiny_esm2.pt"


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return load_language_model(TINY, CPU)


@pytest.mark.parametrize("name", list(protein_records()))
def test_features_equal_the_original(name: str, model: LanguageModel) -> None:
    record = protein_records()[name]
    ours = features_from(record["raw_seq"], model)
    assert ours.sequence == record["seq"]
    np.testing.assert_array_equal(ours.edge_index, record["edge_index"].numpy())
    np.testing.assert_allclose(ours.edge_weight, record["edge_weight"].numpy(), atol=2e-5)
    # Rounding to float16 may fall to either side.
    golden = record["token_representation"].numpy()
    np.testing.assert_allclose(ours.token.astype(np.float32), golden.astype(np.float32), rtol=1e-3, atol=1e-4)
    assert (ours.token == golden).mean() > 0.99


def test_long_sequences_go_in_windows(model: LanguageModel) -> None:
    rng = np.random.default_rng(1)
    sequence = "".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), 1060))
    whole = model(sequence)
    assert whole.contact.dtype == np.float64
    first, second, third = (model(sequence[start : start + 700]) for start in (0, 350, 700))
    np.testing.assert_array_equal(whole.contact[:350, :700], first.contact[:350].astype(np.float64))
    mean = (first.contact[350:, 350:].astype(np.float64) + second.contact[:350, :350]) / 2
    np.testing.assert_array_equal(whole.contact[350:700, 350:700], mean)
    mean = (second.contact[350:, 350:].astype(np.float64) + third.contact[:350, :350]) / 2
    np.testing.assert_array_equal(whole.contact[700:1050, 700:1050], mean)
    assert (whole.contact[:350, 700:] == 0).all()
    np.testing.assert_array_equal(whole.token[1050:], third.token[350:])
    raw = [model._window(sequence[start : start + 700])[0].astype(np.float64) for start in (0, 350)]
    np.testing.assert_array_equal(whole.token[350:700], ((raw[0][350:] + raw[1][:350]) / 2).astype(np.float16))


def test_700_residues_are_one_window(model: LanguageModel) -> None:
    assert model("A" * 700).contact.dtype == np.float32
    assert model("A" * 701).contact.dtype == np.float64


def _tiny_state() -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(TINY, weights_only=True)["state_dict"]
    return state


def test_the_released_form_with_its_regression_beside(tmp_path: Path, model: LanguageModel) -> None:
    state = _tiny_state()
    regression = {name: state.pop(name) for name in list(state) if name.startswith("contact_head")}
    config = argparse.Namespace(encoder_layers=3, encoder_embed_dim=64, encoder_attention_heads=4, token_dropout=True)
    released = {
        f"encoder.{name}" if "lm_head" in name else f"encoder.sentence_encoder.{name}": t for name, t in state.items()
    }
    file = tmp_path / "esm2_t3_tiny.pt"
    torch.save({"cfg": {"model": config}, "model": released}, file)
    with pytest.raises(CheckpointError, match="contact-regression"):
        load_language_model(file, CPU)
    torch.save({"model": regression}, tmp_path / "esm2_t3_tiny-contact-regression.pt")
    _same(load_language_model(tmp_path, CPU), model)


def test_the_hub_form(tmp_path: Path, model: LanguageModel) -> None:
    renamed = {}
    for name, tensor in _tiny_state().items():
        hub = name
        for ours, theirs in (
            ("embed_tokens.", "esm.embeddings.word_embeddings."),
            ("self_attn.q_proj.", "attention.self.query."),
            ("self_attn.k_proj.", "attention.self.key."),
            ("self_attn.v_proj.", "attention.self.value."),
            ("self_attn.rot_emb.", "attention.self.rotary_embeddings."),
            ("self_attn.out_proj.", "attention.output.dense."),
            ("self_attn_layer_norm.", "attention.LayerNorm."),
            ("fc1.", "intermediate.dense."),
            ("fc2.", "output.dense."),
            ("final_layer_norm.", "LayerNorm."),
            ("emb_layer_norm_after.", "esm.encoder.emb_layer_norm_after."),
            ("contact_head.", "esm.contact_head."),
        ):
            hub = hub.replace(ours, theirs)
        if hub.startswith("layers."):
            hub = "esm.encoder.layer." + hub.removeprefix("layers.")
        if hub == "lm_head.weight":
            hub = "lm_head.decoder.weight"
        renamed[hub] = tensor
    renamed["esm.embeddings.position_ids"] = torch.arange(10)
    renamed["esm.embeddings.position_embeddings.weight"] = torch.zeros(10, 64)
    torch.save(renamed, tmp_path / "pytorch_model.bin")
    _same(load_language_model(tmp_path, CPU), model)


def _same(one: LanguageModel, other: LanguageModel) -> None:
    a, b = one("MKTAYIAKQR"), other("MKTAYIAKQR")
    np.testing.assert_array_equal(a.contact, b.contact)
    np.testing.assert_array_equal(a.token, b.token)


def test_what_is_no_language_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no ESM-2"):
        load_language_model(tmp_path / "absent.pt", CPU)
    shutil.copyfile(FOLDER / "model.pt", tmp_path / "esm2.pt")
    with pytest.raises(CheckpointError, match="not an ESM-2"):
        load_language_model(tmp_path, CPU)
    (tmp_path / "esm2.pt").write_bytes(TINY.read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_language_model(tmp_path / "esm2.pt", CPU)


class _Counting:
    """Makes the golden features and counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, sequence: str) -> ProteinFeatures:
        self.calls += 1
        return next(f for f in read_feature_file(FOLDER / "proteins.pt").values() if f.sequence == sequence)


def _sequences() -> list[str]:
    return [record["seq"] for record in protein_records().values()]


def _equal(one: ProteinFeatures, other: ProteinFeatures) -> bool:
    return one.sequence == other.sequence and all(
        np.array_equal(a, b)
        for a, b in ((one.token, other.token), (one.edge_index, other.edge_index), (one.edge_weight, other.edge_weight))
    )


def test_features_are_made_once(tmp_path: Path) -> None:
    make, sequence = _Counting(), _sequences()[0]
    made = FeatureCache(tmp_path / "new", "e" * 64).get_or_make(sequence, make)
    kept = FeatureCache(tmp_path / "new", "e" * 64).get_or_make(sequence, make)
    assert make.calls == 1
    assert _equal(made, kept)
    assert [path.suffix for path in (tmp_path / "new").iterdir()] == [".features"]


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    make = _Counting()
    cache = FeatureCache(tmp_path / "taken", "e" * 64)
    assert _equal(cache.get_or_make(_sequences()[0], make), cache.get_or_make(_sequences()[0], make))
    assert make.calls == 2
    assert "made again" in caplog.text


@pytest.mark.parametrize("damage", ["cut", "flip", "garbage", "other protein", "other model", "empty", "rewritten"])
def test_a_bad_entry_is_made_again(tmp_path: Path, damage: str) -> None:
    make, (sequence, other) = _Counting(), _sequences()
    cache = FeatureCache(tmp_path, "e" * 64)
    good = cache.get_or_make(sequence, make)
    path = cache.path(sequence)
    raw = path.read_bytes()
    if damage == "cut":
        path.write_bytes(raw[: len(raw) // 2])
    elif damage == "flip":
        path.write_bytes(raw[:-500] + bytes([raw[-500] ^ 1]) + raw[-499:])
    elif damage == "garbage":
        path.write_bytes(b"features")
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "rewritten":
        # a whole archive of plausible values under the old checksum
        head = raw.index(b"PK")
        other_values = io.BytesIO()
        with np.load(io.BytesIO(raw[head:])) as arrays:
            np.savez(other_values, **{**arrays, "edge_weight": arrays["edge_weight"] * np.float32(0.9)})
        path.write_bytes(raw[:head] + other_values.getvalue())
    elif damage == "other protein":
        cache.get_or_make(other, make)
        shutil.copyfile(cache.path(other), path)
    else:
        foreign = FeatureCache(tmp_path, "e" * 16 + "f" * 48)
        assert foreign.path(sequence) == path
        path.unlink()
        foreign.get_or_make(sequence, make)
    before = make.calls
    again = cache.get_or_make(sequence, make)
    assert make.calls == before + 1
    assert _equal(again, good)
    cache.get_or_make(sequence, make)
    assert make.calls == before + 1


def test_a_bad_feature_file_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "proteins.pt"
    with pytest.raises(ProteinError, match="cannot be read"):
        read_feature_file(bad)
    torch.save({"p": {"seq": "MK"}}, bad)
    with pytest.raises(ProteinError, match="lacks token_representation"):
        read_feature_file(bad)
    record = {**protein_records()["pdb_98"], "seq": "MK"}
    torch.save({"p": record}, bad)
    with pytest.raises(ProteinError, match="for 2 residues"):
        read_feature_file(bad)


def test_empty_sequence_is_refused(model: LanguageModel) -> None:
    with pytest.raises(ProteinError, match="empty"):
        features_from("", model)
