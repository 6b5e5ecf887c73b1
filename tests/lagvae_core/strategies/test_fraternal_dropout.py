from dataclasses import replace

import pytest
import torch
from helpers import SHORT_AGGRESSIVE, assert_equals_plain_vae, rejects, run, tiny, trial_of

from lagvae_core.strategies.fraternal_dropout import FraternalDropout, FraternalReconstruction

NO_DROPOUT = {"dropout_in": 0.0, "dropout_out": 0.0}


def fraternal(**fields):
    return {"kind": "fraternal_dropout", **fields}


class Passes:
    """One training batch of a trial in float64: `actual` uses the strategy, `expected` decodes step by step.

    Both start from the same state of the random streams.
    """

    def __init__(self, *others, model=None, **fields):
        self.config = FraternalDropout(**fields)
        self.trial = trial_of(tiny(*others, model=model or {}))
        self.trial.model.double().train()
        self.decoder, self.batch = self.trial.model.decoder, self.trial.train_batches[0]
        generator = torch.Generator().manual_seed(1)
        self.z = torch.randn(self.batch.size, 1, 2, generator=generator, dtype=torch.float64).requires_grad_()
        self.state = {name: value.clone() for name, value in self.trial.streams.state_dict().items()}

    def actual(self):
        self.trial.streams.load_state_dict(self.state)
        return FraternalReconstruction(self.config)(self.trial.learner, self.batch, self.z)

    def expected(self):
        """Return reconstruction [B], features and logits of the first and of the second pass."""
        self.trial.streams.load_state_dict(self.state)
        history, passes = self.trial.learner.history(self.batch), []
        for number in range(2):
            if number and not self.config.same_word_mask:
                history = self.trial.learner.history(self.batch)
            features = self.decoder.features(history, self.z)
            logits = self.decoder.output(features)
            log_p = logits.log_softmax(2).gather(2, self.batch.targets_BT.T[:, :, None])
            passes.append((-log_p.sum((0, 2)), features, logits))
        return passes


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-12)


# --- the loss --------------------------------------------------------------------------------------------------------


def test_without_penalty_and_second_target_it_is_the_plain_vae():
    assert_equals_plain_vae(fraternal(weight=0, double_target=False))


@pytest.mark.parametrize("other", [(), ("word_dropout",)])
def test_no_second_pass_is_made_if_nothing_uses_it(other):
    passes = Passes(*other, weight=0, double_target=False)
    rec, penalty = passes.actual()
    after = {name: value.clone() for name, value in passes.trial.streams.state_dict().items()}
    assert penalty is None
    passes.trial.streams.load_state_dict(passes.state)
    history = passes.trial.learner.history(passes.batch)
    assert torch.equal(rec, passes.trial.model.reconstruct(passes.batch, history, passes.z)[:, 0])
    assert all(torch.equal(value, after[name]) for name, value in passes.trial.streams.state_dict().items())


@pytest.mark.parametrize("double_target", [True, False])
@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_the_reconstruction_uses_both_passes_or_the_first_alone(weight, double_target):
    passes = Passes(weight=weight, double_target=double_target)
    (first, *_), (second, *_) = passes.expected()
    assert not torch.equal(first, second)
    assert_close(passes.actual()[0], (first + second) / 2 if double_target else first)


@pytest.mark.parametrize("other", [(), ("word_dropout",), ({"kind": "embedding_dropout", "scope": "row"},)])
@pytest.mark.parametrize("double_target", [True, False])
@pytest.mark.parametrize("scale_by_length", [True, False])
@pytest.mark.parametrize("target", ["logits", "hidden"])
def test_the_penalty_is_the_weighted_mean_square_of_the_difference(target, scale_by_length, double_target, other):
    options = {"target": target, "scale_by_length": scale_by_length, "double_target": double_target}
    passes = Passes(*other, weight=0.7, **options)
    one, two = (made[2 if target == "logits" else 1] for made in passes.expected())
    total, count = 0.0, 0
    for a, b in zip(one.flatten().tolist(), two.flatten().tolist(), strict=True):
        total, count = total + (a - b) ** 2, count + 1
    length = passes.batch.targets_BT.shape[1] if scale_by_length else 1
    assert length == (6 if scale_by_length else 1)
    assert count == 6 * 16 * (24 if target == "logits" else 8)
    penalty = passes.actual()[1]
    assert_close(penalty.detach(), torch.tensor(0.7 * length * total / count, dtype=torch.float64))
    assert float(penalty.detach()) > 0


@pytest.mark.parametrize("target", ["logits", "hidden"])
def test_without_any_mask_both_passes_are_equal(target):
    passes = Passes(model=NO_DROPOUT, target=target)
    rec, penalty = passes.actual()
    assert float(penalty.detach()) == 0.0
    assert torch.equal(rec, passes.trial.model.reconstruct(passes.batch, passes.batch.history, passes.z)[:, 0])


