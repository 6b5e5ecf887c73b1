"""The catalogue of strategies is complete and agrees with the validation of stacks."""

import json
import re

import pytest

from lagvae_core.config.trial import parse_trial
from lagvae_core.errors import ConfigError
from lagvae_core.strategies import CATALOGUE
from sweeps.catalogue.strategies import catalogue_page, conflicts_of, describe_strategy
from sweeps.cli.catalogue import print_strategies

each_strategy = pytest.mark.parametrize("kind", CATALOGUE)


@each_strategy
def test_a_description_is_complete_plain_data(kind):
    strategy, entry = CATALOGUE[kind], describe_strategy(CATALOGUE[kind])
    assert json.loads(json.dumps(entry, allow_nan=False))["kind"] == kind
    assert entry["paper"] == strategy.paper
    assert entry["slots"] == sorted(strategy.slots)
    assert [field["name"] for field in entry["fields"]] == [n for n in strategy.model_fields if n != "kind"]
    assert all(field["description"] for field in entry["fields"])


@each_strategy
def test_the_summary_has_at_most_two_sentences(kind):
    summary = describe_strategy(CATALOGUE[kind])["summary"]
    assert summary.endswith((".", ":"))
    assert summary.count(". ") <= 1, summary
    assert "Source" not in summary


@each_strategy
def test_the_printed_description_has_paper_fields_and_conflicts(kind, capsys):
    print_strategies(kind, as_json=False)
    text = capsys.readouterr().out
    assert CATALOGUE[kind].paper in text
    for name in CATALOGUE[kind].model_fields:
        assert name == "kind" or name in text
    for other in conflicts_of(kind):
        assert other in text


def codes_of(stack, data):
    """Return the codes of the issues of a stack; an empty list if it is valid."""
    try:
        parse_trial({"data": {"kind": data, "path": "."}, "strategies": stack})
    except ConfigError as error:
        return [issue.code for issue in error.issues]
    return []


@each_strategy
def test_its_conflicts_are_those_of_validation(kind):
    conflicts = conflicts_of(kind)
    for other in CATALOGUE:
        if other == kind:
            continue
        codes = [codes_of([other, kind], data) for data in ("text", "images", "vectors")]
        if other in conflicts:
            assert all(codes)
            assert any(conflicts[other].split(",")[0] in of_data for of_data in codes)
        else:
            assert not all(codes)


def test_conflicts_are_symmetric():
    for kind in CATALOGUE:
        for other, reason in conflicts_of(kind).items():
            assert conflicts_of(other)[kind] == reason


def test_the_page_has_a_section_for_every_strategy_and_complete_tables():
    page = catalogue_page()
    for kind in CATALOGUE:
        assert page.count(f"### {kind}\n") == 1
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6}
