"""The documentation says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from typer.testing import CliRunner

from sweeps.catalogue.pages import results_page
from sweeps.catalogue.strategies import HEADING, catalogue_page
from sweeps.cli.app import app
from sweeps.spec.sweep import load_spec

ROOT = Path(__file__).parent.parent


def test_results_page_is_current() -> None:
    expected = results_page()
    page = (ROOT / "docs" / "results.md").read_text("utf-8")
    assert page == expected, "run  python -m sweeps.catalogue.pages results > docs/results.md"


def test_catalogue_of_strategies_is_current() -> None:
    page = (ROOT / "docs" / "strategies.md").read_text("utf-8")
    found = page[page.index(HEADING) :]
    assert found == catalogue_page(), "replace its catalogue by that of  python -m sweeps.catalogue.pages strategies"


def test_worked_example_is_the_code() -> None:
    """Every line of the example of a new remedy stands in the remedy's file, in that order."""
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    example = page[page.index("### A new remedy") :]
    shown = [line[4:] for line in example[: example.index("### Measurement")].splitlines() if line.startswith("    ")]
    code = iter((ROOT / "lagvae_core/strategies/word_dropout.py").read_text("utf-8").splitlines())
    assert len(shown) > 25
    for line in shown:
        assert line.strip() in ("", "...") or line in code, f"not in the file, or not in this order: {line}"


def test_readme_names_only_sweeps_that_ship() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    for name in re.findall(r"lagvae (?:run|plan) ([\w-]+)(?=[`\s]|$)", readme):
        load_spec(name)


def test_readme_options_exist() -> None:
    """Every long option that the README shows after a verb is one that the verb's help lists."""
    readme = (ROOT / "README.md").read_text("utf-8")
    verbs = {}
    for line in readme.splitlines():
        verb = "trial|plan|run|retry|submit|status|cluster check|cluster render|evaluate|studies|dashboard|strategies"
        verb += "|results (?:show|pareto|curves|compare)"
        found = re.match(rf"\s+lagvae ({verb})\b(.*)", line)
        if found:
            verbs.setdefault(found[1], set()).update(re.findall(r"(--[a-z-]+)", found[2]))
    assert verbs, "the README shows no command"
    for verb, options in verbs.items():
        shown = CliRunner().invoke(app, [*verb.split(), "--help"])
        assert shown.exit_code == 0, verb
        text = shown.output
        missing = {option for option in options if option not in text}
        assert not missing, f"lagvae {verb} knows no {missing}"


def test_every_file_that_a_page_names_exists() -> None:
    """In a fresh clone, where what git ignores is missing."""
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
    inside = re.compile(r"`((?:benchmarks|cluster|docs|lagvae_core|sweeps|tests)/[\w./-]*)")
    named = {(page.name, found[1]) for page in pages for found in inside.finditer(page.read_text("utf-8"))}
    assert len(named) > 10
    assert sorted((page, path) for page, path in named if not (ROOT / path).exists()) == []
