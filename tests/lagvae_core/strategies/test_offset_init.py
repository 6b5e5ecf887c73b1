import pytest
import torch
from helpers import TINY_MODEL, assert_equals_plain_vae, rejects, run, tiny, trial_of

from lagvae_core.strategies import CATALOGUE
from lagvae_core.strategies.rules import Trait

RECIPE = {"hidden": 50, "embedding": 50, "init_range": 0.01, "init_embedding": 0.1}


def offset_init(**fields):
    return {"kind": "offset_init", **fields}


def model_of(*stack, **model):
    return trial_of(tiny(*stack, model=model)).model


def assert_between(module, weights, embeddings):
    for name, parameter in module.named_parameters():
        low, high = embeddings if "embedding" in name else weights
        values, span = parameter.detach(), high - low
        assert low <= float(values.min()) < low + 0.1 * span, name
        assert high - 0.1 * span < float(values.max()) <= high, name


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_the_intervals_of_the_model_are_the_plain_vae():
    bound = TINY_MODEL["init_range"]
    intervals = {"low": -bound, "high": bound, "embedding_low": -0.1, "embedding_high": 0.1}
    assert_equals_plain_vae(offset_init(**intervals))
    assert_equals_plain_vae(offset_init(**intervals, scope="encoder"))


@pytest.mark.parametrize("scope", ["all", "encoder"])
def test_every_parameter_starts_in_its_interval(scope):
    model, plain = model_of(offset_init(scope=scope), **RECIPE), model_of(**RECIPE)
    assert_between(model.encoder, (0.04, 0.06), (0.0, 0.2))
    if scope == "all":
        assert_between(model.decoder, (0.04, 0.06), (0.0, 0.2))
    else:
        assert same(model.decoder, plain.decoder)
    other = {"low": -0.5, "high": 0.1, "embedding_low": 2.0, "embedding_high": 3.0}
    assert_between(model_of(offset_init(**other), **RECIPE).encoder, (-0.5, 0.1), (2.0, 3.0))


def test_posterior_means_start_positive_and_nearly_equal():
    trial = trial_of(tiny("offset_init", model=RECIPE))
    mean = torch.cat([trial.model.infer(batch).q.mean_BZ for batch in trial.train_batches]).detach()
    assert len(mean) == 64
    assert float(mean.min()) > 1.0
    assert bool((mean.std(0) < 1e-3 * mean.mean(0)).all())
    plain = trial_of(tiny(model=RECIPE))
    mean = torch.cat([plain.model.infer(batch).q.mean_BZ for batch in plain.train_batches]).detach()
    assert float(mean.abs().max()) < 0.01


def test_the_seed_decides_the_start():
    one, again, other = (trial_of(tiny("offset_init", seed=seed)).model for seed in (1, 1, 2))
    assert same(one, again)
    assert not same(one, other)


def test_parameters_that_other_strategies_add_keep_their_start():
    model, plain = model_of("du_vae", "offset_init", **RECIPE), model_of("du_vae", **RECIPE)
    assert_between(model.encoder, (0.04, 0.06), (0.0, 0.2))
    assert same(model.posterior, plain.posterior)
    assert len(list(model.posterior.parameters())) == 2


def test_it_trains():
    assert run(tiny("offset_init")).status == "finished"


def test_empty_intervals_are_rejected():
    for fields in ({"low": 0.06}, {"embedding_low": 0.5}):
        (name,) = fields
        with rejects("strategies") as issues:
            tiny(offset_init(**fields))
        assert issues[0].code == "E-RANGE"
        assert f"offset_init.{name}" in str(issues[0])


def test_huge_initial_log_variances_give_a_warning():
    (warning,) = map(str, tiny("offset_init", model={"hidden": 1024}).warnings())
    assert "model.hidden * (low + high) / 2 = 51.2" in warning
    assert tiny("offset_init", model={"hidden": 50}).warnings() == ()
    assert tiny(offset_init(low=-0.01, high=0.01), model={"hidden": 1024}).warnings() == ()


@pytest.mark.parametrize("kind", [kind for kind, s in CATALOGUE.items() if Trait.NORMALISES_MEANS in s.traits])
def test_replacing_the_start_that_another_strategy_sets_gives_a_warning(kind):
    for stack in (("offset_init", kind), (kind, "offset_init")):
        (warning,) = map(str, tiny(*stack).warnings())
        assert "offset_init" in warning
        assert kind in warning
