"""The shape of the project: who imports whom, names that agree, licences."""

import argparse
import ast
import re
import tomllib
from collections.abc import Sequence
from dataclasses import fields
from graphlib import TopologicalSorter
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from extract.cli import extract_features_parser
from extract.core.config import ExtractConfig, TrunkSpec
from extract.core.views import ViewSpec
from extract.store.open import open_store
from tests.conftest import QUICK
from tests.shape import PACKAGES, measure

ROOT = Path(__file__).resolve().parents[1]

# Lowest first: a room imports only itself and the rooms before it.
ROOMS = {
    "extract": (
        "core",
        "display",
        "limits",
        "images",
        "pixels",
        "layouts",
        "sources",
        "families",
        "trunks",
        "conversion",
        "onnx",
        "engines",
        "store",
        "pipeline",
        "exchange",
        "gallery",
        "similarity",
    ),
    "classify": (
        "settings",
        "stored",
        "data",
        "scores",
        "solvers",
        "heads",
        "search",
        "finetune",
        "labelling",
        "diagnosis",
        "activation",
        "figures",
        "output",
        "report",
        "inference",
        "export",
    ),
}


def modules(package: str) -> dict[str, Path]:
    """Every module of a package by its dotted name."""
    paths = sorted((ROOT / package).rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return {name.removesuffix(".__init__"): path for name, path in zip(names, paths, strict=True)}


def imports(path: Path) -> set[str]:
    """Every module a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def room_of(module: str) -> str:
    """The room that a module lies in, empty for the files beside the rooms."""
    package, _, rest = module.partition(".")
    name = rest.partition(".")[0]
    return name if name in ROOMS[package] else ""


@pytest.mark.parametrize(("package", "room"), [(p, room) for p in ROOMS for room in ROOMS[p]])
def test_a_room_imports_only_rooms_before_it(package: str, room: str) -> None:
    above = set(ROOMS[package][: ROOMS[package].index(room) + 1])
    for name, path in modules(package).items():
        if room_of(name) == room:
            inside = {m for m in imports(path) if m.startswith(f"{package}.")}
            assert {room_of(module) for module in inside} <= above, name


@pytest.mark.parametrize("package", ROOMS)
def test_no_imports_go_in_a_circle(package: str) -> None:
    paths = modules(package)
    # A package itself is left out: its public names are loaded when they are asked for.
    graph = {name: (imports(path) & paths.keys()) - {name, package} for name, path in paths.items()}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("package", ROOMS)
def test_a_room_has_eight_files_at_most(package: str) -> None:
    for room in ROOMS[package]:
        paths = {path.name for path in (ROOT / package / room).glob("*.py")} - {"__init__.py"}
        assert 0 < len(paths) <= 8, room


def test_text_is_written_with_the_same_line_ends_on_every_system() -> None:
    paths = [path for package in ROOMS for path in modules(package).values()]
    calls = [
        (path.name, node.lineno, node)
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    assert not [
        (name, line)
        for name, line, call in calls
        if call.func.attr == "write_text"  # type: ignore[attr-defined]
        and "newline" not in {word.arg for word in call.keywords}
    ]


def test_files_and_functions_are_short() -> None:
    shape = measure(*PACKAGES)
    assert not shape.long_files
    assert not shape.long_functions


def test_stage_one_knows_nothing_of_stage_two() -> None:
    for path in modules("extract").values():
        assert not {m for m in imports(path) if m.split(".")[0] == "classify"}, path


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        # Four files know the store; one reads arrays that others have made, one looks for traps.
        (
            "h5py",
            {
                "extract/limits/hdf5.py",
                "extract/sources/pixel_arrays.py",
                *(
                    "extract/store/shards.py",
                    "extract/store/format.py",
                    "extract/store/single_file.py",
                    "extract/store/validate.py",
                ),
            },
        ),
        ("tensorflow", {"extract/trunks/backend.py", "extract/trunks/compiled.py"}),
        ("jax", {"extract/trunks/backend.py", "extract/trunks/compiled.py"}),
        ("torch", {"extract/trunks/backend.py", "extract/trunks/compiled.py"}),
        ("keras", {"extract/trunks/backend.py"}),
        ("openvino", {"extract/trunks/backend.py"}),
        ("pickle", {"extract/families/torch_file.py"}),
        ("joblib", set()),
    ],
)
def test_a_library_is_known_in_one_place(library: str, allowed: set[str]) -> None:
    found = {
        str(path.relative_to(ROOT))
        for package in ROOMS
        for path in modules(package).values()
        if library in {module.split(".")[0] for module in imports(path)}
    }
    assert found == allowed


def flags(parser: argparse.ArgumentParser) -> set[str]:
    return {
        option.removeprefix("--").replace("-", "_")
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--") and not option.startswith("--no-")
    }


def test_a_setting_has_one_name_in_three_places(images: Path, tmp_path: Path) -> None:
    from extract.pipeline.run import run_extraction as extract_features

    settings = {f.name for kind in (TrunkSpec, ExtractConfig, ViewSpec) for f in fields(kind)}
    other = {"help", "version", "quiet", "verbose", "log", "list_trunks", "list_layers"}
    assert flags(extract_features_parser()) - other == settings
    given: dict[str, Any] = {**QUICK, "views": 1}
    extract_features(images, tmp_path / "out.h5", **given)
    with open_store(tmp_path / "out.h5") as store:
        # What one run does, and where, is no property of the file.
        actions = {"overwrite", "update", "check", "dry_run", "repair", "cluster"}
        assert settings - set(store.attributes) == actions


def brought_by(requirements: Sequence[str]) -> dict[str, Distribution]:
    """Return what a plain install of some requirements brings, by name."""
    found: dict[str, Distribution] = {}
    pending = list(map(Requirement, requirements))
    while pending:
        wanted = pending.pop()
        needed = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        if needed and wanted.name.lower() not in found:
            found[wanted.name.lower()] = brought = distribution(wanted.name)
            pending += map(Requirement, brought.requires or [])
    return found


def licence(package: Distribution) -> str:
    """Return the licence's name: in the terms of today, else of yesterday."""
    stated = package.metadata
    classifiers = [c for c in stated.get_all("Classifier", []) if c.startswith("License")]
    expression, text = (stated.get_all(name, [""])[0] for name in ("License-Expression", "License"))
    return expression or " ".join(classifiers) or text[:80]


def test_a_plain_install_brings_no_copyleft() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    brought = brought_by(project["dependencies"])
    assert len(brought) > 30
    # A library of the compiler may be used by any program: "GPL-3.0 WITH GCC-exception-3.1".
    copyleft = re.compile(r"GPL(?!\S* WITH)|General Public|CeCILL|EUPL|SSPL", re.IGNORECASE)
    assert {name for name, package in brought.items() if copyleft.search(licence(package))} == set()


def test_every_version_of_python_that_is_allowed_is_stated_and_tested() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, allowed = settings["project"], SpecifierSet(settings["project"]["requires-python"])
    versions = [f"3.{minor}" for minor in range(50) if f"3.{minor}" in allowed]
    assert project["classifiers"] == [f"Programming Language :: Python :: {v}" for v in versions]
    assert settings["tool"]["ruff"]["target-version"] == f"py{versions[0].replace('.', '')}"
    listed = f"{', '.join(versions[:-1])} or {versions[-1]}"
    assert f"You need Python {listed}," in (ROOT / "README.md").read_text()
    assert f"for version in {' '.join(versions)}; do" in (ROOT / ".ci/run").read_text()
    rows = re.findall(r"^\| (3\.\d+)\.\d+ \|", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    assert sorted(set(rows)) == versions
