"""Print the shape of the code: ``python tests/shape.py [FOLDER ...]``.

Code lines are lines with at least one token that is no comment and no docstring.
"""

import ast
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("extract", "classify")
MOST_LINES_OF_A_FILE, MOST_LINES_OF_A_FUNCTION = 300, 50
_NO_CODE = (
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    *(tokenize.ENCODING, tokenize.ENDMARKER),
)


class Shape(NamedTuple):
    """Files, lines and code lines of some folders, and the files and functions that are long."""

    files: int
    lines: int
    code_lines: int
    long_files: list[str]
    long_functions: list[str]


def measure(*folders: str) -> Shape:
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    lines = {path: path.read_text().count("\n") for path in paths}
    return Shape(
        len(paths),
        sum(lines.values()),
        sum(map(count_code_lines, paths)),
        [f"{name_of(path)} {n}" for path, n in lines.items() if n > MOST_LINES_OF_A_FILE],
        [function for path in paths for function in find_long_functions(path)],
    )


def count_code_lines(path: Path) -> int:
    code: set[int] = set()
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type not in _NO_CODE:
                code |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(path.read_text())):
        body = getattr(node, "body", None)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and body:
            first = body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                code -= set(range(first.lineno, (first.end_lineno or 0) + 1))
    return len(code)


def find_long_functions(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            if length > MOST_LINES_OF_A_FUNCTION:
                yield f"{name_of(path)} {node.name} {length}"


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


if __name__ == "__main__":
    shape = measure(*(sys.argv[1:] or PACKAGES))
    print(f"{shape.files} files, {shape.lines} lines, {shape.code_lines} of them code")
    print(f"files over {MOST_LINES_OF_A_FILE} lines: {', '.join(shape.long_files) or 'none'}")
    functions = ", ".join(shape.long_functions) or "none"
    print(f"functions over {MOST_LINES_OF_A_FUNCTION} lines: {functions}")
