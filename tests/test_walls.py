"""The walls between the rooms hold: an import that goes upwards is found, from whichever module it is."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import pytest

PROJECT = Path(__file__).parents[1]
ROOMS = ("app", "chem", "gpu", "chain", "workers")
CONTRACTS = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
LAYERS = [
    [name.strip(" ()") for name in layer.replace("|", ":").split(":")]
    for layer in next(contract["layers"] for contract in CONTRACTS if contract["type"] == "layers")
]


def test_every_module_of_the_application_stands_in_a_layer() -> None:
    placed = {name for layer in LAYERS for name in layer}
    modules = {f"app.{path.stem}" for path in (PROJECT / "app").glob("*.py") if path.stem != "__init__"}
    packages = {f"app.{path.parent.name}" for path in (PROJECT / "app").glob("*/__init__.py")}
    assert modules | packages | set(ROOMS) - {"app"} <= placed


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("walls")
    for room in ROOMS:
        shutil.copytree(
            PROJECT / room, root / room, ignore=shutil.ignore_patterns("*.pyc", "demo/recording*", "static")
        )
    for name in ("pyproject.toml", "beat_schedule.py"):
        shutil.copy(PROJECT / name, root / name)
    return root


def _modules(root: Path, room: str) -> list[Path]:
    path = root / room.replace(".", "/")
    return [path.with_suffix(".py")] if path.with_suffix(".py").exists() else sorted(path.rglob("*.py"))


def _broken(root: Path) -> str:
    program = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command as run; run()"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root, check=False)
    return run.stdout + run.stderr if run.returncode else ""


def test_the_walls_hold_and_every_module_is_inside_them(copy: Path) -> None:
    """One import of the highest room is planted in every module below it; the check must name each of them."""
    assert _broken(copy) == ""
    planted = []
    for room in (name for layer in LAYERS[1:] for name in layer):
        for path in _modules(copy, room):
            if path.exists() and "versions" not in path.parts:
                with path.open("a", encoding="utf-8") as stream:
                    stream.write("\nimport app.cli.up\n")
                planted.append(".".join(path.relative_to(copy).with_suffix("").parts).removesuffix(".__init__"))
    found = _broken(copy)
    assert len(planted) > 150
    assert not [module for module in planted if f"- {module} -> app.cli.up" not in found]


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("app/epochs/plan.py", "app.competitions.standings"),
        ("app/competitions/standings.py", "app.epochs.plan"),
        ("chem/properties.py", "torch"),
        ("chain/drand.py", "sqlalchemy"),
        ("gpu/checkpoints.py", "celery"),
        ("app/store/scores.py", "app.epochs.plan"),
        ("app/domain.py", "app.settings"),
    ],
)
def test_rooms_of_one_height_do_not_know_each_other(copy: Path, module: str, forbidden: str) -> None:
    path = copy / module
    before = path.read_text(encoding="utf-8")
    path.write_text(f"{before}\nimport {forbidden}\n", encoding="utf-8")
    try:
        name = module.removesuffix(".py").replace("/", ".")
        assert f"{name} -> {forbidden.split('.', maxsplit=1)[0]}" in _broken(copy)
    finally:
        path.write_text(before, encoding="utf-8")


def test_no_module_imports_itself_through_others() -> None:
    """Also not through imports within functions. A package stands for what it imports itself."""
    graph = grimp.build_graph(*ROOMS)
    left = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    while free := [module for module, imported in left.items() if not imported & left.keys()]:
        for module in free:
            del left[module]
    # what is left are circles and what leads to them; the latter is imported by none that is left
    while leading := left.keys() - {name for imported in left.values() for name in imported}:
        for module in leading:
            del left[module]
    assert not left, f"circles of imports: {sorted(left)}"
