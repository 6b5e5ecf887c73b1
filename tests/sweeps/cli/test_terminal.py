"""What is printed stays whole, and as it is."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sweeps.cli.results import _table
from sweeps.cli.terminal import console_of_stdout, plain_table, print_table

NUMBERS = ("50.1312 ± 0.0213",) * 6


@pytest.mark.parametrize("width", [20, 80, 300])
def test_no_number_is_ever_cut(width):
    file = io.StringIO()
    table = _table("arm", *"abcdef", "config_id", "parameters")
    table.add_row("lagging+anneal", *NUMBERS, "98b5f51c0d3e", "beta=0.5 warm_up=3 w_start=0.1")
    print_table(Console(file=file, width=width, markup=False, highlight=False), table)
    text = file.getvalue()
    assert text.count(NUMBERS[0]) == 6
    assert "98b5f51c0d3e" in text
    assert "…" not in text
    for word in ("beta=0.5", "warm_up=3", "w_start=0.1"):
        assert word in text


def test_what_looks_like_markup_is_printed_as_it_is(capsys):
    """As torch's words for a lack of memory do, and the names that papers give to remedies."""
    console = console_of_stdout()
    console.print("RuntimeError: [enforce fail at alloc_cpu.cpp:117] cannot read [/data/x.pt]")
    table = plain_table("arm")
    table.add_row("[/x] VAE[1]")
    print_table(console, table)
    out = capsys.readouterr().out
    assert "[enforce fail at alloc_cpu.cpp:117] cannot read [/data/x.pt]" in out
    assert "[/x] VAE[1]" in out
