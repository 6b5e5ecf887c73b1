"""Printed tables are never truncated, and text is never interpreted as markup."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sweeps.cli.terminal import TextTable, console_of_stdout, print_whole, rich_table

NUMBERS = ("50.1312 ± 0.0213",) * 6


@pytest.mark.parametrize("width", [20, 80, 300])
def test_numbers_are_never_truncated(width):
    file = io.StringIO()
    row = ["lagging+anneal", *NUMBERS, "98b5f51c0d3e", "beta=0.5 warm_up=3 w_start=0.1"]
    table = TextTable(["arm", *"abcdef", "config_id", "parameters"], [row], left=("arm", "parameters"))
    print_whole(Console(file=file, width=width, markup=False, highlight=False), table.rich())
    text = file.getvalue()
    assert text.count(NUMBERS[0]) == 6
    assert "98b5f51c0d3e" in text
    assert "…" not in text
    for word in ("beta=0.5", "warm_up=3", "w_start=0.1"):
        assert word in text


def test_text_that_resembles_markup_is_printed_unchanged(capsys):
    """Messages of torch about missing memory and published names of models contain square brackets."""
    console = console_of_stdout()
    console.print("RuntimeError: [enforce fail at alloc_cpu.cpp:117] cannot read [/data/x.pt]")
    table = rich_table("arm")
    table.add_row("[/x] VAE[1]")
    print_whole(console, table)
    out = capsys.readouterr().out
    assert "[enforce fail at alloc_cpu.cpp:117] cannot read [/data/x.pt]" in out
    assert "[/x] VAE[1]" in out
