"""Any to any (o1): a caption of each video, compared with the video's embedding."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from app.settings import Settings
from gpu.evaluation.blame import judged
from gpu.evaluation.contract import Deadline, EvaluationImpossible, Prepared, Score
from gpu.evaluation.datasets_hub import DataSource, chosen_rows, column, first_line
from gpu.evaluation.interview import Reply, interview, sample_row
from gpu.evaluation.model_client import BadAnswer, ModelClient
from gpu.evaluation.plan import CaptionParameters
from gpu.evaluation.speech_quality import resolved_device

WIDTH: Final = 1024
SPLIT: Final = "train"

# the data set grows at its end: the samples are drawn from its beginning, which does not change
_POOL: Final = 1024
# words of one piece of a caption: CLIP's 77 tokens hold about so many, and drop what is beyond
_PIECE_WORDS: Final = 40
_WORD: Final = re.compile(r"\S{1,40}")
_HARMLESS_CAPTION: Final = "A dog runs across a field."
_INSTALL: Final = "'pip install git+https://github.com/facebookresearch/ImageBind.git'"

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Video:
    """One video: ``embedding`` has shape ``(1024,)``; ``description`` is the data set's own caption, for reports."""

    row: int
    embedding: Vector
    description: str


class TextEmbedder(Prepared, Protocol):
    """Puts texts where the videos are."""

    def embed(self, text: str) -> Vector:
        """The text's embedding, shape ``(1024,)``."""
        ...


class ImageBindText:
    """ImageBind's text tower. A long text is embedded piece by piece and averaged, as it would be cut otherwise.

    ``weights`` is ``imagebind_huge.pth``: a state dict, read as such (a whole pickled model, such as
    ``videobind-v0.2.pth``, is refused: it could run code).
    """

    def __init__(self, weights: Path | None, device: str) -> None:
        self._weights = weights
        self._device = device
        self._model: Any = None

    def check(self) -> None:
        """See ``Prepared.check``."""
        self._found()

    def _found(self) -> Path:
        if self._weights is None:
            raise EvaluationImpossible(
                "captions are compared by ImageBind: download imagebind_huge.pth "
                f"(https://dl.fbaipublicfiles.com/imagebind/imagebind_huge.pth), {_INSTALL}, and set IMAGEBIND_WEIGHTS"
            )
        path = self._weights.expanduser()
        if not path.is_file():
            raise EvaluationImpossible(f"IMAGEBIND_WEIGHTS: there is no file {path}")
        if importlib.util.find_spec("imagebind") is None:
            raise EvaluationImpossible(f"captions are compared by ImageBind: {_INSTALL}")
        return path

    def prepare(self) -> None:
        """See ``Prepared.prepare``."""
        if self._model is not None:
            return
        path = self._found()
        try:
            from imagebind.models import imagebind_model
        except ImportError as error:
            raise EvaluationImpossible(f"captions are compared by ImageBind: {_INSTALL}") from error
        model = imagebind_model.imagebind_huge(pretrained=False)
        try:
            model.load_state_dict(_state_dict(path))
        except RuntimeError as error:
            raise EvaluationImpossible(
                f"IMAGEBIND_WEIGHTS: {path} does not fit imagebind_huge: {first_line(error)}"
            ) from error
        self._device = resolved_device(self._device)
        self._model = model.eval().to(self._device)

    def embed(self, text: str) -> Vector:
        """See ``TextEmbedder.embed``."""
        import torch
        from imagebind import data
        from imagebind.models.imagebind_model import ModalityType

        self.prepare()
        tokens = data.load_and_transform_text(list(pieces(text)), self._device)
        with torch.inference_mode():
            embedded = self._model({ModalityType.TEXT: tokens})[ModalityType.TEXT]
        vector: Vector = embedded.mean(dim=0).float().cpu().numpy()
        return vector


