"""Every command in a process that behaves as on Windows, as far as code can."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, WINDOWS
from tests.test_cli import QUICK_FLAGS

COMMANDS = """
import signal
from pathlib import Path
from classify import export_head
from classify.cli import main as train_head
from classify.predict_cli import main as predict_images
from extract import cli, show_cli

for module, names in (
    (os, "getuid geteuid fchmod fork mkfifo O_NONBLOCK O_NOFOLLOW O_DIRECTORY"),
    (signal, "SIGHUP pthread_kill"),
):
    for name in names.split():
        delattr(module, name)
source, folder, *flags = sys.argv[1:]
source, folder = Path(source), Path(folder)
out, head = str(folder / "out.h5"), str(folder / "out_head")

def run(command, *words):
    assert command(list(map(str, words))) == 0, words

for more in ([], [], ["--overwrite"], ["--update"]):
    run(cli.main, source, out, *flags, *more)
    first = source / "train/cat/0.png"
    (source / f"train/cat/{len(more)}9.png").write_bytes(first.read_bytes())
    if not more:
        (source / "train/cat/09.png").unlink()
for more in ([], ["--overwrite"]):
    run(cli.main, source, folder / "index.h5", *flags, "--shards", folder / "parts", *more)
run(show_cli.main, folder / "index.h5", "--verify")
heads = ["--head", "knn", "--head", "dense", "--epochs", "2", "--head", "logistic"]
targets = [folder / name for name in ("model.keras", "model.onnx", "model.tflite", "model")]
for _ in range(2):  # new, then in the place of the former
    run(train_head, out, *heads, "--folds", "2")
    run(train_head, out, "--head", "logistic", *(w for t in targets for w in ("--export", t)))
    export_head(head, targets[0])
    run(predict_images, head, source, "-o", folder / "labels.csv")
    run(predict_images, head, first, "-o", folder / "chart.png")
with open(out, "rb"):  # the imitation itself: what is open stays
    try:
        Path(out).replace(folder / "other.h5")
        raise AssertionError
    except PermissionError:
        pass
assert not [path.name for path in folder.rglob(".*")]
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="imitates Windows")
def test_every_command_runs_without_what_windows_lacks(images: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    # They load other modules on Windows.
    before = "import joblib, psutil, sklearn.linear_model\n"
    words = [before + WINDOWS + COMMANDS, str(images), str(tmp_path / "made"), *QUICK_FLAGS]
    environment = {**os.environ, "HEADSTART_CACHE": str(tmp_path / "cache")}
    child = subprocess.run(
        [sys.executable, "-c", *words],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
