"""Rules between strategies: which pairs are refused with which code, which give warnings, and which train.

The rules are stated by slots and traits, so that they need no change when a strategy is added.
"""

import itertools
from typing import Any, ClassVar, Literal

import pytest
import torch
from helpers import rejects, tiny, trial_of

from lagvae_core.config.trial import parse_trial
from lagvae_core.errors import ConfigError
from lagvae_core.settings import TrainingConfig
from lagvae_core.strategies import CATALOGUE
from lagvae_core.strategies.base import ConfigContext, Strategy
from lagvae_core.strategies.rules import Trait
from lagvae_core.strategies.slots import TrainingComponents

TEXT = {"kind": "text", "path": "no/such/folder"}
IMAGES = {"kind": "images", "path": "no/such/file.npz"}
VECTORS = {"kind": "vectors", "path": "no/such/file.npz", "partition": "fixed_by_group"}
"""Nothing is at these paths: a stack is checked before any data are read."""


def having(*traits):
    return lambda strategy: any(strategy.has(trait) for trait in traits)


def lacking(trait):
    return lambda strategy: not strategy.has(trait)


def filling(*slots):
    return lambda strategy: not strategy.slots.isdisjoint(slots)


def replaces_the_weighted_elbo(strategy):
    return "objective" in strategy.slots and not strategy.has(Trait.FIXED_KL_WEIGHT)


def is_a_prior_alone(strategy):
    return "prior" in strategy.slots and "posterior" not in strategy.slots


def has_no_more_free_bits_than_the_guaranteed_kl(strategy):
    return strategy.free_kl is not None and strategy.free_kl <= CATALOGUE["delta_vae"]().delta


def adds_a_term_to_the_loss(strategy):
    return filling("penalties", "decode")(strategy) and not strategy.has(Trait.REGULARISES_BATCH)


RULES = [
    ("E01", "mdr", having(Trait.FIXED_KL_WEIGHT)),
    ("E01", "soft_free_bits", having(Trait.FIXED_KL_WEIGHT)),
    ("E02", "beta_vae", filling("kl_weight")),
    ("E03", "bn_vae", having(Trait.SCALES_MEANS)),
    ("E03", "du_vae", having(Trait.NORMALISES_MEANS, Trait.SCALES_MEANS)),
    ("E03", "delta_vae", having(Trait.NORMALISES_MEANS, Trait.SCALES_MEANS)),
    ("E04", "sa_vae", having(Trait.REGULARISES_BATCH)),
    ("E04", "sa_vae", filling("posterior", "prior")),
    ("E05", "sa_vae", having(Trait.INNER_LOOP)),
    ("E06", "delta_vae", filling("prior")),
    ("E06", "delta_vae", has_no_more_free_bits_than_the_guaranteed_kl),
    ("E07", "free_bits", having(Trait.KL_NOT_BY_DIMENSION)),
    ("E08", "scale_vae", is_a_prior_alone),
    ("E09", "historyless", filling("corrupt")),
    ("E09", "historyless", having(Trait.BOUNDED_RECEPTIVE_FIELD)),
    ("E09", "pixelcnn_lm", having(Trait.TEXT_ONLY)),
    ("E09", "pixelcnn_lm", filling("skip")),
    ("E09", "ppca", having(Trait.TEXT_ONLY, Trait.IMAGES_ONLY)),
    ("E09", "sigma_vae", having(Trait.TEXT_ONLY, Trait.IMAGES_ONLY)),
    ("E10", "lstm_lm", lacking(Trait.WORKS_WITHOUT_Z)),
    ("E10", "pixelcnn_lm", lacking(Trait.WORKS_WITHOUT_Z)),
    ("E13", "aggressive", having(Trait.UNTESTED_WITH_INNER_LOOP)),
    ("E14", "agg_kl", having(Trait.FLOW_POSTERIOR)),
    ("E14", "vamp_prior", having(Trait.FLOW_POSTERIOR)),
    ("E15", "af_prior", having(Trait.FLOW_POSTERIOR)),
    ("E18", "ppca", lacking(Trait.CLOSED_FORM)),
    ("E16", "sa_vae", replaces_the_weighted_elbo),
    ("E-PSEUDO", "vamp_prior", having(Trait.ENCODER_READS_BAG)),
]
"""(code, strategy with the rule, strategies that it excludes), all at their defaults."""

VALUES = [
    ("E06", {"kind": "delta_vae", "delta": 0.2}, {"kind": "free_bits", "floor": 0.2}),
    *(
        ("E07", {"kind": "free_bits", "mode": mode}, kind)
        for mode in ("dim_sample", "total_sample")
        for kind, strategy in CATALOGUE.items()
        if strategy().has(Trait.KL_SAMPLED)
    ),
    ("E14", {"kind": "info_mmd", "divergence": "kl"}, "iaf_posterior"),
]
"""(code, one, other): pairs that are excluded at these values."""

