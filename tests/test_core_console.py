"""What people see: errors of usage, progress without a terminal, quiet mode, tables."""

import argparse
import contextlib
import errno
import fcntl
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from classify import cli as train_cli
from classify import predict_cli
from extract import cli, show_cli, write_features
from extract.core import console
from extract.core.console import log, muted, quiet_mode
from extract.core.errors import ExitCode, SettingError, StoreError, with_flags
from extract.display.progress import progress, step
from extract.display.tables import html_table
from tests.conftest import ROOT
from tests.test_cli import QUICK_FLAGS

COMMANDS = [cli.main, show_cli.main, train_cli.main, predict_cli.main]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_names_a_mistyped_flag(
    command: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command(["--help"])
    assert ended.value.code == 0
    assert "examples:" in capsys.readouterr().out
    for flag in ("--verbos", "--quite"):  # an abbreviation, and a mistake
        with pytest.raises(SystemExit) as ended:
            command(["a", "b", flag])
        assert ended.value.code == 2
        stderr = capsys.readouterr().err
        assert f"nearest: {'--verbose' if flag == '--verbos' else '--quiet'}" in stderr
        assert len(stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "b", "--pooling", "averge"], "--pooling 'averge' is unknown; nearest: avg; known: "),
        (["a", "b", "--pool", "avg"], "flag --pool is unknown; nearest: --pooling; see "),
        (["a", "b", "--batch_size=8"], "flag --batch_size is unknown; nearest: --batch-size"),
        (["a", "b", "--zzz"], "flag --zzz is unknown; see extract-features --help"),
        (
            ["a", "b", "--image-size", "x"],
            "--image-size: found 'x'; expected N or HxW, such as 150",
        ),
        (["a", "b", "--batch-size", "1.5"], "--batch-size: found '1.5'; expected a whole number"),
        (["a", "b", "--zoom", "x"], "--zoom: found 'x'; expected a number"),
        (["a", "b", "--zoom"], "--zoom: found no value after it; expected one"),
        (["a", "b", "c", "d"], "too many words: found c d; expected SOURCE OUT.h5"),
        (["a", "b", "--precision", "b\x1b[3m"], r"--precision 'b\x1b[3m' is unknown; known: "),
    ],
)
def test_a_wrong_word_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith(f"extract-features: {message}")
    assert len(stderr.splitlines()) == 1


def test_what_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train_cli.main([])
    expected = "OUT.h5 is missing; expected train-head OUT.h5 [OUT.h5 ...]; see train-head --help"
    assert capsys.readouterr().err == f"train-head: {expected}\n"


@pytest.mark.parametrize(
    ("message", "words", "shown"),
    [
        ("dropout: found 2", [], "--dropout: found 2"),
        ("leave_out: class 'a' is unknown", [], "--leave-out: class 'a' is unknown"),
        ("metric 'a' is unknown", [], "--metric 'a' is unknown"),
        ("assert 'a' is unknown", [], "--assert 'a' is unknown"),
        ("dropout, units: found 2", [], "--dropout, --units: found 2"),
        ("labels: no such file", ["labels"], "labels: no such file"),
        ("labels: no such file", ["a.h5", "--source", "labels"], "labels: no such file"),
        ("a.h5: no such file", [], "a.h5: no such file"),
        ("head: no such folder", [], "--head: no such folder"),
        ("the head is broken", [], "the head is broken"),
    ],
)
def test_settings_are_named_as_flags(message: str, words: list[str], shown: str) -> None:
    parser = train_cli.train_head_parser()
    arguments = parser.parse_intermixed_args(words or ["out.h5"])
    assert with_flags(parser, arguments, message) == shown


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt("saved in \x1b[31m\nhere"),
        OSError(errno.ENOSPC, "full", "\x1b[31m\nhere"),
        OSError(errno.EMFILE, "many", "\x1b[31m\nhere"),
        StoreError("\x1b[31m\nhere"),
        RuntimeError("\x1b[31m\nhere"),
    ],
)
def test_no_error_moves_the_cursor(
    error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: argparse.Namespace) -> int:
        raise error

    assert console.run_command(show_cli.show_features_parser(), fail, ["out.h5", "-v"])
    stderr = capsys.readouterr().err
    assert "[31m" in stderr
    assert all(line.isprintable() for line in stderr.split("\n"))


def run_with_log(path: Path, *words: str) -> int:
    def fail(arguments: argparse.Namespace) -> int:
        console.log.info("read \x1b[31m\nhere")
        console.log.warning("odd")
        console.log.debug("detail")
        raise StoreError("out.h5: gone")

    words = ("out.h5", "--log", str(path), *words)
    return console.run_command(show_cli.show_features_parser(), fail, list(words))


