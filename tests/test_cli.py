"""The commands of stage one: what they print where, and the exit code they end with."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from classify import predict_cli
from extract import cli, show_cli
from extract.store.open import open_store
from tests.conftest import ROOT, MakeStore

QUICK_FLAGS = [
    "--trunk",
    "mobilenet",
    "--weights",
    "none",
    "--layer",
    "conv1_relu",
    "--image-size",
    "32",
]


def extract(*words: object) -> int:
    return cli.main([str(word) for word in words])


def test_done_is_0_and_stdout_is_empty(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert extract(images, tmp_path / "out.h5", *QUICK_FLAGS) == 0
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    lines = stderr.splitlines()
    assert lines[:6] == [
        f"{images}: 8 images, 2 classes",
        "            train  validation",
        "  cat           2           2",
        "  dog           2           2",
        "  all           4           4",
        "  read as SPLIT/CLASS",
    ]
    # A line says that the trunk is built, unless it is in the cache.
    assert lines[-3].startswith("8 images, 0 done before; mobilenet at 32 x 32 pixels")
    assert "8 images, 2 classes, conv1_relu 32; 8 new in" in lines[-2]
    assert lines[-1] == f"next: train-head {tmp_path / 'out.h5'}"


def test_what_comes_next_can_be_done(
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "my features.h5"
    assert extract(images, out, *QUICK_FLAGS) == 0
    assert capsys.readouterr().err.splitlines()[-1] == f"next: train-head '{out}'"
    assert extract(images / "train/cat", tmp_path / "flat.h5", *QUICK_FLAGS) == 0
    why, next_step = capsys.readouterr().err.splitlines()[-1].split("; next: ")
    assert why == "no image has a label, and a head needs two classes"
    command = f"predict-images {tmp_path / 'flat.h5'} --to-label 30 -o flat_labels.csv"
    assert next_step == command
    monkeypatch.chdir(tmp_path)
    assert predict_cli.main(command.split()[1:]) == 0
    assert len((tmp_path / "flat_labels.csv").read_text().splitlines()) == 3
    one = tmp_path / "one"
    shutil.copytree(images / "train/cat", one / "cat")
    assert extract(one, tmp_path / "one.h5", *QUICK_FLAGS) == 0
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"a head needs images of two classes; next: show-features {tmp_path / 'one.h5'}"


def test_a_leading_dash_is_no_flag_in_the_next_command(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert extract(images, "./-dash.h5", *QUICK_FLAGS) == 0
    assert capsys.readouterr().err.splitlines()[-1] == "next: train-head ./-dash.h5"


def test_flags_may_stand_between_the_words(images: Path, tmp_path: Path) -> None:
    assert extract(*QUICK_FLAGS[:4], images, *QUICK_FLAGS[4:], tmp_path / "out.h5") == 0
    assert (tmp_path / "out.h5").exists()


def test_a_dry_run_says_what_the_run_would_do(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = [*QUICK_FLAGS, "--dry-run"]

    def said(*words: str, code: int = 0) -> str:
        assert extract(images, "out.h5", *flags, *words) == code
        return capsys.readouterr().err.splitlines()[-1]

    end = "; mobilenet at conv1_relu (32,) in float32, 0.0 MB"
    assert said() == f"would make out.h5: 8 images of 2 classes, 0 done before{end}"
    assert said("--shards", "parts").endswith(f"{end} in 1 shard in parts")
    assert extract(images, "out.h5", *QUICK_FLAGS) == 0
    capsys.readouterr()
    with open_store("out.h5", write=True) as store:
        store.forget(np.array([1, 2, 3]))
    assert said() == f"would continue out.h5: 8 images of 2 classes, 5 done before{end}"
    assert "layer" in said("--layer", "conv_pw_1_relu", code=1)
    (images / "train/cat/0.png").unlink()
    changed = "the source has changed: 1 image (train/cat/0.png) missing"
    before = Path("out.h5").read_bytes()
    assert f"{changed}; use --update" in said(code=1)
    assert "add --max-removed 100%" in said("--update", code=1)
    for action in ("update", "overwrite"):
        what = f"would {action.replace('overwrite', 'replace')} out.h5, for {changed}: 7 images"
        words = ["--max-removed", "1"] if action == "update" else []
        assert said(f"--{action}", *words).startswith(what)
    assert Path("out.h5").read_bytes() == before


@pytest.mark.parametrize("flags", [[], ["--dry-run"]], ids=str)
def test_a_place_without_a_folder_is_refused_by_a_dry_run_too(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    assert extract(images, tmp_path / "none/out.h5", *QUICK_FLAGS, *flags) == 1
    assert f"{tmp_path / 'none'}: no such folder; expected one" in capsys.readouterr().err


def test_quiet_says_nothing(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert extract(images, tmp_path / "out.h5", *QUICK_FLAGS, "-q") == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--layer", "conv9"], "mobilenet: layer 'conv9' is unknown; nearest: conv"),
        (["--weights", "no.h5"], "no.h5: no such file; expected weights of mobilenet"),
    ],
)
def test_a_known_failure_is_1_and_one_line(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    words = ["--trunk", "mobilenet", "--weights", "none", *flags]
    assert extract(images, tmp_path / "out.h5", *words) == 1
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    *overview, last = stderr.splitlines()
    assert message in last
    assert overview[0] == f"{images}: 8 images, 2 classes"
    assert "  read as SPLIT/CLASS" in overview[-2:]  # "building mobilenet" may follow
    assert not (tmp_path / "out.h5").exists()


def test_a_missing_source_is_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert extract(tmp_path / "nowhere", tmp_path / "out.h5") == 1
    assert "nowhere: no such file or folder; expected a folder of images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "SOURCE and OUT.h5 are missing; expected extract-features SOURCE OUT.h5"),
        (["a", "b", "--trunk", "vgg61"], "trunk 'vgg61' is unknown; nearest: vgg19, vgg16"),
        (["a", "b", "--batch-size", "0"], "--batch-size: found 0"),
        (["a", "b", "--max-bad", "x"], "--max-bad: found 'x'"),
    ],
)
def test_a_bad_setting_is_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], message: str
) -> None:
    (tmp_path / "a").mkdir()
    assert extract(*words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("size", ["150 px", "0", "150x0"])
def test_a_word_argparse_does_not_know_is_2(capsys: pytest.CaptureFixture[str], size: str) -> None:
    with pytest.raises(SystemExit) as ended:
        extract("a", "b", "--image-size", size)
    assert ended.value.code == 2
    assert "expected N or HxW, such as 150 or 150x200" in capsys.readouterr().err


def test_our_own_bug_is_3_with_its_traceback(
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("extract.pipeline.run.list_source", lambda *_: 1 / 0)
    assert extract(images, tmp_path / "out.h5") == 3
    stderr = capsys.readouterr().err
    assert "ZeroDivisionError" in stderr
    assert "this is a bug in headstart" in stderr


@pytest.mark.parametrize(("max_bad", "code"), [("0", 4), ("1", 0), ("12%", 4), ("13%", 0)])
def test_too_many_bad_images_are_4(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], max_bad: str, code: int
) -> None:
    (images / "train/cat/0.png").write_bytes(b"")
    assert extract(images, tmp_path / "out.h5", *QUICK_FLAGS, "--max-bad", max_bad) == code
    stderr = capsys.readouterr().err
    assert "train/cat/0.png: is empty" in stderr
    assert "1 of 8 images could not be read" in stderr
    with open_store(tmp_path / "out.h5") as store:
        assert store.complete


def test_ctrl_c_is_130(
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("extract.store.single_file.StoreFile.write", interrupt)
    assert extract(images, tmp_path / "out.h5", *QUICK_FLAGS) == 130
    stderr = capsys.readouterr().err
    assert "stopped. 0 of 8 images are in" in stderr
    assert "Traceback" not in stderr


def test_image_size_is_height_by_width(images: Path, tmp_path: Path) -> None:
    words = [*QUICK_FLAGS[:-1], "40x64", "--pooling", "none"]
    assert extract(images, tmp_path / "out.h5", *words) == 0
    with open_store(tmp_path / "out.h5") as store:
        assert store.shapes == {"conv1_relu": (20, 32, 32)}


def test_list_layers_and_trunks(capsys: pytest.CaptureFixture[str]) -> None:
    assert extract("--list-layers", "--trunk", "vgg16", "--image-size", "64") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split(maxsplit=2) == ["0", "input_layer", "(None, 64, 64, 3)"]
    assert lines[18].split(maxsplit=2) == ["18", "block5_pool", "(None, 2, 2, 512)"]
    top = [line.split(maxsplit=1)[1] for line in lines[19:]]
    assert [line.split()[0] for line in top] == ["flatten", "fc1", "fc2", "predictions"]
    assert all(line.endswith("of the complete model") for line in top)
    assert extract("--list-trunks") == 0
    listed = capsys.readouterr().out
    lines = listed.splitlines()
    assert "inception_v3             299 px mixed7                    768 Keras" in lines
    assert "vgg16                    224 px block5_pool               512 Keras or [vgg16]" in lines
    assert lines[42:44] == ["", "Where weights come from:"]
    families = ("Keras", "[offline]", "[vgg16]", "FILE.keras", "hub:PRESET", "hub:FOLDER")
    assert {line.split()[0] for line in lines if line.startswith("  ")} == {*families}
    assert max(map(len, lines)) <= 80


def test_a_file_of_other_images_is_named_as_such(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, other = tmp_path / "out.h5", tmp_path / "other"
    assert extract(images, out, *QUICK_FLAGS) == 0
    (other / "train/cat").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(other / "train/cat/new.png")
    assert extract(other, out, "-q") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"holds 8 images, and no image of {other} has the name or the time of one" in said
    assert said.index("check SOURCE, name another file") < said.index("--update")
    # With one image in common it may be the same source.
    first = next(path for path in sorted(images.rglob("*.png")))
    kept = other / first.relative_to(images)
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(first, kept)
    assert extract(other, out, "-q") == 1
    assert "use --update" in capsys.readouterr().err


def test_the_same_images_in_another_folder_and_of_another_time_can_be_kept(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, deeper = tmp_path / "out.h5", tmp_path / "deeper"
    assert extract(images, out, *QUICK_FLAGS) == 0
    shutil.copytree(images, deeper / "within", copy_function=shutil.copyfile)
    assert extract(deeper, out, "-q") == 1
    said = capsys.readouterr().err
    assert "none of which" not in said
    assert "only for the same images under other names use --update, which keeps" in said
    assert extract(deeper, out, "--update", "--dry-run") == 0
    assert "8 done before, of them 8 under a new name" in capsys.readouterr().err


def test_an_unknown_trunk_is_said_before_what_the_file_has(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert extract(images, tmp_path / "out.h5", *QUICK_FLAGS) == 0
    assert extract(images, tmp_path / "out.h5", "--trunk", "vgg61") == 2
    assert "trunk 'vgg61' is unknown; nearest: vgg19, vgg16" in capsys.readouterr().err


def test_show_features_says_how_the_file_was_made(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert extract(images, tmp_path / "out.h5", *QUICK_FLAGS) == 0
    assert show_cli.main([str(tmp_path / "out.h5")]) == 0
    shown = dict(re.findall(r"^(\w+)  +(.*)$", capsys.readouterr().out, re.M))
    assert shown["precision"] == "float32, in openvino"
    assert shown["source"] == str(images)
    assert f"headstart {version('headstart')}" in shown["versions"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", shown["modified"])
    assert "command" in shown


def test_show_features(make_store: MakeStore, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_store(np.ones((3, 3), "f4"), [0, 1, 1], failed=[1])
    assert show_cli.main([str(path)]) == 0
    stdout, stderr = capsys.readouterr()
    assert "3 images" in stdout
    assert "000001.png: is empty" in stdout
    assert stderr == ""
    assert show_cli.main([str(path), "--verify", "--json"]) == 0
    stdout, stderr = capsys.readouterr()
    found = json.loads(stdout)
    assert found["problems"] == []
    assert found["status"] == {"done": 2, "failed": 1, "not_yet": 0}
    assert stderr == "verified: every row is there, readable and finite\n"


def test_verify_of_a_damaged_store_is_1(
    make_store: MakeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_store(np.full((2, 3), np.nan, "f4"), [0, 1])
    assert show_cli.main([str(path), "--verify"]) == 1
    assert "2 finished rows are not finite" in capsys.readouterr().err


def test_a_store_that_is_merely_unfinished_needs_no_repair(
    make_store: MakeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_store(np.ones((3, 3), "f4"), [0, 1, 1])
    with open_store(path, write=True) as store:
        store.forget(np.array([1]))
    assert show_cli.main([str(path), "--verify"]) == 1
    said = capsys.readouterr().err
    assert said.endswith("1 of 3 rows are still to do; run the same extract-features command\n")


def test_a_reader_that_leaves_early_is_no_failure() -> None:
    code = "import sys; from extract import cli; sys.exit(cli.main(['--list-trunks']))"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout
    assert child.stderr
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait() == 0


@pytest.mark.parametrize("command", ["cli.main", "show_cli.main"])
def test_help_answers_at_once(command: str) -> None:
    code = (
        "import sys; from extract import cli, show_cli\n"
        f"try: {command}(['--help'])\n"
        "finally: print({m.split('.')[0] for m in sys.modules})"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "examples:" in child.stdout
    for heavy in ("numpy", "keras", "tensorflow", "h5py", "PIL", "sklearn"):
        assert f"'{heavy}'" not in child.stdout


def test_start_up_is_quiet(images: Path, tmp_path: Path) -> None:
    code = "import sys; from extract import cli; sys.exit(cli.main())"
    child = subprocess.run(
        [sys.executable, "-c", code, images, tmp_path / "out.h5", *QUICK_FLAGS],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(child.stderr.splitlines()) == 9, child.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs pipes and links")
def test_a_place_that_is_no_file_is_named(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link.h5").symlink_to("nowhere/x.h5")
    for out, found in (
        (tmp_path / "pipe", "found a pipe or a device; expected a file"),
        (Path(os.devnull), "found a pipe or a device; expected a file"),
        (tmp_path / "link.h5", "a link to nowhere/x.h5, which does not exist; expected a file"),
        (tmp_path / ("x" * 300), "File name too long; expected the path of a file; use a shorter"),
    ):
        assert cli.main([str(images), str(out), *QUICK_FLAGS]) == 1
        assert f"{out}: {found}" in capsys.readouterr().err
    assert cli.main([str(images), str(tmp_path / "a.h5"), "--workers", "100000"]) == 2
    assert "workers: found 100000; expected at most 1024" in capsys.readouterr().err


def test_a_backend_that_is_not_installed_is_named(images: Path, tmp_path: Path) -> None:
    code = "import sys; from extract.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", code, str(images), str(tmp_path / "a.h5"), *QUICK_FLAGS]
    environment = {**os.environ, "KERAS_BACKEND": "nonesuch"}
    child = subprocess.run(
        words, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert child.returncode == 1, child.stderr
    assert "Keras: found KERAS_BACKEND=nonesuch" in child.stderr
    assert "unset KERAS_BACKEND" in child.stderr