STACKS = [
    ("ae_pretrain", "free_bits", "kl_linear_epoch"),
    ({"kind": "free_bits", "mode": "group_batch"}, "iaf_posterior"),
    ({"kind": "free_bits", "mode": "total_batch"}, "vamp_prior"),
    ({"kind": "free_bits", "floor": 0.2}, {"kind": "delta_vae", "delta": 0.1}),
    ({"kind": "aggressive", "allow_untested": True}, "vamp_prior"),
    ("vamp_prior", {"kind": "multitask_bow", "bow_input": False}),
    ("word_dropout", "fraternal_dropout", "embedding_dropout"),
    ("multitask_bow", "kl_cyclical", "aggressive"),
    ("encoder_lr", "sa_vae", "skip_vae", "word_dropout"),
    ("lstm_lm", "word_dropout", "embedding_dropout", "fraternal_dropout", "offset_init"),
]
"""Stacks from papers, of more than two strategies or with values other than the defaults."""


def kind_of(item):
    return item if isinstance(item, str) else item["kind"]


def label(stack):
    return "+".join(map(kind_of, stack))


def data_for(*kinds):
    for trait, data in ((Trait.IMAGES_ONLY, IMAGES), (Trait.GAUSSIAN_LIKELIHOOD, VECTORS)):
        if any(CATALOGUE[kind]().has(trait) for kind in kinds):
            return data
    return TEXT


def codes_of(*stack):
    """The codes that a stack is refused with, and the place of any other issue; none if it is valid."""
    try:
        parse_trial({"data": data_for(*map(kind_of, stack)), "strategies": list(stack)})
    except ConfigError as error:
        return {issue.code if issue.where == "strategies" else issue.where for issue in error.issues}
    return set()


def expected_codes(one, other):
    codes = {
        code
        for code, kind, excluded in RULES
        for first, second in ((one, other), (other, one))
        if first == kind and second != kind and excluded(CATALOGUE[second]())
    }
    exclusive = (CATALOGUE[one].slots & CATALOGUE[other].slots) - TrainingComponents.SHARED
    return codes or ({"E-SLOT"} if exclusive or one == other else set())


@pytest.mark.parametrize("one", CATALOGUE)
def test_a_pair_is_refused_exactly_by_the_rules(one):
    for other in CATALOGUE:
        assert codes_of(one, other) == expected_codes(one, other), (one, other)


@pytest.mark.parametrize(("code", "one", "other"), VALUES, ids=lambda item: item if isinstance(item, str) else None)
def test_a_pair_is_refused_at_some_values(code, one, other):
    for stack in ((one, other), (other, one)):
        assert codes_of(*stack) == {code}


@pytest.mark.parametrize("one", CATALOGUE)
def test_a_refused_pair_is_named(one):
    """The hint of a rule between two strategies names both; E09 can be about one of them and the data."""
    for other in CATALOGUE:
        try:
            parse_trial({"data": data_for(one, other), "strategies": [one, other]})
        except ConfigError as error:
            for issue in error.issues:
                text = f"{issue.message} {issue.hint}"
                assert issue.code == "E09" or (one in text and other in text), text


class Stranger(Strategy):
    """A strategy from outside. Source: this test."""

    slots: ClassVar[frozenset[str]] = frozenset()
    paper: ClassVar[str] = "none"
    given: ClassVar[Trait]

    kind: Literal["stranger"] = "stranger"

    def has(self, trait: Trait) -> bool:
        return trait is self.given

    def build(self, context: Any) -> dict[str, Any]:
        return {}


def with_the_trait(trait):
    return type("StrangerWithTrait", (Stranger,), {"given": trait})()


@pytest.mark.parametrize("trait", Trait)
def test_a_strategy_from_outside_is_refused_by_its_traits(trait):
    """The rules of the shipped strategies find the trait without knowing the strategy."""
    stranger = with_the_trait(trait)
    for code, kind, excluded in RULES:
        if kind == "pixelcnn_lm" and code == "E09":
            continue  # follows from the data
        strategy = CATALOGUE[kind]()
        context = ConfigContext((strategy, stranger), TrainingConfig(), tiny().model, "text")
        codes = {incompatibility.code for incompatibility in strategy.incompatibilities(context)}
        if excluded(stranger):
            assert code in codes, (code, kind)


@pytest.mark.parametrize("trait", [Trait.TEXT_ONLY, Trait.IMAGES_ONLY])
def test_a_strategy_from_outside_is_refused_on_the_wrong_kind_of_data(trait):
    stranger = with_the_trait(trait)
    for data_kind, unit in (("text", "word"), ("images", "pixel"), ("vectors", "feature")):
        context = ConfigContext((stranger,), TrainingConfig(), tiny().model, data_kind)
        codes = {incompatibility.code for incompatibility in stranger.incompatibilities(context)}
        assert codes == (set() if unit == {Trait.TEXT_ONLY: "word", Trait.IMAGES_ONLY: "pixel"}[trait] else {"E09"})


