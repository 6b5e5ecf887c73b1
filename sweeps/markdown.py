"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

__all__ = ["table"]


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines of a table; a bar in a cell is escaped."""
    yield _line(headings)
    yield "|" + "---|" * len(headings)
    for row in rows:
        assert len(row) == len(headings), f"{len(row)} cells under {len(headings)} headings"
        yield _line(row)


def _line(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"
