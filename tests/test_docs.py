"""The documentation: its commands parse, its snippets run, its links and tables are true.

``python -m tests.test_docs`` writes the help of the commands into ``docs/commands.md`` again.
"""

import argparse
import importlib
import os
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from classify.cli import train_head_parser
from classify.predict_cli import predict_images_parser
from docs.screenshots import COMMANDS as COMMANDS_SHOWN
from docs.screenshots import IMAGES, MOST_BYTES, PARTS
from extract.cli import extract_features_parser
from extract.show_cli import show_features_parser

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
COMMANDS = ROOT / "docs/commands.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))
LINKED = (*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "data/README.md")
PARSERS = (extract_features_parser, show_features_parser, train_head_parser, predict_images_parser)
PROGRAMS = {parser().prog: parser for parser in PARSERS}

# Added to the extractions of the documentation, which would need weights otherwise.
QUICK_FLAGS = "--trunk mobilenet --weights none --layer conv1_relu --image-size 32"
# Commands that name a layer need one of the layers of that trunk.
LAYER_FLAGS = "--trunk inception_v3 --weights none --image-size 75"
COMPLETE_FLAGS = "--trunk mobilenet --weights none"
NOT_RUN = re.compile(r"<!-- not run: \S.* -->")
HELP_BLOCK = re.compile(r"<!-- help of ([\w-]+) -->\n```text\n(.*?)```\n<!-- end of help -->", re.S)


class Block(NamedTuple):
    """A fenced block of a page: its language, its text, and the line above it."""

    language: str
    text: str
    above: str


def blocks_of(page: Path) -> list[Block]:
    """Every fenced block of a page, in order."""
    found = re.findall(r"^([^\n]*)\n```(\w*)\n(.*?)^```$", page.read_text(), re.M | re.S)
    return [Block(language, text, above) for above, language, text in found]


def prose_of(page: Path) -> str:
    """The text of a page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)


def shell_lines(text: str) -> Iterator[list[str]]:
    """The words of each command in a shell block."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in line.split("&&"):
            words = shlex.split(part, comments=True)
            if words:
                yield [Path(words[0]).name, *words[1:]]


def help_of(program: str) -> str:
    """The help of a command, 100 columns wide."""
    former = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        return PROGRAMS[program]().format_help()
    finally:
        os.environ.pop("COLUMNS") if former is None else os.environ.update(COLUMNS=former)


def same_on_every_python(text: str) -> str:
    """Help with one space between words, and ``-o, --output DIR`` as Python 3.13 writes it."""
    return re.sub(r"(-\w) (\S+), (--[\w-]+) \2", r"\1, \3 \2", " ".join(text.split()))