@pytest.mark.parametrize("stack", STACKS, ids=label)
def test_a_meaningful_stack_trains(stack):
    trial = trial_of(tiny(*stack))
    trial.model.train()
    for batch in trial.train_batches[:2]:
        trial.train_batch(batch)
    assert len(trial.history) == 2
    assert all(torch.isfinite(entry).all() for entry in trial.history)


# --- rules about values ----------------------------------------------------------------------------------------------


def test_fraternal_dropout_without_any_dropout_is_refused():
    with rejects("strategies") as issues:
        tiny("fraternal_dropout", model={"dropout_in": 0.0, "dropout_out": 0.0})
    assert issues[0].code == "E11"
    tiny("fraternal_dropout", "word_dropout", model={"dropout_in": 0.0, "dropout_out": 0.0})


@pytest.mark.parametrize("kind", [kind for kind in CATALOGUE if CATALOGUE[kind]().has(Trait.BATCH_STATISTICS)])
def test_batch_statistics_of_one_example_are_refused(kind):
    with rejects("strategies") as issues:
        tiny(kind, training={"batch_size": 1})
    assert issues[0].code == "E12"


def test_a_negative_weight_of_a_divergence_is_refused():
    with rejects("strategies") as issues:
        tiny({"kind": "info_mmd", "alpha": 0.0, "scale": 0.001})
    assert issues[0].code == "E17"


def test_an_unknown_option_of_a_strategy_is_refused():
    with rejects("strategies[0].bta"):
        tiny({"kind": "beta_vae", "bta": 0.4})


def test_an_option_without_effect_is_refused():
    with rejects("strategies") as issues:
        tiny({"kind": "free_bits", "mode": "total_batch", "groups": 2})
    assert issues[0].code == "E18"


@pytest.mark.parametrize("kind", [kind for kind in CATALOGUE if CATALOGUE[kind]().has(Trait.TEXT_ONLY)])
def test_strategies_for_text_are_refused_on_images(kind):
    strategy = CATALOGUE[kind]()
    context = ConfigContext((strategy,), TrainingConfig(), tiny().model, "images", "fixed_random")
    assert "E09" in {incompatibility.code for incompatibility in strategy.incompatibilities(context)}


# --- warnings --------------------------------------------------------------------------------------------------------

WARNINGS = [
    ("W2", "mdr", having(Trait.INNER_LOOP)),
    ("W5", "sa_vae", adds_a_term_to_the_loss),
]
"""(code, strategy that warns, strategies that it warns of), all at their defaults."""


def warnings_of(*stack):
    data = data_for(*map(kind_of, stack))
    return parse_trial({"data": data, "strategies": list(stack)}).warnings()


@pytest.mark.parametrize("one", CATALOGUE)
def test_a_pair_gives_exactly_the_warnings_of_the_rules(one):
    for other in CATALOGUE:
        if codes_of(one, other):
            continue
        pair = ((one, other), (other, one))
        expected = [code for code, kind, warned in WARNINGS for a, b in pair if a == kind and warned(CATALOGUE[b]())]
        expected += ["W6"] if all("penalties" in CATALOGUE[kind].slots for kind in (one, other)) else []
        expected += ["W4" for kind in (one, other) if CATALOGUE[kind]().has(Trait.BATCH_STATISTICS)]
        codes = [warning.code for warning in warnings_of(one, other) if warning.code not in (None, "W3")]
        assert sorted(codes) == sorted(expected), (one, other)


@pytest.mark.parametrize(
    ("code", "stack"),
    [("W1", ({"kind": "encoder_lr", "multiplier": 2}, "aggressive")), ("W3", ("kl_cyclical",))],
    ids=lambda item: item if isinstance(item, str) else label(item),
)
def test_a_stack_gives_one_warning_that_names_it(code, stack):
    warnings = [warning for warning in warnings_of(*stack) if warning.code == code]
    assert len(warnings) == 1
    assert all(kind_of(item) in warnings[0].message for item in stack)


def test_penalties_give_one_warning_for_all_of_them():
    penalties = [
        kind for kind in CATALOGUE if "penalties" in CATALOGUE[kind].slots and "kl_share" not in CATALOGUE[kind].slots
    ]
    for pair in itertools.combinations(penalties, 2):
        (warning,) = [warning for warning in warnings_of(*pair) if warning.code == "W6"]
        assert all(kind in warning.message for kind in pair)


def test_the_plain_vae_gives_no_warning():
    assert tiny().warnings() == ()
