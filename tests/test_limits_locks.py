"""One process at a time writes, on a system with flock, with the locks of Windows, or without."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from extract.core.errors import HeadError
from extract.limits.locks import locked
from tests.conftest import WINDOWS

LOCKING = """
import sys
from pathlib import Path
from extract.limits.locks import locked
from extract.core.errors import HeadError

with locked(Path(sys.argv[1]), HeadError, "train-head"):
    print("locked", flush=True)
    sys.stdin.readline()
"""


TRYING = """
try:
    with locked(Path(sys.argv[1]), HeadError, "train-head"):
        print("locked")
except HeadError as error:
    print(error)
"""


def lock_elsewhere(path: Path, *before: str) -> "subprocess.Popen[str]":
    words = [*before, sys.executable, "-c", LOCKING, str(path)]
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "locked\n"
    return child


@pytest.mark.parametrize("killed", [False, True])
def test_one_process_at_a_time_writes_and_a_killed_one_blocks_nothing(
    killed: bool, tmp_path: Path
) -> None:
    place, link = tmp_path / "new", tmp_path / "link"
    link.symlink_to(place)
    with lock_elsewhere(link) as child:
        for name in (place, link):
            with (
                pytest.raises(
                    HeadError, match=r"another train-head is writing to it; .* another place$"
                ),
                locked(name, HeadError, "train-head"),
            ):
                pass
        with locked(tmp_path / "other", HeadError, "train-head"):
            pass
        assert (tmp_path / ".new.lock").exists()
        child.kill() if killed else child.communicate("\n")
    with locked(place, HeadError, "train-head"):
        pass
    assert list(tmp_path.iterdir()) == [link]


def test_a_file_system_without_locks_locks_nothing(tmp_path: Path) -> None:
    inject = ["strace", "-f", "-q", "-o", os.devnull, "-e", "inject=flock:error=ENOLCK"]
    if not shutil.which("strace") or subprocess.call([*inject, "true"]):
        pytest.skip("no call of the system can be made to fail here")
    with lock_elsewhere(tmp_path / "place", *inject) as child:
        assert list(tmp_path.iterdir()) == []
        child.communicate("\n")
    assert child.returncode == 0
    with locked(tmp_path / "no folder" / "place", HeadError, "train-head"):
        assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="imitates Windows")
@pytest.mark.parametrize("killed", [False, True])
def test_windows_has_locks_of_its_own(killed: bool, tmp_path: Path) -> None:
    place, pipe = tmp_path / "new", subprocess.PIPE
    trying = WINDOWS + LOCKING[: LOCKING.index("with")] + TRYING
    again = [sys.executable, "-c", trying, str(place)]
    words = [sys.executable, "-c", WINDOWS + LOCKING, str(place)]
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "locked\n"
        said = subprocess.run(again, capture_output=True, text=True, check=True).stdout
        assert "another train-head is writing to it" in said
        child.kill() if killed else child.communicate("\n")
    assert subprocess.run(again, capture_output=True, check=True).stdout == b"locked\n"
    assert list(tmp_path.iterdir()) == []


def test_a_system_without_any_locks_locks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with locked(tmp_path / "new", HeadError, "train-head"):
        assert list(tmp_path.iterdir()) == []