def run_command(words: list[str]) -> int:
    """Run a command of the project in this process and return its exit code."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, name = scripts[words[0]].split(":")
    command: Callable[[list[str]], int] = getattr(importlib.import_module(module), name)
    try:
        return command(words[1:])
    except SystemExit as end:  # --help
        return int(end.code or 0)


# What is written where


def test_pictures_are_those_of_the_script_small_and_described() -> None:
    shown = {}
    for page in PAGES:
        for text, link in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)\)", prose_of(page)):
            shown[(page.parent / link).resolve()] = text
    made = {IMAGES / f"{name}.webp" for name in (*PARTS, *COMMANDS_SHOWN)}
    assert set(IMAGES.iterdir()) == made == shown.keys()
    assert all(path.stat().st_size <= MOST_BYTES for path in made)
    assert min(map(len, shown.values())) > 20


def test_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) < 250


def test_readme_names_every_page() -> None:
    linked = set(re.findall(r"\]\((docs/[\w-]+\.md)\)", README.read_text()))
    assert linked == {str(page.relative_to(ROOT)) for page in PAGES[1:]}


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.stem)
def test_a_page_starts_with_a_command(page: Path) -> None:
    lines = page.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert any(line.startswith(("```sh", "```python")) for line in lines[1:4])


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_documented_help_is_the_real_one(program: str) -> None:
    written = dict(HELP_BLOCK.findall(COMMANDS.read_text()))
    assert written.keys() == PROGRAMS.keys()
    real = help_of(program)
    assert same_on_every_python(written[program]) == same_on_every_python(real)
    if sys.version_info < (3, 13):
        assert written[program] == real, "run python -m tests.test_docs"


@pytest.mark.parametrize("parser", PARSERS)
def test_every_flag_is_documented(parser: Any) -> None:
    text = "\n".join(page.read_text() for page in PAGES if page != COMMANDS)
    for action in parser()._actions:
        for option in action.option_strings:
            if option.startswith("--") and option != "--help":
                assert re.search(rf"(?<![\w-]){option}(?![\w-])", text), option


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_documented_flag_exists(page: Path) -> None:
    known = {parser().prog: flags_of(parser()) for parser in PARSERS}
    spans = re.findall(r"`([^`\n]+)`", prose_of(page))
    for span in spans:
        program = span.split()[0]
        written = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", span))
        if program in known:
            assert written <= known[program], span
        elif span.startswith("-"):
            assert written <= set.union(*known.values()), span


def flags_of(parser: argparse.ArgumentParser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings}


@pytest.mark.parametrize("parser", PARSERS)
def test_every_flag_has_help_and_every_example_parses(parser: Any) -> None:
    built = parser()
    assert all(action.help for action in built._actions)
    examples = re.findall(rf"^  ({built.prog} .*)$", built.description, re.MULTILINE)
    assert examples
    for example in examples:
        built.parse_args(example.split()[1:])


def test_every_promise_has_its_test() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    promised = re.findall(r"`(tests/\w+\.py)::(\w+)`", text)
    assert len(promised) >= 10
    for path, name in promised:
        assert f"def {name}(" in (ROOT / path).read_text(), name


def test_every_documented_file_exists() -> None:
    named = re.findall(r"\b(?:tests|benchmarks)/\w+\.py\b", "\n".join(map(Path.read_text, LINKED)))
    assert {name for name in named if not (ROOT / name).is_file()} == set()


ROOM_ROWS = re.compile(r"^\| `(\w+)` \| (.*) \|$", re.M)


@pytest.mark.parametrize("package", ["extract", "classify"])
def test_contributing_names_every_file_of_a_room(package: str) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = text.split(f"### {package}\n")[1].split("\n## ")[0].split("\n### ")[0]
    named = {
        (room, part.split("`")[1])
        for room, row in ROOM_ROWS.findall(table)
        for part in row.split("; ")
    }
    files = (ROOT / package).glob("*/*.py")
    assert named == {(path.parent.name, path.stem) for path in files if path.stem != "__init__"}


# Links


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if not re.match(r"\w+://", link):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors_of(target), link


def test_images_of_the_documentation_are_small() -> None:
    images = list((ROOT / "docs/images").iterdir())
    assert images
    assert all(image.stat().st_size < 200_000 for image in images)


# Commands


def test_documented_commands_parse() -> None:
    parsers = {name: parser() for name, parser in PROGRAMS.items()}
    rows = [line for line in README.read_text().splitlines() if line.startswith("| ")]
    inline = re.findall(rf"`((?:{'|'.join(parsers)}) [^`]+)`", "\n".join(rows))
    assert len(inline) >= 13  # the table of the course's recipe
    blocks = [b.text for page in PAGES for b in blocks_of(page) if b.language in ("sh", "bash")]
    seen = set()
    for text in [*blocks, *inline]:
        for program, *words in shell_lines(text):
            if program in parsers and words != ["--help"]:
                parsers[program].parse_args(words)
                seen.add(program)
    assert seen == set(parsers)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the documentation speaks of: images, files of features, a head."""
    folder = tmp_path_factory.mktemp("docs")
    for split, count in {"train": 8, "validation": 4}.items():
        for kind in ("animals", "food", "vehicles"):
            target = folder / "data" / split / kind
            target.mkdir(parents=True)
            for image in sorted((ROOT / "data" / split / kind).iterdir())[:count]:
                shutil.copy(image, target)
    shutil.copytree(folder / "data/validation/food", folder / "new")
    for name in ("photos", "caltech-20"):
        shutil.copytree(folder / "data/train", folder / name)
    shutil.copy(min((folder / "new").glob("*.jpg")), folder / "photo.jpg")
    rows = (f"{path.relative_to(folder)},{path.parent.name}" for path in folder.glob("photos/*/*"))
    (folder / "birds.csv").write_text("\n".join(["file,species", *rows]))
    keys = sorted(str(path.relative_to(folder / "data")) for path in folder.glob("data/*/*/*"))
    for name, heading, values in (("sex", "path,label", "fm"), ("cameras", "file,light", "dn")):
        rows = (f"{key},{values[number % 2]}" for number, key in enumerate(keys))
        (folder / f"{name}.csv").write_text("\n".join([heading, *rows]))
    (folder / "corrected.csv").write_text(f"key,label\n{keys[0]},food\n")
    vectors = np.random.default_rng(0).normal(size=(30, 8)).astype("float32")
    np.savez(folder / "vectors.npz", features=vectors, labels=["cat", "dog", "emu"] * 10)
    np.savez(folder / "new-vectors.npz", features=vectors[:3])
    quick = QUICK_FLAGS.split()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in (
            ["extract-features", "data/", "out.h5", *quick],
            ["extract-features", "data/", "index.h5", "--shards", "shards", *quick],
            ["train-head", "out.h5", "--head", "logistic", "--export", "model.keras"],
        ):
            assert run_command([*words, "--quiet"]) == 0
    shutil.copy(folder / "out.h5", folder / "strangers.h5")
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the prepared folder, which is the working directory."""
    shutil.copytree(prepared, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def run_shell(text: str) -> None:
    """Run the commands of a shell block; where one needs weights, with a small random trunk."""
    for words in shell_lines(text):
        if words[0] in PROGRAMS:
            assert run_command([*words, *small_trunk(words)]) == 0, words
            if "--to-label" in words:
                fill_in(Path(words[words.index("-o") + 1]))


def fill_in(table: Path) -> None:
    """Write a label into each row of a table, as a person would."""
    heading, *rows = table.read_text().splitlines()
    filled = [row.replace(",", f",{('deer', 'empty')[i % 2]}", 1) for i, row in enumerate(rows)]
    table.write_text("\n".join([heading, *filled, ""]))


def small_trunk(words: list[str]) -> list[str]:
    """The flags that replace the trunk of a command."""
    extracts = words[0] == "extract-features" and not words[1].startswith(("-", "vectors"))
    named = words[words.index("--trunk") + 1] if "--trunk" in words else ""
    if named.endswith(".keras"):
        return []
    if extracts:
        return (LAYER_FLAGS if "--layer" in words else QUICK_FLAGS).split()
    return COMPLETE_FLAGS.split() if words[0] == "predict-images" and named else []


def shell_blocks(page: Path) -> list[str]:
    """The shell blocks of a page that are run."""
    blocks = [block for block in blocks_of(page) if block.language == "sh"]
    return [block.text for block in blocks if not NOT_RUN.fullmatch(block.above)]


def pages_with_commands() -> list[Path]:
    """The pages that start with a command of ours."""
    return [page for page in PAGES[1:] if blocks_of(page)[0].language == "sh"]


def forget_features(blocks: list[str], folder: Path) -> None:
    """Remove the prepared file of features where a page makes its own."""
    if blocks[0].startswith("extract-features data/"):
        (folder / "out.h5").unlink()


@pytest.mark.parametrize(
    "page", [p for p in pages_with_commands() if p.stem != "finetuning"], ids=lambda page: page.stem
)
def test_the_first_command_of_a_page_runs(page: Path, folder: Path) -> None:
    blocks = shell_blocks(page)
    forget_features(blocks, folder)
    run_shell(blocks[0])


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with_commands(), ids=lambda page: page.stem)
def test_the_commands_of_a_page_run(page: Path, folder: Path) -> None:
    blocks = shell_blocks(page)
    forget_features(blocks, folder)
    for text in blocks:
        run_shell(text)


@pytest.mark.slow
def test_the_tour_runs(folder: Path) -> None:
    shutil.rmtree(folder / "out_head")
    (folder / "out.h5").unlink()
    tour = README.read_text().split("## A two-minute tour")[1].split("\n## ")[0]
    for text in re.findall(r"```sh\n(.*?)```", tour, re.S):
        run_shell(text)
    assert (folder / "out_head/report.html").is_file()
    assert (folder / "model.keras").is_file()


# Python


def snippets_of(page: Path) -> list[Block]:
    return [block for block in blocks_of(page) if block.language == "python"]


def run_snippets(page: Path) -> dict[str, Any]:
    """Run the Python blocks of a page, in order and in one namespace."""
    namespace: dict[str, Any] = {}
    for number, block in enumerate(snippets_of(page), 1):
        if not NOT_RUN.fullmatch(block.above):
            exec(compile(block.text, f"{page.name}, block {number}", "exec"), namespace)
    return namespace


@pytest.mark.parametrize("page", [p for p in PAGES if snippets_of(p)], ids=lambda page: page.stem)
def test_the_snippets_of_a_page_run(page: Path, folder: Path) -> None:
    run_snippets(page)


def test_few_blocks_are_not_run() -> None:
    above = [block.above for page in PAGES for block in blocks_of(page)]
    assert sum(bool(NOT_RUN.fullmatch(line)) for line in above) <= 6


def test_the_h5py_snippet_reads_several_layers(folder: Path) -> None:
    shutil.copy(ROOT / "tests/before/two_layers.h5", folder / "out.h5")
    features = run_snippets(ROOT / "docs/file-format.md")["read_features"]("out.h5")
    assert list(features) == ["conv1_relu", "conv_dw_1_relu"]
    assert {values.ndim for values in features.values()} == {2}


def write_help() -> None:
    """Write the help of every command into its page."""

    def block(match: re.Match[str]) -> str:
        program = match[1]
        return f"<!-- help of {program} -->\n```text\n{help_of(program)}```\n<!-- end of help -->"

    COMMANDS.write_text(HELP_BLOCK.sub(block, COMMANDS.read_text()))


if __name__ == "__main__":
    write_help()
