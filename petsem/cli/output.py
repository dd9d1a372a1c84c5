"""Results on stdout, remarks on stderr.

Guarantees: stdout carries only what was asked for, as a table or as JSON, so it can be piped; a
table is never cut off, and has colour only on a terminal. It does not know what a secret is:
commands that may print one decide that themselves (`secrets get`, `boot env`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click
import msgspec

from petsem.cli.printable import printable
from petsem.cli.run import Run
from petsem.cli.streams import stderr_is_tty, stdout_is_tty

Cell = str | int | None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under headings; an absent cell is shown as `-`. `below`: what is too long for a cell."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Cell]]
    below: Sequence[str] = ()


def show(run: Run, reply: Any, table: Table | None = None, *, line: str | None = None) -> None:
    """Print `reply` as JSON, or for people its `line` and then its `table`."""
    if run.is_json:
        text = msgspec.json.format(msgspec.json.encode(reply), indent=2).decode()
        click.echo(text)
        return
    if line is not None:
        click.echo(printable(line))
    if table is not None and table.rows:
        _print(table)


def note(text: str) -> None:
    """A remark for people, on stderr."""
    click.echo(printable(text), err=True)


def warn(text: str) -> None:
    """A remark that asks for attention, on stderr."""
    click.secho(f"warning: {printable(text)}", err=True, fg="yellow" if stderr_is_tty() else None)


def _print(table: Table) -> None:
    rows = [[_text(cell) for cell in row] for row in table.rows]
    below = [printable(line) for line in table.below]
    if stdout_is_tty():
        _print_rich(table.columns, rows, below)
        return
    widths = [max(map(len, column)) for column in zip(table.columns, *rows, strict=True)]
    for row in (table.columns, *rows):
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(padded).rstrip())
    for line in ("", *below) if below else ():
        click.echo(line)


def _print_rich(
    columns: Sequence[str], rows: Sequence[Sequence[str]], below: Sequence[str]
) -> None:
    # Imported here: it costs more time than most commands take, and pipes never need it.
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = RichTable(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        # Text, not str: a label such as `[red]` is data and no markup.
        grid.add_row(*(Text(cell) for cell in row))
    console = Console(file=sys.stdout)
    console.print(grid)
    for line in ("", *below) if below else ():
        console.print(Text(line))


def _text(cell: Cell) -> str:
    return "-" if cell is None or cell == "" else printable(str(cell))
