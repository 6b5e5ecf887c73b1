from typing import Annotated

from pydantic import Field

from lagvae_core.settings import (
    AddedField,
    FrozenConfig,
    Tunable,
    describe_constraints,
    identifying_values,
    tunables,
)


class Example(FrozenConfig):
    rate: Annotated[float, Field(ge=0, lt=1), Tunable(0.1, 0.8)] = 0.4
    steps: Annotated[int, Field(gt=0, le=10)] = 1
    name: Annotated[str, Field(min_length=1)] = "x"
    free: int = 0


def test_constraints_as_text():
    constraints = {name: describe_constraints(field.metadata) for name, field in Example.model_fields.items()}
    assert constraints == {"rate": [">= 0", "< 1"], "steps": ["> 0", "<= 10"], "name": ["at least 1 long"], "free": []}


def test_tunable_fields_with_their_ranges():
    assert list(tunables(Example)) == [("rate", float, Tunable(0.1, 0.8))]


class Nested(FrozenConfig):
    old: int | None = None
    new: Annotated[int | None, Field(ge=1), AddedField()] = None
    changed: Annotated[int, AddedField(before=1)] = 2
    inner: tuple["Nested", ...] = ()
    one: "Nested | None" = None


def test_an_added_field_identifies_only_if_it_is_not_at_its_default():
    plain = {"old": None, "inner": [], "one": None}
    config = Nested(inner=(Nested(changed=1), Nested(new=2, changed=1)), one=Nested(old=1, changed=1), changed=1)
    assert identifying_values(config) == {
        "old": None,
        "inner": [plain, {**plain, "new": 2}],
        "one": {**plain, "old": 1},
    }


def test_a_default_that_changes_the_behaviour_identifies():
    assert identifying_values(Nested()) == {"old": None, "inner": [], "one": None, "changed": 2}
