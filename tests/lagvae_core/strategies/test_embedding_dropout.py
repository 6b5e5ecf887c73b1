import math
from dataclasses import replace

import pytest
import torch
from helpers import assert_equals_plain_vae, run, tiny, trial_of
from torch import nn

from lagvae_core.models.decoder import RowDropout, UnitDropout
from lagvae_core.strategies.base import BuildContext
from lagvae_core.strategies.embedding_dropout import EmbeddingDropout


def embedding_dropout(**fields):
    return {"kind": "embedding_dropout", **fields}


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def embedding(words=500, size=8):
    layer = nn.Embedding(words, size).double()
    nn.init.uniform_(layer.weight, 1.0, 2.0, generator=stream(9))
    return layer


def tokens(words=500, steps=40, batch=50):
    return torch.randint(words, (steps, batch), generator=stream(8))


def factors(dropout, seed=0, **sizes):
    """The factors of the embeddings of `tokens` [T, B, E], and the tokens."""
    layer, read = embedding(), tokens(**sizes)
    return (dropout(layer, read, stream(seed)) / layer(read)).detach(), read


def test_the_scope_selects_the_dropout():
    for scope, kind in (("unit", UnitDropout), ("row", RowDropout)):
        assert EmbeddingDropout(rate=0.3, scope=scope).build(BuildContext(2, 4)) == {"input_dropout": kind(0.3)}


def test_units_at_the_rate_of_the_model_are_the_plain_vae():
    assert tiny().model.dropout_in == 0.5
    assert_equals_plain_vae(embedding_dropout(rate=0.5))


@pytest.mark.parametrize("scope", ["unit", "row"])
def test_it_replaces_the_dropout_of_the_model(scope):
    """At rate 0 nothing is dropped, independent of the model."""
    trials = (tiny(embedding_dropout(rate=0.0, scope=scope)), tiny(model={"dropout_in": 0.0}))
    losses = [trial.learner.loss(trial.train_batches[0], 1.0).rec_B for trial in map(trial_of, trials)]
    assert torch.equal(*losses)


@pytest.mark.parametrize("dropout", [UnitDropout, RowDropout])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_rate_and_expectation(dropout, rate):
    factor, read = factors(dropout(rate))
    assert sorted({round(value, 9) for value in factor.flatten().tolist()}) == pytest.approx([0.0, 1 / (1 - rate)])
    if dropout is RowDropout:  # one draw per different word
        factor = torch.stack([factor[read == word][0, 0] for word in read.unique()])
    n = factor.numel()
    assert float((factor == 0).double().mean()) == pytest.approx(rate, abs=4 * math.sqrt(rate * (1 - rate) / n))
    assert float(factor.mean()) == pytest.approx(1.0, abs=4 * math.sqrt(rate / (1 - rate) / n))


def test_a_dropped_row_is_missing_as_a_whole_at_all_positions_of_its_word():
    factor, read = factors(RowDropout(0.5))
    assert torch.equal(factor > 0, (factor[:, :, :1] > 0).expand_as(factor))
    for word in read.unique():
        assert len((factor[read == word] > 0).unique()) == 1


def test_units_are_dropped_one_by_one():
    factor, read = factors(UnitDropout(0.5))
    assert not torch.equal(factor > 0, (factor[:, :, :1] > 0).expand_as(factor))
    twice = read == read[0, 0]
    assert int(twice.sum()) > 1
    assert len({tuple(row) for row in factor[twice].tolist()}) > 1


@pytest.mark.parametrize("dropout", [UnitDropout, RowDropout])
def test_each_pass_has_new_draws_and_evaluation_drops_nothing(dropout):
    layer, read, generator = embedding(), tokens(), stream()
    first, second = (dropout(0.5)(layer, read, generator) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(dropout(0.5)(layer, read, None), layer(read))
    before = generator.get_state()
    assert torch.equal(dropout(0.0)(layer, read, generator), layer(read))
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("scope", ["unit", "row"])
def test_only_rows_that_are_read_have_a_gradient(scope):
    layer, read = embedding(), tokens()
    dropped = (UnitDropout if scope == "unit" else RowDropout)(0.5)(layer, read, stream())
    dropped.sum().backward()
    words = layer.weight.grad.abs().sum(1) > 0
    expected = torch.zeros(500, dtype=torch.bool)
    expected[read[(dropped != 0).any(2)]] = True
    assert torch.equal(words, expected)


@pytest.mark.parametrize("scope", ["unit", "row"])
def test_evaluation_does_not_depend_on_it(scope):
    validations = []
    for rate in (0.1, 0.9):
        trial = trial_of(tiny(embedding_dropout(rate=rate, scope=scope)))
        trial.step, trial.history = 1, [torch.ones(4)]
        validations.append({k: v for k, v in trial.validate().values.items() if k.startswith("valid_")})
    assert validations[0] == validations[1]
    assert run(tiny(embedding_dropout(scope=scope))).status == "finished"


def test_a_rate_of_the_model_without_effect_gives_a_warning():
    def warnings(dropout_in, **fields):
        return tiny(embedding_dropout(**fields), model={"dropout_in": dropout_in}).warnings()

    (warning,) = warnings(0.2, rate=0.3)
    assert str(warning) == (
        "embedding_dropout drops units at a rate of 0.3 and replaces model.dropout_in = 0.2, which has no effect; "
        "leave model.dropout_in out."
    )
    (warning,) = warnings(0.2, rate=0.2, scope="row")
    assert warning.code is None
    assert "model.dropout_in = 0.2" in warning.message
    assert warnings(0.5, rate=0.3) == warnings(0.2, rate=0.2) == warnings(0.5, scope="row") == ()


def test_it_is_refused_on_images():
    config = tiny("embedding_dropout")
    (incompatibility,) = config.strategies[0].incompatibilities(replace(config.context, data_kind="images"))
    assert incompatibility.code == "E09"
    assert "embedding_dropout" in incompatibility.message
