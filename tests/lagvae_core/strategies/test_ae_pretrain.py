from dataclasses import replace

import pytest
import torch
from helpers import (
    SHORT_AGGRESSIVE,
    InterruptionError,
    MemoryCheckpoint,
    assert_equals_plain_vae,
    essence,
    run,
    run_interrupted,
    tiny,
    trial_of,
)
from torch import nn

from lagvae_core.models.gaussian import NormalPrior
from lagvae_core.strategies.base import assemble
from lagvae_core.strategies.slots import Objective, Penalty, ReconstructionLoss, Update, no_refinement
from lagvae_core.training import building
from lagvae_core.training.building import build_decoder
from lagvae_core.training.record import EpochRecord, Progress

PAPER_STACK = ({"kind": "free_bits", "mode": "dim_sample"}, {"kind": "kl_linear_epoch", "w_start": 0.0, "warm_up": 2})


def ae_pretrain(epochs=2):
    return {"kind": "ae_pretrain", "epochs": epochs}


def copied(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(value, other[name]) for name, value in one.items())


class Boundary:
    """A trial around the end of its last pretraining epoch; `before` and `after` are its weights."""

    def __init__(self, *others, epochs=2, seed=0, **sections):
        self.trial = trial_of(tiny(ae_pretrain(epochs), *others, seed=seed, **sections))
        self.first = copied(self.trial.model)
        for epoch in range(epochs):
            list(self.trial.updates())
            record = self.trial.validate()
            self.before = copied(self.trial.model)
            assert self.trial.epoch == epoch
            self.trial.end_epoch(record)
        self.after = copied(self.trial.model)

    def kept(self, part):
        """For each tensor of `part`, whether it is the same before and after."""
        named = [name for name in self.before if name.startswith(part)]
        assert named
        return [torch.equal(self.before[name], self.after[name]) for name in named]


# --- no pretraining --------------------------------------------------------------------------------------------------


def test_no_epochs_are_the_plain_vae():
    assert_equals_plain_vae(ae_pretrain(0))
    record, plain = (essence(run(tiny(*stack))) for stack in ((ae_pretrain(0),), ()))
    for name in ("metrics", "curve", "stop_reason", "cost"):
        assert record[name] == plain[name]


# --- the boundary ----------------------------------------------------------------------------------------------------


def test_the_encoder_is_kept_and_the_decoder_is_reset():
    boundary = Boundary()
    assert all(boundary.kept("encoder"))
    assert not any(boundary.kept("decoder"))
    assert not any(torch.equal(boundary.after[n], boundary.first[n]) for n in boundary.after)
    for name, value in boundary.after.items():
        if name.startswith("decoder"):
            bound = 0.1 if "embedding" in name else 0.3
            assert 0.5 * bound < float(value.abs().max()) <= bound, name
    trial = boundary.trial
    with trial.streams.initialising("second decoder"):  # a stream that nothing else has drawn from
        fresh = build_decoder(trial.config, trial.dataset.domain, trial.components, trial.streams)
    assert equal(trial.model.decoder.state_dict(), fresh.state_dict())
    again, other = Boundary(), Boundary(seed=1)
    assert equal(again.after, boundary.after)
    assert not any(torch.equal(other.after[n], boundary.after[n]) for n in boundary.after)


def test_the_reset_of_the_decoder_uses_the_initialisation_of_the_stack():
    boundary = Boundary("offset_init")
    values = torch.cat([v.flatten() for n, v in boundary.after.items() if n.startswith("decoder") and "emb" not in n])
    assert float(values.min()) >= 0.04
    assert float(values.max()) <= 0.06


def test_the_parameters_of_the_posterior_are_kept_with_the_encoder():
    boundary = Boundary("bn_vae")
    assert all(boundary.kept("posterior"))
    assert int(boundary.trial.model.posterior.normalise.count) == 8
    assert float(boundary.trial.model.posterior.beta.detach().abs().min()) > 0


class LearnedPrior(NormalPrior):
    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(2))

    def kl(self, q, draw):
        return super().kl(q, draw) + (q.mean_BZ - self.shift).square()


class LearnedPenalty(Penalty):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(2))

    def forward(self, forward):
        return (self.factor * forward.draw.z_BSZ).square().mean()


def test_a_prior_and_auxiliary_networks_are_trained_in_the_trial_proper_only(monkeypatch):
    def with_networks(strategies, context):
        return replace(assemble(strategies, context), prior=LearnedPrior(), penalties=(LearnedPenalty(),))

    monkeypatch.setattr(building, "assemble", with_networks)
    boundary = Boundary(training={"epochs": 2, "optimiser": "adam"})
    for name in ("prior.shift", "auxiliaries.0.factor"):
        assert torch.equal(boundary.after[name], boundary.first[name])
    list(boundary.trial.updates())
    for name in ("prior.shift", "auxiliaries.0.factor"):
        assert not torch.equal(boundary.trial.model.state_dict()[name], boundary.first[name])