def test_a_log_gets_every_message_with_its_time(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    assert run_with_log(path) == run_with_log(path, "-q") == ExitCode.FAILED
    lines = path.read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d show-features: ", line) for line in lines)
    said = [line.partition("show-features: ")[2] for line in lines]
    assert said == [r"read \x1b[31m\nhere", *2 * ["warning: odd", "out.h5: gone"]]


@pytest.mark.parametrize("flag", ["--export", "--page"])
def test_a_log_is_no_output_of_the_same_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    (tmp_path / "here").symlink_to(tmp_path)
    path, out = tmp_path / "out.csv", tmp_path / "here/out.csv"
    near = [] if flag == "--export" else ["--near"]
    words = ["none.h5", *near, flag, str(out), "--log", str(path)]
    assert show_cli.main(words) == SettingError.exit_code
    said = f"--log: {path} is also given as {flag[2:]}; name another file"
    assert capsys.readouterr().err == f"show-features: {said}\n"
    assert not path.exists()


def test_a_log_has_the_messages_of_a_limited_process(tmp_path: Path) -> None:
    write_features(tmp_path / "a.h5", np.ones((2, 3)), quiet=True)
    words = [str(tmp_path / "a.h5"), "--verify", "--limit", "100", "--log", str(tmp_path / "log")]
    assert show_cli.main(words) == ExitCode.OK
    assert "verified: every row is there" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("kind", ["file", "folder", "fifo", "missing folder"])
def test_a_log_replaces_nothing(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.h5"
    if kind == "file":
        path.write_bytes(b"\x89HDF\r\n")
    elif kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path = path / "run.log"
    assert run_with_log(path) == SettingError.exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"show-features: --log: {path}")
    assert kind != "file" or path.read_bytes() == b"\x89HDF\r\n"


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_pipe_gets_every_name_in_utf_8(encoding: str) -> None:
    # Windows gives a pipe the code page of the country.
    code = "import argparse; from extract import show_cli; from extract.core import console\n"
    code += "def show(arguments): print('\\u65e5 \\xe4'); return 0\n"
    code += "console.run_command(show_cli.show_features_parser(), show, ['out.h5'])"
    variables = {**os.environ, "PYTHONIOENCODING": encoding}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, check=False
    )
    assert (ended.stdout.decode(), ended.stderr) == ("\u65e5 \xe4\n", b"")


CLOSED = """
import os, sys
from pathlib import Path
for number in map(int, sys.argv[1].split()):
    os.close(number)
sys.stdin, sys.stdout, sys.stderr = (  # as Python finds them where they are closed before it
    None if str(number) in sys.argv[1] else stream
    for number, stream in enumerate((sys.stdin, sys.stdout, sys.stderr))
)
from classify.cli import main as train_head
from extract import cli, show_cli, write_features
images, out, *flags = sys.argv[2:]
assert cli.main([images, out, *flags]) == 0
assert show_cli.main([out, "--verify"]) == 0
assert train_head([out, "--head", "knn"]) == 0
Path(out).with_name("opened").write_text(str(os.open(out, os.O_RDONLY)))
"""


@pytest.mark.parametrize("closed", ["1", "2", "0 1 2"])
def test_closed_streams_cost_nothing(closed: str, images: Path, tmp_path: Path) -> None:
    words = [closed, str(images), str(tmp_path / "out.h5"), *QUICK_FLAGS]
    child = subprocess.run([sys.executable, "-c", CLOSED, *words], cwd=ROOT, check=False)
    assert child.returncode == 0
    assert (tmp_path / "out_head/report.html").exists()
    # No file gets the number of a stream: what libraries write to stderr would be in it.
    assert int((tmp_path / "opened").read_text()) > 2


@pytest.mark.parametrize("kind", [DeprecationWarning, UserWarning])
def test_no_warning_of_a_library_ends_a_command(kind: type[Warning]) -> None:
    code = "import warnings; from extract import show_cli; from extract.core import console\n"
    code += f"def warn(arguments): warnings.warn('old', {kind.__name__}); return 0\n"
    code += "raise SystemExit(console.run_command(show_cli.show_features_parser(), warn, ['a']))"
    variables = {**os.environ, "PYTHONWARNINGS": "error"}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert (b"old" in ended.stderr) == (kind is UserWarning)


def wait_for(found: Callable[[], bool]) -> None:
    """Wait until something happens in another thread."""
    for _ in range(500):
        if found():
            return
        time.sleep(0.02)
    raise AssertionError("it did not happen")


def test_without_a_terminal_a_line_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "headstart"):
        with progress(10, "heads", done=2, label="training") as bar:
            bar.update(3)  # no line for the end, which the command reports itself
        assert not caplog.messages
        monkeypatch.setattr("extract.display.progress.LINE_SECONDS", 0.01)
        with progress(1000, "heads", done=2, label="training") as bar:
            wait_for(lambda: "training: 2 of 1,000 heads" in caplog.messages)  # nothing was updated
            bar.update(3)
            bar.set_postfix_str("best 0.9")
            with progress(30, "epochs", label="dense") as inner, muted():
                inner.update(1)
                line = r"training: 5 of 1,000 heads, about \d+ s left; dense: 1 of 30 epochs, about"
                wait_for(lambda: any(re.match(line, message) for message in caplog.messages))
        with step("building a trunk"):
            wait_for(lambda: "still building a trunk: 0 s" in caplog.messages)
    assert "building a trunk ..." in caplog.messages
    count = len(caplog.messages)
    time.sleep(0.05)
    assert len(caplog.messages) == count


