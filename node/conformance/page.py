"""The statement as Markdown: the words stand in `statement.md.j2`, between them the tables that are derived."""

from __future__ import annotations

import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from node.conformance.statement import Statement

_HERE = Path(__file__).parent


def to_markdown(statement: Statement) -> str:
    """Return the statement as one Markdown page."""
    environment = Environment(
        loader=FileSystemLoader(_HERE), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        autoescape=False, keep_trailing_newline=True,  # noqa: S701  # Markdown, for people and for a repository
    )  # fmt: skip
    environment.filters["cell"] = _cell
    page = environment.get_template("statement.md.j2").render(s=statement)
    return re.sub(r"\n{3,}", "\n\n", page).strip() + "\n"


def _cell(value: object) -> str:
    """Return *value* as it may stand in a cell of a table."""
    return " ".join(str(value).replace("|", "\\|").split()) or "-"
