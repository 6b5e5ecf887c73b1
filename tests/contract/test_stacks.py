"""The law of stacks: what is refused and with which code, what is warned of, and what must train."""

import pytest
import torch
from helpers import tiny, trial_of

from lagvae_core.config.trial import parse_trial
from lagvae_core.errors import ConfigError
from lagvae_core.settings import TrainingConfig
from lagvae_core.strategies import CATALOGUE
from lagvae_core.strategies.base import ConfigContext

SCHEDULES = ("kl_linear_epoch", "kl_linear_iter", "kl_sigmoid", "kl_exp", "kl_cyclical")
FREE_WORDS = ("word_dropout", "contiguous_dropout")

REFUSED = {
    "E01": [(one, other) for one in ("mdr", "soft_free_bits") for other in (*SCHEDULES, "beta_vae")],
    "E02": [("beta_vae", other) for other in SCHEDULES],
    "E03": [
        ("bn_vae", "du_vae"),
        *((one, "scale_vae") for one in ("bn_vae", "du_vae", "delta_vae")),
        *(("delta_vae", other) for other in ("bn_vae", "du_vae")),
    ],
    "E04": [
        ("sa_vae", other)
        for other in (
            *("bn_vae", "du_vae", "delta_vae", "scale_vae", "iaf_posterior"),
            *("vamp_prior", "mog_prior", "af_prior"),
            *("mae", "agg_kl", "info_mmd", "fisher"),
        )
    ],
    "E05": [("sa_vae", "aggressive")],
    "E06": [
        *(("delta_vae", other) for other in ("vamp_prior", "mog_prior", "af_prior")),
        ({"kind": "delta_vae", "delta": 0.2}, {"kind": "free_bits", "floor": 0.2}),
    ],
    "E07": [
        *(
            ({"kind": "free_bits", "mode": mode}, prior)
            for mode in ("group_batch", "dim_sample", "total_sample")
            for prior in ("vamp_prior", "af_prior", "mog_prior")
        ),
        *(({"kind": "free_bits", "mode": mode}, "iaf_posterior") for mode in ("dim_sample", "total_sample")),
    ],
    "E08": [("scale_vae", other) for other in ("vamp_prior", "mog_prior", "af_prior")],
    "E09": [("historyless", other) for other in (*FREE_WORDS, "cnn_decoder")],
    "E10": [("lstm_lm", other) for other, strategy in CATALOGUE.items() if strategy.latent and other != "lstm_lm"],
    "E13": [("aggressive", other) for other in ("scale_vae", "vamp_prior", "af_prior")],
    "E14": [("iaf_posterior", other) for other in ("vamp_prior", "agg_kl")],
    "E15": [("af_prior", "iaf_posterior")],
    "E16": [("sa_vae", other) for other in ("free_bits", "soft_free_bits", "mdr")],
}
"""Codes to the pairs that they refuse; E11, E12, E17 and E18 are about values and are below."""

MEANINGFUL = [
    ("aggressive", "kl_linear_epoch"),
    ("sa_vae", "kl_linear_epoch"),
    ("sa_vae", "beta_vae"),
    ("scale_vae", "kl_linear_epoch"),
    ("bn_vae", "kl_linear_epoch"),
    ("du_vae", "kl_linear_epoch"),
    ("free_bits", "kl_linear_epoch"),
    ("ae_pretrain", "free_bits", "kl_linear_epoch"),
    ({"kind": "free_bits", "mode": "group_batch"}, "iaf_posterior"),
    ({"kind": "free_bits", "mode": "total_batch"}, "vamp_prior"),
    *((rate, "word_dropout") for rate in ("free_bits", "mdr", "kl_linear_epoch")),
    ("cnn_decoder", "skip_vae"),
    ("historyless", "skip_vae"),
    ("word_dropout", "fraternal_dropout", "embedding_dropout"),
    ("multitask_bow", "kl_cyclical", "aggressive"),
    ("mae", "af_prior"),
    ("bn_vae", "vamp_prior"),
    ("bn_vae", "offset_init"),
    ("encoder_lr", "sa_vae", "skip_vae", "word_dropout"),
    ("lstm_lm", "word_dropout", "embedding_dropout", "fraternal_dropout", "offset_init"),
    *((schedule, procedure) for schedule in SCHEDULES for procedure in ("aggressive", "sa_vae")),
]
"""Stacks that the papers report, or that a user has every right to expect."""

