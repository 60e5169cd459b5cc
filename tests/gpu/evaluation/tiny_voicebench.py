"""A tiny VoiceBench in the hub's layout, and an English punkt_tab of our own, written by the tests."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

# the sound of row n of set s lasts _LENGTH * (s + 1) + n samples, so that a model can know what it hears
_LENGTH: Final = 2000

SETS: Final = ("commoneval", "wildvoice", "advbench", "ifeval", "openbookqa", "bbh")

IFEVAL_ARGUMENTS: Final = (
    "num_words", "relation", "keywords", "forbidden_words", "num_bullets", "language", "num_sentences",
)  # fmt: skip


def rows_of(name: str, count: int = 6) -> list[dict[str, Any]]:
    """The questions of one set, as its columns."""
    prompts = [{"prompt": f"{name} question {row}"} for row in range(count)]
    match name:
        case "ifeval":
            kinds = [
                (["punctuation:no_comma"], [{}]),
                (["keywords:existence", "punctuation:no_comma"], [{"keywords": ["river"]}, {}]),
                (["length_constraints:number_words"], [{"relation": "less than", "num_words": 10}]),
            ]
            return [
                {
                    **prompt,
                    "key": 1000 + row,
                    "instruction_id_list": kinds[row % 3][0],
                    "kwargs": [dict.fromkeys(IFEVAL_ARGUMENTS) | given for given in kinds[row % 3][1]],
                }
                for row, prompt in enumerate(prompts)
            ]
        case "openbookqa":
            return [{**prompt, "reference": "ABCD"[row % 4]} for row, prompt in enumerate(prompts)]
        case "bbh":
            return [
                {**prompt, "id": f"bbh_navigate_{row}", "reference": "yes" if row % 2 else "no"}
                for row, prompt in enumerate(prompts)
            ]
        case "commoneval":
            return prompts
    return [{**prompt, "output": f"a reference {row}"} for row, prompt in enumerate(prompts)]


def sound(length: int, rate: int = 16_000, kind: str = "WAV") -> bytes:
    """A sound file of so many samples."""
    file = io.BytesIO()
    soundfile.write(file, 0.2 * np.sin(np.arange(length) / 20), rate, format=kind)
    return file.getvalue()


def heard(wave: np.ndarray) -> tuple[str, int]:
    """Set and row of a question, by its sound's length."""
    number, row = divmod(len(wave), _LENGTH)
    return SETS[number - 1], row


def write_voicebench(
    folder: Path, sets: Sequence[str] = ("commoneval", "wildvoice", "advbench", "ifeval"), count: int = 6
) -> Path:
    """``folder`` with ``SET/test-00000-of-00001.parquet`` and a README.md that names the configurations."""
    write_table_set(folder, {name: rows_of(name, count) for name in sets})
    return folder


def write_table_set(folder: Path, tables: Mapping[str, list[dict[str, Any]]]) -> None:
    """Each set's rows, with their sound, as the hub keeps them."""
    configs = ["---", "configs:"]
    for name, rows in tables.items():
        place = folder / name
        place.mkdir(parents=True)
        length = _LENGTH * (SETS.index(name) + 1)
        table = pa.Table.from_pylist(
            [
                {"audio": {"bytes": sound(length + number), "path": f"{number}.wav"}, **row}
                for number, row in enumerate(rows)
            ]
        )
        pq.write_table(table.replace_schema_metadata(_hub_metadata(table)), place / "test-00000-of-00001.parquet")
        configs += [f"- config_name: {name}", "  data_files:", "  - split: test", f"    path: {name}/test-*"]
    (folder / "README.md").write_text("\n".join([*configs, "---", ""]))


def _hub_metadata(table: pa.Table) -> dict[bytes, bytes]:
    """The schema metadata that ``push_to_hub`` writes: the column is an Audio feature."""
    from datasets import Audio, Features

    features = Features.from_arrow_schema(table.schema)
    features["audio"] = Audio()
    metadata: dict[bytes, bytes] = features.arrow_schema.metadata
    return metadata


def write_punkt(folder: Path) -> Path:
    """``folder`` with a small English punkt_tab, trained here: NLTK's own data are not on PyPI."""
    import nltk
    from nltk.tokenize.punkt import PunktTrainer, save_punkt_params

    text = "Dr. Smith met Mr. Jones. They talked about rivers. It was late, e.g. after ten. She left. He did not. " * 20
    trainer = PunktTrainer()
    trainer.INCLUDE_ALL_COLLOCS = True
    trainer.train(text)
    place = folder / "tokenizers" / "punkt_tab" / "english"
    place.mkdir(parents=True)
    # NLTK writes only where it reads; a temporary folder counts where nobody else may write
    with patch.object(nltk.data, "path", [str(folder)]):
        save_punkt_params(trainer.get_params(), dir=str(place))
    return folder
