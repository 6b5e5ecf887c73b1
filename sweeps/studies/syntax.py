"""Parsing of studies and their fields on the command line: `probe:draws=3,tsne`."""

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
    """Parse studies with their fields, such as `probe,generation:sentences=1000,seed=1`.

    A comma separates two fields if the word after the comma is followed by `=`; otherwise, it separates two studies.

    Raises:
        ConfigError: The syntax is wrong, a study or field is unknown or invalid, or a study occurs twice.
    """
    # `parse_items` splits at `+`, so every comma between two studies is replaced by `+`.
    joined = re.sub(rf",(?=\s*[A-Za-z_]\w*\s*(?:[:,+]|$)){OUTSIDE_BRACKETS}", "+", text)
    items = parse_items(joined, "--what", EXAMPLE)
    if not items:
        hint = f"Known studies: {', '.join(STUDIES)}. `lagvae studies` describes them."
        raise ConfigError([ValidationIssue("--what", "must name at least one study", hint, text)])
    union: Any = Annotated[Union.__getitem__(tuple(STUDIES.values())), Field(discriminator="kind")]
    parser = create_model("Studies", __base__=FrozenConfig, what=(tuple[union, ...], ...))
    try:
        studies: Sequence[Study] = dict(parser.model_validate({"what": items}))["what"]
    except ValidationError as error:
        raise ConfigError([_about_option(issue, items) for issue in issues_of(error, parser)]) from None
    kinds = [study.name() for study in studies]
    repeated = sorted({kind for kind in kinds if kinds.count(kind) > 1})
    if repeated:
        message = "must name each study only once, because a run stores one result per study"
        hint = "For other fields, run `lagvae evaluate` again; the new result of a study replaces the old one."
        raise ConfigError([ValidationIssue("--what", message, hint, ", ".join(repeated))])
    return list(studies)


def _about_option(issue: ValidationIssue, items: Sequence[Mapping[str, Any]]) -> ValidationIssue:
    """Return `issue` located in the command-line option: `--what tsne.draws` instead of `what[1].draws`."""
    match = re.match(r"what\[(\d+)\](.*)", issue.where)
    if match is None or match[2] == ".kind":
        return replace(issue, where="--what")
    return replace(issue, where=f"--what {items[int(match[1])]['kind']}{match[2]}")
