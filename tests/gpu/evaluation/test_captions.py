"""o1: captions of videos against their embeddings, over a data set in the hub's layout and a real HTTP model."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from model_server import ModelServer

from app.settings import Settings
from gpu.evaluation.captions import WIDTH, CaptionBenchmark, ImageBindText, cosine, pieces
from gpu.evaluation.contract import Deadline, EvaluationImpossible, ModelFault
from gpu.evaluation.datasets_hub import DataSource
from gpu.evaluation.plan import BenchmarkPlan
from gpu.evaluation.registry import benchmark_for


def vector_of(text: str) -> np.ndarray:
    """A direction for each text, float32, shape ``(1024,)``."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).standard_normal(WIDTH).astype(np.float32)


class HashedDirections:
    """Stands in for trained weights: a text's embedding is drawn from its hash."""

    def prepare(self) -> None:
        """Nothing to load."""

    def embed(self, text: str) -> np.ndarray:
        return vector_of(text)


def write_videos(folder: Path, count: int = 6) -> Path:
    """Files named as in omega-multimodal: ``default/train/*.parquet``; the embedding is its description's."""
    place = folder / "default" / "train"
    place.mkdir(parents=True)
    for part in range(2):
        rows = [
            {
                "video_id": f"v{number}",
                "description": f"video {number}",
                "video_embed": vector_of(f"video {number}").astype(np.float64).tolist(),
                "audio_embed": [0.0] * 4,
            }
            for number in range(part * count // 2, (part + 1) * count // 2)
        ]
        pq.write_table(pa.Table.from_pylist(rows), place / f"01J{part}.parquet")
    return folder


def benchmark(folder: Path, cache: Path, size: int = 64) -> CaptionBenchmark:
    source = DataSource(str(folder), "O1_DATASET", cache)
    return CaptionBenchmark(source, HashedDirections(), size=size, seed="s", answer_limit=20)


def described(embedding: list[float]) -> str:
    """What a perfect model says."""
    return next(f"video {n}" for n in range(6) if abs(vector_of(f"video {n}")[0] - embedding[0]) < 1e-6)


def test_the_score_is_the_mean_cosine(tmp_path: Path) -> None:
    def caption(embedding: list[float]) -> str:
        text = described(embedding)
        return text if text != "video 3" else "something else"

    bench = benchmark(write_videos(tmp_path / "data"), tmp_path)
    with ModelServer(caption=caption) as model:
        bench.prepare()
        score = bench.evaluate(model.url, Deadline(60))
    other = max(0.0, cosine(vector_of("something else"), vector_of("video 3")))
    assert score.score == pytest.approx((5 + other) / 6, abs=1e-4)
    assert score.metric_scores == {"o1": score.score, "samples": 6, "usable": 6, "success_rate": 1.0}
    assert score.samples[0]["id"] == "o1/0"
    assert score.samples[0]["prompt"] == "video 0"
    assert score.samples[0]["verdict"] == {"cosine": pytest.approx(1.0, abs=1e-5)}
    assert {path for _, path in model.requests} == {"/api/v1/inference"}


def test_a_caption_that_did_not_come_counts_nothing(tmp_path: Path) -> None:
    bench = benchmark(write_videos(tmp_path / "data"), tmp_path)
    with ModelServer([None, "garbage", None, "wrong_type"], caption=described) as model:
        score = bench.evaluate(model.url, Deadline(60))
    assert score.score == pytest.approx(4 / 6, abs=1e-4)
    assert score.metric_scores["success_rate"] == pytest.approx(4 / 6)
    assert (score.samples[1]["verdict"], score.samples[1]["error"]) == (None, "the answer is not JSON")


class Picky(HashedDirections):
    """An embedder that stumbles over some captions: an exception, zeros, numbers without end."""

    def embed(self, text: str) -> np.ndarray:
        if text == "video 1":
            raise IndexError("no such token")
        return vector_of(text) * {"video 2": 0.0, "video 3": np.float32("inf")}.get(text, 1.0)


def test_a_caption_that_alone_cannot_be_judged_counts_nothing(tmp_path: Path) -> None:
    source = DataSource(str(write_videos(tmp_path / "data")), "O1_DATASET", tmp_path)
    bench = CaptionBenchmark(source, Picky(), size=6, seed="s", answer_limit=20)
    with ModelServer(caption=described) as model:
        score = bench.evaluate(model.url, Deadline(60))
    assert score.score == pytest.approx(3 / 6, abs=1e-4)
    errors = [row["error"] for row in score.samples]
    assert [error is None for error in errors] == [True, False, False, False, True, True]
    assert errors[1] == "the text embedder (IMAGEBIND_WEIGHTS) cannot judge this answer: no such token"


def test_an_embedder_that_manages_nothing_is_no_models_fault(tmp_path: Path) -> None:
    class Broken(HashedDirections):
        def embed(self, text: str) -> np.ndarray:
            raise RuntimeError("device lost")

    source = DataSource(str(write_videos(tmp_path / "data")), "O1_DATASET", tmp_path)
    bench = CaptionBenchmark(source, Broken(), size=6, seed="s", answer_limit=20)
    with ModelServer(caption=described) as model, pytest.raises(EvaluationImpossible, match="device lost"):
        bench.evaluate(model.url, Deadline(60))


def test_an_opposite_caption_is_worth_nothing_not_less(tmp_path: Path) -> None:
    class Opposite(HashedDirections):
        def embed(self, text: str) -> np.ndarray:
            return -vector_of(text)

    source = DataSource(str(write_videos(tmp_path / "data")), "O1_DATASET", tmp_path)
    bench = CaptionBenchmark(source, Opposite(), size=6, seed="s", answer_limit=20)
    with ModelServer(caption=described) as model:
        assert bench.evaluate(model.url, Deadline(60)).score == 0.0


def test_a_model_without_captions_is_at_fault(tmp_path: Path) -> None:
    bench = benchmark(write_videos(tmp_path / "data", 24), tmp_path)
    with ModelServer("status_500") as model, pytest.raises(ModelFault, match="status 500"):
        bench.evaluate(model.url, Deadline(60))
    assert model.asked == 10


def test_the_same_videos_everywhere(tmp_path: Path) -> None:
    folder = write_videos(tmp_path / "data", 24)
    chosen = [video.row for video in benchmark(folder, tmp_path / "a", 5).videos()]
    assert chosen == [video.row for video in benchmark(folder, tmp_path / "b", 5).videos()]
    assert len(chosen) == 5
    assert chosen != list(range(5))


def test_data_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(EvaluationImpossible, match="set O1_DATASET=FOLDER"):
        benchmark(Path("omegalabsinc/omega-multimodal"), tmp_path).videos()
    folder = tmp_path / "odd" / "default" / "train"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"video_embed": [[1.0, 2.0]]}), folder / "a.parquet")
    with pytest.raises(EvaluationImpossible, match="1024 finite numbers"):
        benchmark(tmp_path / "odd", tmp_path).videos()
    pq.write_table(pa.table({"description": ["a"]}), folder / "a.parquet")
    with pytest.raises(EvaluationImpossible, match="no column 'video_embed'"):
        benchmark(tmp_path / "odd", tmp_path / "c").videos()


