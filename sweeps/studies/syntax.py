"""The studies that a command line names, with their fields."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Union

from pydantic import Field, ValidationError, create_model

from lagvae_core.config.validation import issues_of
from lagvae_core.errors import ConfigError, ValidationIssue
from lagvae_core.settings import FrozenConfig
from lagvae_core.studies import STUDIES, Study
from sweeps.spec.arm_syntax import OUTSIDE_BRACKETS, parse_items

__all__ = ["parse_studies"]

EXAMPLE = "probe:draws=3,tsne"


def parse_studies(text: str) -> list[Study]:
    """`probe,generation:sentences=1000,seed=1` as studies: a comma before a name with `=` separates fields.

    Raises:
        ConfigError: with every mistake.
    """
    # A comma before a word that no `=` follows begins a study, as `+` does.
    joined = re.sub(rf",(?=\s*[A-Za-z_]\w*\s*(?:[:,+]|$)){OUTSIDE_BRACKETS}", "+", text)
    items = parse_items(joined, "--what", EXAMPLE)
    if not items:
        known = ", ".join(STUDIES)
        raise ConfigError(
            [ValidationIssue("--what", "must name at least one study", f"Known: {known}; see `lagvae studies`.", text)]
        )
    union: Any = Annotated[Union.__getitem__(tuple(STUDIES.values())), Field(discriminator="kind")]
    parser = create_model("Studies", __base__=FrozenConfig, what=(tuple[union, ...], ...))
    try:
        studies: Sequence[Study] = dict(parser.model_validate({"what": items}))["what"]
    except ValidationError as error:
        raise ConfigError([_in_words(issue, items) for issue in issues_of(error, parser)]) from None
    kinds = [study.name() for study in studies]
    twice = sorted({kind for kind in kinds if kinds.count(kind) > 1})
    if twice:
        message = "must name each study once, for a run keeps one result of each"
        raise ConfigError([ValidationIssue("--what", message, "Evaluate twice, or leave one out.", ", ".join(twice))])
    return list(studies)


def _in_words(issue: ValidationIssue, items: Sequence[Mapping[str, Any]]) -> ValidationIssue:
    """`what[1].draws` as `--what tsne.draws`."""
    found = re.match(r"what\[(\d+)\](.*)", issue.where)
    key = f"--what {items[int(found[1])]['kind']}{found[2]}" if found else "--what"
    if found and found[2] == ".kind":
        key = "--what"
    return replace(issue, where=key)
