"""`lagvae_core.testing` finds what breaks a contract. tests/contract applies it to the classes of lagvae."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import pytest
import torch
from plugin_page import write_plugins
from pydantic import Field

from lagvae_core.columns import Column
from lagvae_core.data import DATA_SOURCES
from lagvae_core.data.synthetic import SyntheticData
from lagvae_core.models.lstm import LstmDecoder, LstmModel
from lagvae_core.plugins import load_plugin, unload_plugins
from lagvae_core.strategies import CATALOGUE
from lagvae_core.strategies.base import Strategy
from lagvae_core.strategies.slots import KlWeight, Objective
from lagvae_core.studies.base import Findings, Study
from lagvae_core.testing import TINY_DATA, check_data, check_model, check_strategy, check_study

SMALL = {"latent_dim": 2, "hidden": 8, "embedding": 8}


class Sound(Strategy):
    """A strategy that keeps the contract."""

    slots: ClassVar[frozenset[str]] = frozenset({"kl_weight"})
    paper: ClassVar[str] = "none"
    kind: Literal["sound"] = "sound"

    def build(self, context: Any) -> dict[str, Any]:
        return {"kl_weight": KlWeight()}


class WrongSlot(Sound):
    """Fills another slot than it declares."""

    kind: Literal["wrong_slot"] = "wrong_slot"

    def build(self, context: Any) -> dict[str, Any]:
        return {"objective": Objective()}


_SHARED = KlWeight()


class SharedComponent(Sound):
    """All trials share one component."""

    kind: Literal["shared_component"] = "shared_component"

    def build(self, context: Any) -> dict[str, Any]:
        return {"kl_weight": _SHARED}


class Forgetful(Sound):
    """Its weight depends on a counter that is in no checkpoint."""

    kind: Literal["forgetful"] = "forgetful"

    def build(self, context: Any) -> dict[str, Any]:
        return {"kl_weight": _Counter()}


class _Counter(KlWeight):
    calls = 0

    def __call__(self, step: int) -> float:
        self.calls += 1
        return min(1.0, 0.1 * self.calls)


class NotFinite(Sound):
    """Its loss is not a number."""

    kind: Literal["not_finite"] = "not_finite"
    slots: ClassVar[frozenset[str]] = frozenset({"objective"})

    def build(self, context: Any) -> dict[str, Any]:
        return {"objective": _NotFinite()}


class _NotFinite(Objective):
    def __call__(self, rec_B: Any, kl_BZ: Any, weight: float) -> Any:
        return (rec_B * float("nan")).mean()


class Undocumented(Sound):
    """A field has no description."""

    kind: Literal["undocumented"] = "undocumented"
    strength: float = 1.0


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (WrongSlot, "slots"),
        (SharedComponent, "same object"),
        (Forgetful, "resumed"),
        (NotFinite, "the trial ended with diverged"),
        (Undocumented, "description"),
    ],
)
def test_a_strategy_that_breaks_the_contract(strategy, message):
    with pytest.raises(AssertionError, match=message):
        check_strategy(strategy)
    assert strategy.name() not in CATALOGUE


def test_a_strategy_that_keeps_it(tmp_path):
    load_plugin(write_plugins(tmp_path)["capacity"])
    try:
        check_strategy(CATALOGUE["capacity"], neutral={"capacity": 0.0})
        with pytest.raises(AssertionError, match="neutral"):
            check_strategy(CATALOGUE["capacity"], neutral={"capacity": 1.0})
    finally:
        unload_plugins()


class LooksAhead(LstmModel):
    """Its decoder reads the next token."""

    kind: Literal["looks_ahead"] = "looks_ahead"

    def decoder(self, domain: Any, stream: torch.Generator, options: Any) -> LstmDecoder:
        return _LooksAhead(self, domain.vocabulary, stream, options)


class _LooksAhead(LstmDecoder):
    def features(self, history: Any, z_BSZ: Any) -> Any:
        tokens_BT = history.tokens_BT
        return super().features(dataclasses.replace(history, tokens_BT=tokens_BT.roll(-1, 1)), z_BSZ)


class Unreachable(LstmModel):
    """A parameter of its encoder is not used."""

    kind: Literal["unreachable"] = "unreachable"

    def encoder(self, domain: Any, features: Any) -> Any:
        encoder = super().encoder(domain, features)
        encoder.unused = torch.nn.Linear(2, 2)
        return encoder


@pytest.mark.parametrize(("model", "message"), [(LooksAhead, "position 0"), (Unreachable, "unused")])
def test_a_model_that_breaks_the_contract(model, message):
    with pytest.raises(AssertionError, match=message):
        check_model(model, SMALL)


def test_the_model_of_lagvae_keeps_it():
    check_model(LstmModel, SMALL)


class Unstable(SyntheticData):
    """Its order depends on a global generator."""

    kind: Literal["unstable"] = "unstable"  # type: ignore[assignment]
    family: ClassVar[str] = "synthetic"

    def train_batches(self, train: Any, batch_size: int, seed: int, epoch: int) -> Any:
        return train.batches(batch_size, seed=int(torch.randint(1000, ())))


class Incomplete(Unstable):
    """It leaves out a batch."""

    kind: Literal["incomplete"] = "incomplete"  # type: ignore[assignment]

    def train_batches(self, train: Any, batch_size: int, seed: int, epoch: int) -> Any:
        return train.batches(batch_size)[1:]


@pytest.mark.parametrize(("source", "message"), [(Unstable, "only on its arguments"), (Incomplete, "exactly once")])
def test_a_kind_of_data_that_breaks_the_contract(source, message):
    fields = {name: value for name, value in TINY_DATA.items() if name != "kind"}
    with pytest.raises(AssertionError, match=message):
        check_data(source(**fields))


def test_the_data_of_lagvae_keep_it():
    check_data(DATA_SOURCES["synthetic"].model_validate(TINY_DATA))


class Careless(Study):
    """A study that measures nothing."""

    columns: ClassVar[tuple[Column, ...]] = (Column("careless", "float", "nothing"),)
    kind: Literal["careless"] = "careless"
    how: str = Field("infinite", description="what it does wrong")

    def measure(self, trained: Any, progress: Any) -> Findings:
        if self.how == "infinite":
            return Findings({"careless": float("inf")})
        if self.how == "missing":
            return Findings({})
        if self.how == "random":
            return Findings({"careless": float(torch.rand(()))})
        next(trained.model.parameters()).data.zero_()
        return Findings({"careless": 0.0})


@pytest.mark.parametrize(
    ("how", "message"),
    [("infinite", "finite"), ("missing", "columns"), ("random", "random state"), ("changes", "model must not change")],
)
def test_a_study_that_breaks_the_contract(how, message):
    with pytest.raises(AssertionError, match=message):
        check_study(Careless(how=how))