def test_the_schedule_of_the_posterior_starts_again():
    """Scale-VAE keeps the factor of the encoder, and is in its first epoch."""
    boundary = Boundary({"kind": "scale_vae", "f_epo": 2})
    fresh = trial_of(tiny("scale_vae")).model.posterior.progress()
    progress = boundary.trial.model.posterior.progress()
    assert (progress["epoch"], progress["count"]) == (fresh["epoch"], fresh["count"]) == (1, 0)
    assert torch.equal(progress["sum"], fresh["sum"])
    assert all(boundary.kept("posterior.f_bar"))
    assert not torch.equal(boundary.after["posterior.f_bar"], torch.ones(2))


@pytest.mark.parametrize(
    ("other", "slot"),
    [("mdr", "objective"), ("soft_free_bits", "objective"), (SHORT_AGGRESSIVE, "update")],
)
def test_the_state_of_other_slots_is_independent_of_the_pretraining(other, slot):
    boundary = Boundary(other)
    fresh = trial_of(tiny(other))
    state, expected = (getattr(trial.components, slot).state_dict() for trial in (boundary.trial, fresh))
    assert str(state) == str(expected)


def test_optimisers_learning_rate_and_divergence_rules_are_reset():
    training = {"optimiser": "adam", "learning_rate": 0.01}
    trial = Boundary(training=training).trial
    state = trial.learner.state_dict()
    assert state["encoder_optimiser"]["state"] == state["decoder_optimiser"]["state"] == {}
    assert state["learning_rate"] == 0.01
    fresh = trial_of(tiny(training=training))
    assert trial.decay == fresh.decay
    assert trial.divergence == fresh.divergence
    assert trial.best == fresh.best
    assert trial.learner.components is trial.components


def test_pretraining_replaces_only_the_components_of_the_loss_and_the_update():
    stack = ("aggressive", "word_dropout", "fraternal_dropout", "encoder_lr", "scale_vae", "kl_linear_epoch")
    stack = ({**SHORT_AGGRESSIVE, "allow_untested": True}, *stack[1:])
    trial = trial_of(tiny(ae_pretrain(1), *stack))
    early, late = trial.learner.components, trial.components.pretraining.in_force(trial.components, 1)
    assert late is trial.components
    assert type(early.update) is Update
    assert type(early.decode) is ReconstructionLoss
    assert early.penalties == ()
    assert early.refine is no_refinement
    assert type(early.objective) is not Objective
    assert [early.kl_weight(step) for step in range(3)] == [0.0, 0.0, 0.0]
    for slot in ("corrupt", "encoder_rate", "posterior", "prior", "initialise", "extra_metrics", "input_dropout"):
        assert getattr(early, slot) is getattr(late, slot)


# --- both stages -----------------------------------------------------------------------------------------------------


def test_the_loss_is_first_the_reconstruction_and_then_the_loss_of_the_stack():
    curve = run(tiny(ae_pretrain(2), *PAPER_STACK, training={"epochs": 3})).curve
    for epoch in curve[:2]:
        assert epoch["train_loss"] == epoch["train_rec"]
        assert epoch["kl_weight"] == 0.0
    plain = run(tiny(*PAPER_STACK, training={"epochs": 3})).curve
    assert [epoch["kl_weight"] for epoch in curve[2:]] == [epoch["kl_weight"] for epoch in plain] == [0.5, 1.0, 1.0]
    assert curve[3]["train_loss"] > curve[3]["train_rec"]


def test_the_autoencoder_has_the_gradient_of_the_reconstruction_alone():
    gradients = []
    for term in (lambda loss: loss.total, lambda loss: loss.rec_B.mean()):
        trial = trial_of(tiny(ae_pretrain(1), "mdr"))
        trial.model.double().train()
        loss = trial.learner.loss(trial.train_batches[0], 1.0)
        gradients.append(torch.autograd.grad(term(loss), list(trial.model.encoder_parameters())))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_epochs_updates_and_steps_count_both_stages():
    config, places = tiny(ae_pretrain(2), *PAPER_STACK, training={"epochs": 3}), []
    record = run(config, progress=places.append)
    assert config.epochs == record.metrics["epochs"] == 5
    assert [epoch.epoch for epoch in record.curve] == [1, 2, 3, 4, 5]
    assert [epoch["step"] for epoch in record.curve] == [4, 8, 12, 16, 20]
    assert record.cost["encoder_steps"] == record.cost["decoder_steps"] == 20
    assert record.stop_reason == "all 3 epochs are trained, after 2 epochs of pretraining."
    assert [p for p in places if p.phase == "train"] == [
        Progress("train", epoch, done, 4) for epoch in range(1, 6) for done in range(1, 5)
    ]
    assert tiny(training={"epochs": 3}).epochs == 3