class CaptionBenchmark:
    """The mean over all videos of the cosine between caption and video, no less than 0; no caption, 0.

    ``answer_limit`` in seconds for one caption.
    """

    def __init__(
        self, source: DataSource, embedder: TextEmbedder, *, size: int, seed: str, answer_limit: float
    ) -> None:
        self._source = source
        self._embedder = embedder
        self._size = size
        self._seed = seed
        self._answer_limit = answer_limit
        self._videos: tuple[Video, ...] | None = None

    def check(self) -> None:
        """See ``Prepared.check``."""
        self._embedder.check()
        self._source.check()

    def prepare(self) -> None:
        """See ``Prepared.prepare``: the embedder first, for it is the optional one."""
        self._embedder.prepare()
        self.videos()

    def videos(self) -> tuple[Video, ...]:
        """What a model is asked: drawn from the first 1,024 videos, which are streamed once."""
        if self._videos is None:
            place = self._source.place
            rows = self._source.first_rows(None, SPLIT, _POOL)
            if not rows:
                raise EvaluationImpossible(f"{place}: the data set is empty")
            chosen = chosen_rows(self._seed, "o1", len(rows), self._size)
            self._videos = tuple(_video(row, rows[row], place) for row in chosen)
        return self._videos

    def evaluate(self, base_url: str, deadline: Deadline) -> Score:
        """See ``Benchmark.evaluate``."""
        with ModelClient(base_url, self._answer_limit, deadline) as client:
            replies = interview(client, self.videos(), lambda client, one: client.caption(one.embedding.tolist()))
        replies, cosines = zip(*map(self._compared, replies), strict=True)
        score = sum(max(0.0, one) for one in cosines if one is not None) / len(cosines)
        usable = sum(one is not None for one in cosines)
        rows = tuple(
            sample_row(reply, f"o1/{reply.sample.row}", "o1", reply.sample.description, reply.answer, _verdict(one))
            for reply, one in zip(replies, cosines, strict=True)
        )
        metrics = {"o1": score, "samples": len(replies), "usable": usable, "success_rate": usable / len(replies)}
        return Score(score=min(score, 1.0), metric_scores=metrics, samples=rows)

    def _compared(self, reply: Reply[Video, str]) -> tuple[Reply[Video, str], float | None]:
        """The cosine between caption and video; None, with the reason in the reply, where there is none."""
        caption, video = reply.answer, reply.sample.embedding
        if caption is None:
            return reply, None
        try:
            return reply, judged(
                lambda: cosine(self._embedder.embed(caption), video),
                lambda: cosine(self._embedder.embed(_HARMLESS_CAPTION), video),
                "the text embedder (IMAGEBIND_WEIGHTS)",
            )
        except BadAnswer as bad:
            return replace(reply, error=str(bad)), None


def pieces(text: str) -> Sequence[str]:
    """A text in pieces of at most 40 words, cut between sentences where there are any; at least one piece.

    A word of more than 40 characters counts as several: ImageBind's tokenizer needs their square in time.
    """
    done: list[str] = []
    words: list[str] = []
    for sentence in re.split(r"(?<=[.!?])\s", text):
        parts = _WORD.findall(sentence)
        for start in range(0, len(parts), _PIECE_WORDS):
            part = parts[start : start + _PIECE_WORDS]
            if words and len(words) + len(part) > _PIECE_WORDS:
                done.append(" ".join(words))
                words = []
            words += part
    return [*done, " ".join(words)]


def cosine(one: Vector, other: Vector) -> float:
    """The cosine of two vectors.

    Raises:
        EvaluationImpossible: they are not of one length, or not finite, or zero: the embedder's fault, not the model's.
    """
    if one.shape != other.shape:
        raise EvaluationImpossible(f"a text's embedding has shape {one.shape}, a video's {other.shape}")
    value = float(np.dot(one, other)) / (float(np.linalg.norm(one)) * float(np.linalg.norm(other)) or math.nan)
    if not math.isfinite(value):
        raise EvaluationImpossible("the text embedder gave a vector that is zero or not finite")
    return value


def _verdict(value: float | None) -> Mapping[str, float] | None:
    return None if value is None else {"cosine": round(value, 6)}


def _video(row: int, given: Mapping[str, Any], place: str) -> Video:
    embedding = np.asarray(column(given, "video_embed", place), dtype=np.float32)
    if embedding.shape != (WIDTH,) or not np.isfinite(embedding).all() or not embedding.any():
        raise EvaluationImpossible(f"{place}, row {row}: video_embed must be {WIDTH} finite numbers, not all zero")
    return Video(row, embedding, str(given.get("description") or ""))


def _state_dict(path: Path) -> Mapping[str, Any]:
    import pickle

    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise EvaluationImpossible(
            f"IMAGEBIND_WEIGHTS: {path} is not a plain state dict such as imagebind_huge.pth ({type(error).__name__})"
        ) from error
    if not isinstance(state, Mapping):
        raise EvaluationImpossible(f"IMAGEBIND_WEIGHTS: {path} holds a {type(state).__name__}, not a state dict")
    return state


def caption_benchmark(settings: Settings, parameters: CaptionParameters) -> CaptionBenchmark:
    """The o1 benchmark as parameters and settings want it."""
    return CaptionBenchmark(
        DataSource.of(settings, "O1_DATASET"),
        ImageBindText(settings.imagebind_weights, settings.device),
        size=parameters.samples or settings.o1_samples,
        seed=settings.sample_seed,
        answer_limit=parameters.answer_limit or settings.answer_limit.total_seconds(),
    )