WARNED = {
    "W1": [({"kind": "encoder_lr", "multiplier": 2}, "aggressive")],
    "W2": [("mdr", "aggressive")],
    "W3": [("kl_cyclical",)],
    "W4": [(kind,) for kind in ("bn_vae", "du_vae", "scale_vae", "mae", "agg_kl", "info_mmd")],
    "W5": [("sa_vae", other) for other in ("multitask_bow", "fraternal_dropout")],
    "W6": [
        (one, other)
        for number, one in enumerate(("multitask_bow", "mae", "fisher", "info_mmd"))
        for other in ("multitask_bow", "mae", "fisher", "info_mmd")[number + 1 :]
    ],
}


def kind_of(item):
    return item if isinstance(item, str) else item["kind"]


def label(stack):
    return "+".join(map(kind_of, stack))


def named(table):
    return [
        pytest.param(code, stack, id=f"{code}-{label(stack)}") for code, stacks in table.items() for stack in stacks
    ]


@pytest.mark.parametrize(("code", "stack"), named(REFUSED))
def test_a_refused_pair_names_its_code_and_both_strategies_in_either_order(code, stack):
    """No file is at that path: the stack is judged before any data are looked for."""
    for order in (stack, stack[::-1]):
        with pytest.raises(ConfigError) as refused:
            parse_trial({"data": {"kind": "text", "path": "no/such/folder"}, "strategies": list(order)})
        text = str(refused.value)
        assert f"({code})" in text
        for item in stack:
            assert kind_of(item) in text


@pytest.mark.parametrize("stack", MEANINGFUL, ids=label)
def test_a_meaningful_stack_trains(stack):
    trial = trial_of(tiny(*stack))
    trial.model.train()
    for batch in trial.train_batches[:2]:
        trial.train_batch(batch)
    assert len(trial.history) == 2
    assert all(torch.isfinite(entry).all() for entry in trial.history)


def test_fraternal_dropout_without_any_dropout_is_refused():
    with pytest.raises(ConfigError, match="E11"):
        tiny("fraternal_dropout", model={"dropout_in": 0.0, "dropout_out": 0.0})
    tiny("fraternal_dropout", "word_dropout", model={"dropout_in": 0.0, "dropout_out": 0.0})


@pytest.mark.parametrize("kind", ["bn_vae", "du_vae", "scale_vae", "mae", "agg_kl", "info_mmd"])
def test_batch_statistics_of_one_example_are_refused(kind):
    with pytest.raises(ConfigError, match="E12"):
        tiny(kind, training={"batch_size": 1})


def test_a_negative_weight_of_a_divergence_is_refused():
    with pytest.raises(ConfigError, match="E17"):
        tiny({"kind": "info_mmd", "alpha": 0.0, "scale": 0.001})


def test_an_option_of_a_strategy_that_is_not_there_is_refused():
    with pytest.raises(ConfigError):
        tiny({"kind": "beta_vae", "bta": 0.4})
    with pytest.raises(ConfigError, match="E18"):
        tiny({"kind": "free_bits", "mode": "total_batch", "groups": 2})


@pytest.mark.parametrize("kind", ["word_dropout", "contiguous_dropout", "multitask_bow", "cnn_decoder", "historyless"])
def test_what_is_about_words_is_refused_on_images(kind):
    strategy = CATALOGUE[kind]()
    context = ConfigContext((strategy,), TrainingConfig(), tiny().model, "images", "fixed_random")
    assert "E09" in {incompatibility.code for incompatibility in strategy.incompatibilities(context)}


@pytest.mark.parametrize(("code", "stack"), named(WARNED))
def test_a_warning_is_given_once(code, stack):
    data = {"kind": "text", "path": "no/such/folder"}
    found = parse_trial({"data": data, "strategies": list(stack)}).warnings()
    about = [text for text in found if text.startswith(f"{code}:")]
    assert len(about) == 1, found
    for item in stack:
        assert kind_of(item) in about[0]


def test_the_plain_vae_is_warned_of_nothing():
    assert tiny().warnings() == ()
