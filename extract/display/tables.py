"""Results in a few lines of text, as a table in a notebook, and as cells of CSV."""

import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

# How a formula begins, in one spreadsheet program or another, behind apostrophes or none.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


class Described:
    """An object that is shown in a few lines, and as a table in a notebook."""

    def _facts(self) -> Mapping[str, Any]:
        """Return the name and the value of each line."""
        raise NotImplementedError

    def __repr__(self) -> str:
        facts = self._facts()
        width = max(map(len, facts))
        lines = [f"  {name:<{width}}  {value}" for name, value in facts.items()]
        return "\n".join([type(self).__name__, *lines])

    def _repr_html_(self) -> str:
        return html_table((), self._facts().items())


def html_table(heading: Iterable[str], rows: Iterable[Iterable[object]], caption: str = "") -> str:
    """Return an HTML table for a notebook, with a text below; all of them are escaped."""
    lines = ["".join(f"<th>{escape(name)}</th>" for name in heading)]
    lines += ["".join(f"<td>{escape(str(cell))}</td>" for cell in row) for row in rows]
    table = "".join(f"<tr>{line}</tr>" for line in lines if line)
    return f"<table>{table}</table>" + f"<p>{escape(caption)}</p>" * bool(caption)


def csv_text(text: str) -> str:
    """Return text for a CSV file: an apostrophe precedes what a spreadsheet would run.

    So it does before apostrophes and a formula: without the first, the text is as it was.
    Source: https://owasp.org/www-community/attacks/CSV_Injection
    """
    return f"'{text}" if _FORMULA.match(text) else text


def from_csv_text(cell: str) -> str:
    """Return the text that ``csv_text`` made a cell of."""
    return cell[1:] if cell[:1] == "'" and _FORMULA.match(cell[1:]) else cell
