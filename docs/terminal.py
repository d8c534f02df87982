"""What a command shows in a terminal of 80 columns, as lines of text and as a picture."""

import fcntl
import html
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
import textwrap
from pathlib import Path
from typing import Any

COLUMNS = 80
_PARTS = re.compile(r"\x1b\[(\d*)([A-Za-z])|([\r\n\b])|([^\x1b\r\n\b]+)")
_PAGE = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; background: #14171b }}
pre {{
  display: inline-block; margin: 0; padding: 18px 22px; color: #d5dae0;
  font: 14px/1.45 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
}}
b {{ color: #fff }}
</style><pre>{lines}</pre>"""


def show_commands(*commands: str, folder: Path) -> list[str]:
    """Run commands in a terminal; return the lines on its screen, with each command as typed."""
    lines = []
    for command in commands:
        typed = textwrap.wrap(command, COLUMNS - 4, break_on_hyphens=False)
        lines += ("$ " + " \\\n> ".join(typed)).splitlines()
        lines += run_in_terminal(command, folder)
    return lines


def run_in_terminal(command: str, folder: Path) -> list[str]:
    """Run a command in a terminal to its end, and return the lines that it leaves there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "TERM": "xterm"}
    words, io = shlex.split(command), theirs
    child = subprocess.Popen(words, cwd=folder, env=environment, stdin=io, stdout=io, stderr=io)
    os.close(theirs)
    written = b""
    while block := _read(ours):
        written += block
    os.close(ours)
    if child.wait():
        raise SystemExit(f"{command}: exit {child.returncode}\n{written.decode()}")
    return draw_screen(written.decode())


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 2**16)
    except OSError:  # Linux says so at the end
        return b""


def draw_screen(written: str, columns: int = COLUMNS) -> list[str]:
    """Return the lines of a screen after what was written: bars go up, return and are erased."""
    screen: list[list[str]] = [[]]
    row = column = 0
    for count, code, control, text in _PARTS.findall(written):
        if code == "A":
            row = max(row - int(count or 1), 0)
        elif code == "K":
            del screen[row][column:]
        elif control == "\r":
            column = 0
        elif control == "\b":
            column = max(column - 1, 0)
        elif control == "\n":
            row += 1
        for letter in text:
            if column == columns:
                row, column = row + 1, 0
            screen += [[] for _ in range(row + 1 - len(screen))]
            line = screen[row]
            line += " " * (column + 1 - len(line))
            line[column] = letter
            column += 1
        screen += [[] for _ in range(row + 1 - len(screen))]
    lines = ["".join(line).rstrip() for line in screen]
    return lines[: max((place for place, line in enumerate(lines, 1) if line), default=0)]


def photograph(browser: Any, lines: list[str], path: Path) -> None:
    """Draw lines as a terminal shows them."""
    page = browser.new_page(viewport={"width": 900, "height": 600}, device_scale_factor=1.5)
    page.set_content(_PAGE.format(lines="\n".join(map(_mark, lines))))
    page.locator("pre").screenshot(path=path)
    page.close()


def _mark(line: str) -> str:
    """Return a line as HTML, in bold where a person typed it."""
    text = html.escape(line)
    return f"<b>{text}</b>" if line.startswith(("$ ", "> ")) else text