def test_pieces_of_a_long_caption() -> None:
    assert pieces("A dog. It runs!") == ["A dog. It runs!"]
    assert pieces("") == [""]
    long = " ".join(f"word{n}" for n in range(90)) + ". Short end."
    cut = pieces(long)
    assert [len(piece.split()) for piece in cut] == [40, 40, 12]
    assert " ".join(cut) == long
    assert max(len(word) for piece in pieces("a" * 16_000) for word in piece.split()) == 40


def test_a_vector_that_is_no_direction_is_our_fault() -> None:
    zero = np.zeros(WIDTH, np.float32)
    for bad in (zero, np.full(WIDTH, np.nan, np.float32), np.ones(3, np.float32)):
        with pytest.raises(EvaluationImpossible):
            cosine(bad, vector_of("x"))


class TinyImageBind(torch.nn.Module):
    """In ``imagebind_huge``'s interface: tokens ``n x 77`` to ``{"text": n x 1024}``."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(256, WIDTH)

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"text": self.table(inputs["text"]).mean(dim=1)}


@pytest.fixture
def imagebind(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The package's names that the adapter uses; yields the texts that were tokenized."""
    seen: list[list[str]] = []

    def load_and_transform_text(texts: list[str], device: str) -> torch.Tensor:
        seen.append(texts)
        rows = [(list(text.encode())[:77] + [0] * 77)[:77] for text in texts]
        return torch.tensor(rows, device=device)

    def imagebind_huge(pretrained: bool = False) -> TinyImageBind:
        assert not pretrained
        return TinyImageBind()

    package = types.ModuleType("imagebind")
    package.__spec__ = ModuleSpec("imagebind", None)
    data = types.ModuleType("imagebind.data")
    models = types.ModuleType("imagebind.models")
    model = types.ModuleType("imagebind.models.imagebind_model")
    data.load_and_transform_text = load_and_transform_text  # type: ignore[attr-defined]
    model.imagebind_huge = imagebind_huge  # type: ignore[attr-defined]
    model.ModalityType = types.SimpleNamespace(TEXT="text")  # type: ignore[attr-defined]
    package.data, package.models, models.imagebind_model = data, models, model  # type: ignore[attr-defined]
    for module in (package, data, models, model):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return seen


