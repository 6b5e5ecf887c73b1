"""The notebook runs from its first cell to its last, and the examples of docs/python.md run in order."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
from plugin_page import write_plugins
from processes import MARK, private_home, survivors

DOCS = Path(__file__).parents[1] / "docs"
NOTEBOOK = DOCS / "notebook.ipynb"


def read():
    import nbformat

    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_short_and_has_no_stored_output(tmp_path):
    code = [cell for cell in read().cells if cell.cell_type == "code"]
    assert len(code) <= 10
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    (remedy,) = (cell.source for cell in code if cell.source.startswith("%%writefile capacity.py"))
    assert remedy.partition("\n")[2].strip() == write_plugins(tmp_path)["capacity"].read_text().strip()


@pytest.mark.slow
def test_it_runs_and_shows_the_remedy_on_a_front(tmp_path, monkeypatch):
    from nbclient import NotebookClient

    notebook = read()
    notebook.cells = [cell for cell in notebook.cells if "install" not in cell.metadata.get("tags", [])]
    with private_home() as home, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the kernel's client
        monkeypatch.setattr(os, "environ", os.environ.copy() | home)
        monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{home['PATH']}")
        client = NotebookClient(
            notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
        )
        asyncio.run(client.async_execute(env=dict(os.environ)))
        assert survivors(home[MARK]) == []
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    shown = [output.data for output in outputs if "data" in output]
    assert sum("image/png" in data for data in shown) == 2
    front = next(data["text/html"] for data in reversed(shown) if "text/html" in data)
    assert "standing" in front
    assert len(list(tmp_path.glob("results/capacity/runs/*.parquet"))) == 14


def test_the_examples_of_the_page_run(capsys):
    blocks = re.findall(r"(?:^ {4}.*\n|^\n)+", (DOCS / "python.md").read_text("utf-8"), re.MULTILINE)
    code = [textwrap.dedent(block) for block in blocks if re.search(r"^    (from|import) ", block, re.MULTILINE)]
    stored = [block for block in code if "load_model(" in block or "from sweeps" in block]
    names: dict[str, object] = {}
    for block in code:
        if block not in stored:
            exec(block, names)
    assert (len(code), len(stored)) == (6, 2)
    assert len(names["texts"]) == 3
    assert "['" in capsys.readouterr().out  # samples of the callback
