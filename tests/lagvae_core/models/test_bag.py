import math

import pytest
import torch
from torch.nn import functional

from lagvae_core.data import TokenBatch
from lagvae_core.models.bag import BagFeatures, BagHead, word_counts

VOCABULARY = 9
PADDED = torch.tensor([[1, 5, 3, 5, 8, 2, 0], [1, 4, 2, 0, 0, 0, 0], [1, 2, 0, 0, 0, 0, 0]])
"""Three sentences with `<s>`, `</s>` and padding; the first has an `<unk>`, the last has no words."""


def batch_of(tokens):
    return TokenBatch(tokens, torch.arange(len(tokens)))


def head():
    torch.manual_seed(0)
    return BagHead(2, 3, VOCABULARY).double()


def z(batch=3, samples=2):
    return torch.randn(batch, samples, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def words_of(row):
    return [token for token in row.tolist() if token > 2]


def test_counts_exclude_special_tokens():
    counts = word_counts(batch_of(PADDED), VOCABULARY)
    assert counts.shape == (3, VOCABULARY - 3)
    for row, row_counts in zip(PADDED, counts, strict=True):
        assert row_counts.tolist() == [words_of(row).count(token) for token in range(3, VOCABULARY)]
    specials = (PADDED < 3).sum(1)
    assert counts.sum(1).tolist() == (PADDED.shape[1] - specials).tolist()


def test_features_are_a_linear_layer_on_relative_word_frequencies():
    features = BagFeatures(4, VOCABULARY).double()
    counts = word_counts(batch_of(PADDED), VOCABULARY).double()
    expected = counts / counts.sum(1, keepdim=True).clamp(min=1) @ features.weight[3:] + features.bias
    torch.testing.assert_close(features(batch_of(PADDED)), expected)
    assert features.size == 4
    slope, truth = (
        torch.autograd.grad(value.square().sum(), features.weight)[0]
        for value in (features(batch_of(PADDED)), expected)
    )
    torch.testing.assert_close(slope, truth)
    assert not slope[:3].any()


def test_features_are_initialised_like_a_linear_layer():
    features = BagFeatures(50, 400)
    for parameter in features.parameters():
        assert 0.9 / math.sqrt(400) < float(parameter.detach().abs().max()) <= 1 / math.sqrt(400)


def test_losses_equal_explicit_loops():
    head_, z_ = head(), z()
    logits = head_(z_)
    multinomial, bernoulli = head_.multinomial(batch_of(PADDED), z_), head_.bernoulli(batch_of(PADDED), z_)
    assert multinomial.shape == bernoulli.shape == (3, 2)
    for b, row in enumerate(PADDED):
        for s in range(2):
            log_p = logits[b, s] - logits[b, s].logsumexp(0)
            expected = -sum((log_p[token - 3] for token in words_of(row)), torch.tensor(0.0))
            torch.testing.assert_close(multinomial[b, s], expected.double())
            signs = torch.tensor([1.0 if token in words_of(row) else -1.0 for token in range(3, VOCABULARY)])
            torch.testing.assert_close(bernoulli[b, s], -functional.logsigmoid(signs * logits[b, s]).sum())


@pytest.mark.parametrize("loss", ["multinomial", "bernoulli"])
def test_losses_do_not_depend_on_the_order_of_words(loss):
    permuted = PADDED.clone()
    permuted[0, 1:5] = PADDED[0, [4, 2, 1, 3]]
    one, other = (getattr(head(), loss)(batch_of(tokens), z()) for tokens in (PADDED, permuted))
    torch.testing.assert_close(one, other, rtol=1e-14, atol=0)
    changed = PADDED.clone()
    changed[0, 1] = 7
    assert not torch.equal(getattr(head(), loss)(batch_of(changed), z())[0], one[0])


@pytest.mark.parametrize("loss", ["multinomial", "bernoulli"])
def test_gradients_equal_finite_differences(loss):
    head_ = head()
    assert torch.autograd.gradcheck(lambda z: getattr(head_, loss)(batch_of(PADDED), z), (z().requires_grad_(),))