def test_imagebind_in_the_packages_interface(imagebind: list[list[str]], tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = TinyImageBind()
    torch.save(trained.state_dict(), tmp_path / "imagebind_huge.pth")
    embedder = ImageBindText(tmp_path / "imagebind_huge.pth", "cpu")
    embedder.prepare()
    long = "A dog runs. " * 40
    vector = embedder.embed(long)
    assert vector.shape == (WIDTH,)
    assert vector.dtype == np.float32
    (texts,) = imagebind
    assert len(texts) == 4
    assert not np.allclose(vector, embedder.embed("A cat sleeps."))
    with torch.inference_mode():
        tokens = torch.tensor([list(b"A cat sleeps.") + [0] * 64])
        np.testing.assert_allclose(embedder.embed("A cat sleeps."), trained({"text": tokens})["text"][0].numpy())


class Harmful:
    """What a hostile weights file may hold."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("harm-done"),))  # type: ignore[return-value]


def test_weights_that_would_run_code_are_not_read(imagebind: list[list[str]], tmp_path: Path) -> None:
    torch.save(TinyImageBind(), tmp_path / "videobind-v0.2.pth")
    (tmp_path / "harm.pth").write_bytes(pickle.dumps({"weight": Harmful()}, protocol=2))
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pth")
    for name in ("videobind-v0.2.pth", "harm.pth", "list.pth", "other.pth"):
        with pytest.raises(EvaluationImpossible, match="IMAGEBIND_WEIGHTS"):
            ImageBindText(tmp_path / name, "cpu").prepare()
    assert not Path("harm-done").exists()


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EvaluationImpossible, match=r"imagebind_huge\.pth.*pip install.*set IMAGEBIND_WEIGHTS"):
        benchmark_for(BenchmarkPlan("o1"), Settings()).prepare()
    with pytest.raises(EvaluationImpossible, match="there is no file"):
        ImageBindText(tmp_path / "none.pth", "cpu").prepare()
    monkeypatch.setitem(sys.modules, "imagebind", None)
    (tmp_path / "some.pth").touch()
    with pytest.raises(EvaluationImpossible, match="pip install git"):
        ImageBindText(tmp_path / "some.pth", "cpu").prepare()


def test_making_a_benchmark_loads_nothing() -> None:
    program = """
import sys
from app.settings import Settings
from gpu.evaluation.plan import BenchmarkPlan
from gpu.evaluation.registry import benchmark_for
for competition in ("voicebench", "v2v", "o1"):
    benchmark_for(BenchmarkPlan(competition), Settings())
print(*sorted({"torch", "datasets", "transformers", "nltk", "lm_eval", "openai", "scipy"} & set(sys.modules)))
"""
    root = Path(__file__).parents[3]
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root)
    assert made.stdout.strip() == ""
