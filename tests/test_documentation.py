"""The documentation agrees with the code."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from lagvae_core.strategies import CATALOGUE
from sweeps.catalogue.pages import results_page
from sweeps.catalogue.reference import reference_page
from sweeps.catalogue.strategies import HEADING, catalogue_page
from sweeps.cli.app import app
from sweeps.spec.sweep import load_spec

ROOT = Path(__file__).parent.parent


def read(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def verbs() -> dict[str, Any]:
    """Return every command by its words, such as "results show"."""

    def walk(group: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from walk(command, (*words, name))
            else:
                yield " ".join((*words, name)), command

    return dict(walk(typer.main.get_command(app), ()))


VERBS = verbs()


def shown_commands(page: str) -> list[tuple[str, str]]:
    """Return verb and arguments of every `lagvae` command in the code blocks of a page."""
    longest_first = "|".join(sorted(map(re.escape, VERBS), key=len, reverse=True))
    pattern = rf"^ {{4}}(?:.*&& \S*|\$ )?lagvae ({longest_first})\b([^#\n|;&>]*)"
    return re.findall(pattern, read(page), re.MULTILINE)


def test_the_results_page_is_current() -> None:
    assert read("docs/results.md") == results_page(), "run: python -m sweeps.catalogue.pages results > docs/results.md"


def test_the_reference_is_current() -> None:
    command = "python -m sweeps.catalogue.pages reference > docs/reference.md"
    assert read("docs/reference.md") == reference_page(), f"run: {command}"


def test_the_catalogue_of_strategies_is_current() -> None:
    page = read("docs/strategies.md")
    catalogue = page[page.index(HEADING) :]
    assert catalogue == catalogue_page(), "replace it with the output of: python -m sweeps.catalogue.pages strategies"


def test_the_table_of_the_readme_lists_every_strategy() -> None:
    rows = re.search(r"^\| acts on .*\n(?:\|.*\n)+", read("README.md"), re.MULTILINE)
    assert rows is not None
    assert set(re.findall(r"`(\w+)`", rows.group())) == set(CATALOGUE)


def test_the_worked_example_is_the_code() -> None:
    """Every line of the example of a new strategy occurs in the file of the strategy, in the same order."""
    page = read("docs/architecture.md")
    example = page[page.index("### A new remedy") :]
    lines = [line[4:] for line in example[: example.index("### Measurement")].splitlines() if line.startswith("    ")]
    code = iter(read("lagvae_core/strategies/word_dropout.py").splitlines())
    assert len(lines) > 25
    for line in lines:
        assert line.strip() in ("", "...") or line in code, f"not in the file, or not in this order: {line}"


def test_the_readme_names_only_sweeps_that_ship() -> None:
    for name in re.findall(r"lagvae (?:run|plan) ([\w-]+)(?=[`\s]|$)", read("README.md")):
        load_spec(name)


@pytest.mark.slow
def test_the_python_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = read("README.md")
    block = page[page.index("    from lagvae_core import") :]
    lines = itertools.takewhile(lambda line: not line or line.startswith("    "), block.splitlines())
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec("\n".join(line[4:] for line in lines), names)
    assert names["record"].status == "finished"
    assert names["record"].metrics["au"] == 1
    assert names["mean"].shape == names["std"].shape == (3, 1)


@pytest.mark.parametrize("page", ["README.md", "docs/cluster.md"])
def test_shown_commands_and_their_options_exist(page: str) -> None:
    commands = shown_commands(page)
    assert commands, f"{page} shows no command"
    for verb, arguments in commands:
        known = {option for parameter in VERBS[verb].params for option in parameter.opts}
        unknown = set(re.findall(r"(?<!\S)--[a-z-]+", arguments)) - known
        assert not unknown, f"lagvae {verb} has no option {unknown}"


def test_every_verb_and_option_has_a_help_text() -> None:
    for verb, command in VERBS.items():
        assert command.help, verb
        missing = [parameter.name for parameter in command.params if not parameter.help]
        assert not missing, f"lagvae {verb}: no help text for {missing}"


def test_every_named_file_exists() -> None:
    """Files that git ignores count as missing, because a fresh clone lacks them."""
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
    in_code = re.compile(r"`((?:benchmarks|cluster|docs|lagvae_core|sweeps|tests)/[\w./-]*)")
    named = {(page.name, match[1]) for page in pages for match in in_code.finditer(page.read_text("utf-8"))}
    assert len(named) > 10
    assert sorted((page, path) for page, path in named if not (ROOT / path).exists()) == []