@pytest.mark.parametrize("target", ["logits", "hidden"])
def test_the_penalty_is_symmetric_in_the_passes(target):
    decoding, decoder = FraternalReconstruction(FraternalDropout(target=target)), Passes().decoder
    difference = torch.randn(6, 16, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert torch.equal(decoding._mean_square(difference, decoder), decoding._mean_square(-difference, decoder))
    assert float(decoding._mean_square(difference, decoder).detach()) > 0


@pytest.mark.parametrize("target", ["logits", "hidden"])
def test_both_passes_contribute_to_the_gradients_of_z_and_the_decoder(target):
    """The gradient equals that of the definition, and each of its terms contributes."""
    passes = Passes(target=target, weight=0.7)
    parameters = [passes.z, *passes.decoder.parameters()]
    rec, penalty = passes.actual()
    actual = torch.autograd.grad(rec.mean() + penalty, parameters, materialize_grads=True)
    one, two = passes.expected()
    index = 2 if target == "logits" else 1
    penalty = 0.7 * 6 * (one[index] - two[index]).square().mean()
    shares = [
        torch.autograd.grad(term, parameters, retain_graph=True, materialize_grads=True)
        for term in (0.5 * one[0].mean(), 0.5 * two[0].mean(), penalty)
    ]
    for share in shares:
        assert bool((share[0] != 0).any())
    assert not torch.equal(shares[0][0], shares[1][0])
    for gradient, *terms in zip(actual, *shares, strict=True):
        torch.testing.assert_close(gradient, sum(terms), rtol=1e-9, atol=1e-11)


def test_the_same_word_mask_is_drawn_once():
    read = []
    for same in (False, True):
        passes = Passes("word_dropout", same_word_mask=same, model=NO_DROPOUT)
        hook = passes.decoder.reader.register_forward_pre_hook(lambda module, given: read.append(given[0].tokens_BT))
        _, penalty = passes.actual()
        hook.remove()
        assert (float(penalty.detach()) == 0.0) == same
    assert not torch.equal(read[0], read[1])
    assert torch.equal(read[2], read[3])


def test_more_than_one_sample_fails_an_assertion():
    passes = Passes()
    passes.z = passes.z.expand(-1, 2, -1)
    with pytest.raises(AssertionError, match="one sample per example"):
        passes.actual()


# --- in a trial ------------------------------------------------------------------------------------------------------


def test_it_changes_the_training_loss_but_not_evaluation():
    trials = [trial_of(tiny(fraternal(weight=weight))) for weight in (0.0, 0.5)]
    without, with_penalty = (trial.learner.loss(trial.train_batches[0], 1.0) for trial in trials)
    assert torch.equal(without.rec_B, with_penalty.rec_B)
    assert float(with_penalty.total.detach()) > float(without.total.detach())
    validations = []
    for trial in trials:
        trial.step, trial.history = 1, [torch.ones(4)]
        validations.append({k: v for k, v in trial.validate().values.items() if k.startswith("valid_")})
    assert validations[0] == validations[1]


@pytest.mark.parametrize("other", [SHORT_AGGRESSIVE, "kl_linear_epoch", {"kind": "contiguous_dropout", "rate": 0.5}])
def test_it_trains_with_other_strategies(other):
    assert run(tiny(fraternal(target="hidden"), other)).status == "finished"


# --- incompatibilities -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "others"),
    [
        (NO_DROPOUT, ()),
        ({"dropout_out": 0.0}, ({"kind": "embedding_dropout", "rate": 0.0},)),
        (NO_DROPOUT, ("kl_linear_epoch", "free_bits")),
    ],
)
def test_passes_that_cannot_differ_are_rejected(model, others):
    for stack in ((fraternal(), *others), (*others, fraternal())):
        with rejects("strategies") as issues:
            tiny(*stack, model=model)
        assert issues[0].code == "E11"
        assert "fraternal_dropout" in str(issues[0])


@pytest.mark.parametrize(
    ("dropout_in", "dropout_out", "in_blocks", "is_random"),
    [(0.0, 0.0, 0.0, False), (0.0, 0.5, 0.0, True), (0.0, 0.0, 0.5, True), (0.5, 0.0, 0.0, True)],
)
def test_every_dropout_of_a_convolutional_decoder_makes_the_passes_differ(
    dropout_in, dropout_out, in_blocks, is_random
):
    """cnn_decoder has dropout in its blocks in addition to the two dropout rates of the model."""
    stack = fraternal(), {"kind": "cnn_decoder", "size": "scnn", "dropout": in_blocks}
    model = {"dropout_in": dropout_in, "dropout_out": dropout_out}
    if not is_random:
        with rejects("strategies") as issues:
            tiny(*stack, model=model)
        assert issues[0].code == "E11"
        return
    trial = trial_of(tiny(*stack, model=model))
    trial.model.train()
    batch = trial.train_batches[0]
    z_BSZ = torch.zeros(batch.size, 1, trial.config.model.latent_dim)
    _, penalty = trial.components.decode(trial.learner, batch, z_BSZ)
    assert float(penalty.detach()) > 0


def test_passes_that_drop_the_same_words_and_nothing_else_are_rejected():
    for stack in ((fraternal(same_word_mask=True), "word_dropout"), ("word_dropout", fraternal(same_word_mask=True))):
        with rejects("strategies") as issues:
            tiny(*stack, model=NO_DROPOUT)
        assert issues[0].code == "E11"


@pytest.mark.parametrize(
    ("model", "others"),
    [
        ({"dropout_in": 0.0}, ()),
        ({"dropout_out": 0.0}, ()),
        (NO_DROPOUT, ("word_dropout",)),
        (NO_DROPOUT, ("contiguous_dropout",)),
        (NO_DROPOUT, ({"kind": "embedding_dropout", "rate": 0.2},)),
    ],
)
def test_any_mask_is_enough(model, others):
    tiny(fraternal(), *others, model=model)


def test_a_shared_word_mask_has_no_effect_if_no_words_are_dropped():
    with rejects("strategies") as issues:
        tiny(fraternal(same_word_mask=True))
    assert issues[0].code == "E18"
    assert "fraternal_dropout.same_word_mask" in str(issues[0])
    for stack in ((fraternal(same_word_mask=True), "word_dropout"), ("word_dropout", fraternal(same_word_mask=True))):
        tiny(*stack)


def test_it_is_rejected_on_images():
    config = tiny("fraternal_dropout")
    (incompatibility,) = config.strategies[0].incompatibilities(replace(config.context, data_kind="images"))
    assert incompatibility.code == "E09"
    assert "fraternal_dropout" in incompatibility.message