BARS = """
import time
from extract.core.console import log, _messages_on_stderr
from extract.display import progress as module
module._TICK_SECONDS = 0.02
with _messages_on_stderr(20), module.progress(7, "heads", label="training") as bar:
    bar.update(1)
    with module.progress(30, "epochs", label="dense") as inner:
        inner.update(3)
        log.info("a note")
        inner.update(3)
        inner.set_postfix_str("validation accuracy 0.900 " + "x" * 100)
        time.sleep(1.5)
    bar.update(6)
"""


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_one_bar_at_a_time(term: str) -> None:
    here, there = pty.openpty()
    fcntl.ioctl(here, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    words = [sys.executable, "-c", BARS]
    child = subprocess.Popen(words, stderr=there, cwd=ROOT, env={**os.environ, "TERM": term})
    os.close(there)
    output = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while part := os.read(here, 4096):
            output += part
    os.close(here)
    assert child.wait() == 0
    text = output.decode()
    assert "\x1b" not in text
    if term == "dumb":
        assert text == "a note\r\n"
        return
    frames = [frame.rstrip() for frame in re.split(r"[\r\n]+", text)]
    assert all(len(frame) < 80 for frame in frames)
    assert "training 1/7, dense:  10%|" in text
    assert "[00:01<" in text  # it ticks without an update
    # Two lines: the note, and the last state of the one bar.
    assert text.count("\n") == 2
    assert [frame for frame in frames if frame][-1].startswith("training: 100%|")
    inner = [n for n, frame in enumerate(frames) if "dense" in frame]
    outer = [n for n, frame in enumerate(frames) if frame.startswith("training: ")]
    assert not any(inner[0] < n < inner[-1] for n in outer)


def test_a_command_in_a_notebook_leaves_its_logging_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handlers: list[logging.Handler] = [logging.NullHandler()]
    monkeypatch.setattr(log, "handlers", handlers)
    log.setLevel(logging.ERROR)
    try:
        for words in (["--dry-run", "-q"], ["--dry-run", "-v"]):
            assert cli.main([str(tmp_path / "none"), str(tmp_path / "out.h5"), *words]) == 1
            assert (log.handlers, log.propagate, log.level) == (handlers, True, logging.ERROR)
    finally:
        log.setLevel(logging.NOTSET)
    assert "none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("before", "inside"),
    [
        (logging.INFO, logging.WARNING),
        (logging.NOTSET, logging.WARNING),
        (logging.ERROR, logging.ERROR),
    ],
)
def test_quiet_mode_is_never_louder(
    before: int, inside: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "level", before)
    with quiet_mode(True):
        assert log.level == inside
    assert log.level == before
    with quiet_mode(False):
        assert log.level == before


def test_a_table_escapes_its_texts() -> None:
    table = html_table(("a<b", "n"), [("x & y", 1)], "<done>")
    assert "<th>a&lt;b</th><th>n</th>" in table
    assert "<td>x &amp; y</td><td>1</td>" in table
    assert table.endswith("<p>&lt;done&gt;</p>")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_terminal_of_80_columns(
    command: Callable[[list[str]], int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        command(["--help"])
    assert not [line for line in capsys.readouterr().out.splitlines() if len(line) > 79]


def test_messages_break_between_words_on_a_terminal(tmp_path: Path) -> None:
    note, command = "a word " * 20 + "/a/long/" + "path" * 30, "next: train-head " + "x y " * 30
    code = "import argparse; from extract import show_cli; from extract.core import console\n"
    code += f"def say(arguments): console.log.info({note!r}); console.log.info({command!r})\n"
    code += "console.run_command(show_cli.show_features_parser(), say, ['out.h5'])"
    here, there = pty.openpty()
    fcntl.ioctl(here, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    for stderr, width in ((there, 60), (None, None)):
        with (tmp_path / "pipe").open("wb") as pipe:
            words = [sys.executable, "-c", code]
            subprocess.run(words, stderr=stderr or pipe, cwd=ROOT, check=False)
        text = os.read(here, 9999) if width else (tmp_path / "pipe").read_bytes()
        *lines, last = text.decode().replace("\r", "").rstrip("\n").split("\n")
        assert last == command.rstrip() or last == command
        assert " ".join(lines) == note
        assert len(lines) == (4 if width else 1)
        assert all(len(line) <= 60 for line in lines[:-1])
    os.close(here)
    os.close(there)
