"""Where the command line writes: results to standard output, everything else to standard error."""

import sys
from collections.abc import Sequence


def tell(*lines: str) -> None:
    """Write lines of a result, so that a reader has them at once; what the encoding lacks, as Python's escapes."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    text = "\n".join(lines).encode(encoding, "backslashreplace").decode(encoding)
    print(text, flush=True)  # noqa: T201 - the one place that prints results


def remark(line: str) -> None:
    """Write a line for people, beside the results."""
    print(f"plugsocket: {line}", file=sys.stderr, flush=True)  # noqa: T201 - the one place that prints remarks


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out a table: one line a row, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [row_of(row, widths) for row in rows]


def row_of(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Lay out one row of a table whose widths are known."""
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
