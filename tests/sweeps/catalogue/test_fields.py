"""Types of fields as text."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from lagvae_core.strategies import AnyStrategy
from sweeps.catalogue.fields import describe_type


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, "integer"),
        (float | None, "number or null"),
        (bool, "true or false"),
        (Literal["a", "b", 3], "one of a, b, 3"),
        (Literal["auto"] | Annotated[int, Field(ge=1)], "auto or integer >= 1"),
        (tuple[Annotated[int, Field(ge=1, le=9)], ...], "list of integers >= 1 and <= 9"),
        (tuple[float, Annotated[float, Field(lt=1)]], "list [number, number < 1]"),
        (tuple[AnyStrategy, ...], "list of mappings"),
        (dict[str, Any], "mapping"),
    ],
)
def test_a_type(annotation, text):
    assert describe_type(annotation) == text