def test_the_best_weights_come_from_the_trial_proper_even_if_the_pretraining_had_a_lower_loss():
    trial = trial_of(tiny(ae_pretrain(2), training={"epochs": 3}))
    weights = {}
    for epoch, loss in enumerate((2.0, 1.0, 9.0, 8.0, 8.5), start=1):
        list(trial.updates())
        weights[epoch] = copied(trial.model)
        trial.end_epoch(EpochRecord({"epoch": epoch, "valid_loss": loss, "valid_mi_batch": 0.0}))
    assert (trial.best.epoch, trial.best.valid_loss) == (4, 8.0)
    assert equal(trial.best.weights, weights[4])
    assert trial.stop_reason.startswith("all 3 epochs")


def rates(config, losses):
    """The learning rate of every epoch for these validation losses, and the stop reason."""
    trial, learning_rates = trial_of(config), []
    for epoch, loss in enumerate(losses, start=1):
        learning_rates.append(trial.learner.learning_rate)
        trial.end_epoch(EpochRecord({"epoch": epoch, "valid_loss": loss, "valid_mi_batch": 0.0}))
        if trial.stop_reason:
            break
    return learning_rates, trial.stop_reason


@pytest.mark.parametrize("first", [0, 5])
def test_the_learning_rate_decays_only_in_the_trial_proper_and_by_its_epochs(first):
    training = {"epochs": 12, "learning_rate": 8.0, "decay_patience": 1, "decay_min_epoch": first, "max_decays": 3}
    worse = [5.0 + epoch for epoch in range(12)]
    plain, reason = rates(tiny(training=training), worse)
    assert plain[:first] == [8.0] * first
    assert plain[-1] == 8.0 / 4
    assert "decay number 3" in reason
    assert rates(tiny(ae_pretrain(6), training=training), worse[:6] + worse) == ([8.0] * 6 + plain, reason)


def test_a_large_kl_counts_as_divergence_only_in_the_trial_proper():
    record = run(tiny(ae_pretrain(3), training={"kl_explode": 1e-9, "epochs": 5}))
    assert record.status == "diverged"
    assert "after epoch 5, above training.kl_explode" in record.stop_reason
    assert [epoch.epoch for epoch in record.curve] == [1, 2, 3, 4]


# --- interruptions ---------------------------------------------------------------------------------------------------

STACKS = {
    "paper": PAPER_STACK,
    "aggressive": (SHORT_AGGRESSIVE,),
    "scale_vae": ({"kind": "scale_vae", "f_epo": 2}, "word_dropout"),
    "du_vae": ({"kind": "du_vae", "min_batch": 2}, "kl_linear_epoch"),
}


@pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS.keys())
def test_interruptions_at_every_update_of_both_stages_do_not_change_the_record(stack):
    config = tiny(ae_pretrain(2), *stack, training={"epochs": 2, "momentum": 0.5})
    expected = run(config)
    assert expected.status == "finished"
    record, places = run_interrupted(config)
    assert {(p.epoch, p.done) for p in places if p.phase == "train"} == {
        (e, d) for e in range(1, 5) for d in range(1, 5)
    }
    assert essence(record) == essence(expected)


def test_interruptions_with_rare_checkpoints_do_not_change_the_record():
    """The last checkpoint is a few updates old, once on the other side of the boundary."""
    config, store, seen = tiny(ae_pretrain(2), *PAPER_STACK), MemoryCheckpoint(), []
    expected, save, saves = run(config), store.save, []

    def every_third(content):
        saves.append(content)
        if len(saves) % 3 == 1:
            save(content)

    def interrupt(place):
        here = (place.phase, place.epoch, place.done)
        if here in {("train", 1, 2), ("train", 2, 4), ("train", 3, 1), ("train", 4, 3)} and here not in seen:
            seen.append(here)
            raise InterruptionError

    store.save, record = every_third, None
    while record is None:
        try:
            record = run(config, checkpoint=store, checkpoint_seconds=0.0, progress=interrupt)
        except InterruptionError:
            continue
    assert len(seen) == 4
    assert essence(record) == essence(expected)


def test_an_interruption_in_a_report_does_not_change_the_record():
    config, store, seen = tiny(ae_pretrain(2), *PAPER_STACK), MemoryCheckpoint(), set()

    def report(epoch):
        if epoch.epoch not in seen:
            seen.add(epoch.epoch)
            raise InterruptionError

    record = None
    while record is None:
        try:
            record = run(config, checkpoint=store, checkpoint_seconds=0.0, report=report)
        except InterruptionError:
            continue
    assert seen == {1, 2, 3, 4}
    assert essence(record) == essence(run(config))


def test_the_scheduler_can_stop_the_trial_in_the_pretraining():
    record = run(tiny(ae_pretrain(2)), report=lambda epoch: "stop")
    assert (record.status, record.metrics, len(record.curve)) == ("stopped_early", {}, 1)
