"""A backend of Keras that is not there, and a configuration that is none, are named."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from classify.cli import main as train_head
from extract.trunks.configuration import installed_version
from tests.conftest import ROOT, MakeStore

COMMAND = "import sys; from classify.{} import main; sys.exit(main())"


def run(module: str, *words: object, **environment: str) -> str:
    """Run a command that fails, and return its last line."""
    child = subprocess.run(
        [sys.executable, "-c", COMMAND.format(module), *map(str, words)],
        env={**{k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 1, child.stderr
    assert "Traceback" not in child.stderr
    return child.stderr.splitlines()[-1]


@pytest.fixture
def store(make_store: MakeStore) -> Path:
    return make_store(np.random.default_rng(0).random((12, 3), np.float32), [0, 1] * 6)


@pytest.mark.parametrize(
    ("named", "written", "found"),
    [
        ("nonesuch", "", "KERAS_BACKEND=nonesuch (Unable to import backend : nonesuch)"),
        ("openvino", "", "KERAS_BACKEND=openvino; expected tensorflow, jax or torch, installed"),
        ("", '{"backend": "nonesuch"}', "keras.json (Unable to import backend : nonesuch)"),
        ("", "[]", "keras.json ('list' object has no attribute"),
        ("tensorflow", '{"floatx": "float8"}', "keras.json (Invalid `floatx` configuration"),
    ],
)
def test_a_head_that_no_backend_trains_is_named(
    store: Path, tmp_path: Path, named: str, written: str, found: str
) -> None:
    (tmp_path / "keras.json").write_text(written)
    environment = {"KERAS_HOME": str(tmp_path), "KERAS_BACKEND": named}
    last = run("cli", store, "--head", "dense", **environment)
    assert last.startswith("train-head: Keras: found ")
    assert found in last
    in_variable = found.startswith("KERAS_BACKEND")
    assert last.endswith("unset KERAS_BACKEND" if in_variable else "mend or remove that file")
    assert not (tmp_path / "made_head").exists()


def test_a_head_that_no_backend_loads_is_not_called_damaged(
    store: Path, images: Path, tmp_path: Path
) -> None:
    assert train_head([str(store), "--head", "dense", "--epochs", "1", "-q"]) == 0
    last = run("predict_cli", tmp_path / "made_head", images, KERAS_BACKEND="nonesuch")
    assert last.startswith("predict-images: Keras: found KERAS_BACKEND=nonesuch")
    assert "train the head again" not in last


def test_a_package_under_another_name_has_no_version() -> None:
    assert installed_version("numpy") == np.__version__
    assert installed_version("nonesuch") == "none"
