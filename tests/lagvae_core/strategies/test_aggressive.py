import contextlib
import itertools
import json
import math
import random
from types import SimpleNamespace

import pytest
import torch
from helpers import assert_equals_plain_vae, essence, rejects, run, run_interrupted, tiny, tiny_images, trial_of

from lagvae_core.data import Domain, TextDomain
from lagvae_core.errors import Diverged
from lagvae_core.strategies.aggressive import Aggressive
from lagvae_core.strategies.base import BuildContext
from lagvae_core.strategies.slots import Loss
from lagvae_core.training import learner as learners


def aggressive(**fields):
    return {"kind": "aggressive", **fields}


def copies(parameters):
    return [parameter.detach().clone() for parameter in parameters]


def unchanged(parameters, before):
    return [torch.equal(parameter, value) for parameter, value in zip(parameters, before, strict=True)]


class Pixels(Domain):
    unit = "pixel"

    def columns(self, nll, examples, units):
        return {}


DOMAINS = {"text": TextDomain(4), "images": Pixels()}


def update_of(modality="text", **fields):
    strategy = Aggressive(**fields)
    return strategy.build(BuildContext(2, 4, domain=DOMAINS[modality]))["update"]


def test_a_budget_of_zero_is_the_plain_vae():
    assert_equals_plain_vae(aggressive(budget=0))


def test_a_budget_of_zero_never_becomes_active():
    update = update_of(budget=0)
    update.after_epoch({"mi_batch": 1.0})
    assert not update.active


# --- updated parameters ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip_scope", ["all", "per_module"])
def test_the_inner_loop_updates_every_encoder_parameter_and_no_decoder_parameter(clip_scope):
    trial = trial_of(tiny(aggressive(budget=3, clip_scope=clip_scope)))
    trial.model.train()
    seen = []
    inner = trial.components.update._train_encoder

    def watched(learner, batch, weight):
        encoder, decoder = copies(trial.model.encoder_parameters()), copies(trial.model.decoder_parameters())
        inner(learner, batch, weight)
        assert not any(unchanged(trial.model.encoder_parameters(), encoder))
        assert all(unchanged(trial.model.decoder_parameters(), decoder))
        seen.append(copies(trial.model.encoder_parameters()))

    trial.components.update._train_encoder = watched
    decoder = copies(trial.model.decoder_parameters())
    trial.components.update(trial.learner, trial.train_batches[0], 1.0)
    assert all(unchanged(trial.model.encoder_parameters(), seen[0])), "the outer step updated the encoder"
    assert not any(unchanged(trial.model.decoder_parameters(), decoder))


def test_after_the_phase_both_are_updated_once():
    trial = trial_of(tiny(aggressive(budget=3)))
    trial.model.train()
    trial.components.update.active = False
    encoder, decoder = copies(trial.model.encoder_parameters()), copies(trial.model.decoder_parameters())
    trial.components.update(trial.learner, trial.train_batches[0], 1.0)
    assert not any(unchanged(trial.model.encoder_parameters(), encoder))
    assert not any(unchanged(trial.model.decoder_parameters(), decoder))
    assert (trial.learner.encoder_steps, trial.learner.decoder_steps) == (1, 1)


@pytest.mark.parametrize("budget", [1, 4, 15, 30])
def test_a_fixed_budget_is_exactly_that_many_encoder_steps(budget):
    trial = trial_of(tiny(aggressive(budget=budget)))
    trial.model.train()
    for step, batch in enumerate(trial.train_batches[:2], 1):
        trial.components.update(trial.learner, batch, 1.0)
        assert (trial.learner.encoder_steps, trial.learner.decoder_steps) == (step * budget, step)


def gradients_seen_when_clipping(monkeypatch, clip_scope):
    """For each clipped group of inner and outer steps: (in the decoder, has a gradient) of its parameters."""
    trial = trial_of(tiny(aggressive(budget=2, clip_scope=clip_scope)))
    trial.model.train()
    decoder = {id(p) for p in trial.model.decoder_parameters()}
    seen, clip = [], learners.clip_grad_norm_

    def spy(parameters, limit, **options):
        seen.append({(id(p) in decoder, p.grad is not None) for p in parameters})
        clip(parameters, limit, **options)

    monkeypatch.setattr(learners, "clip_grad_norm_", spy)
    trial.components.update(trial.learner, trial.train_batches[0], 1.0)
    assert all(p.requires_grad for p in trial.model.parameters())
    return seen


def test_per_module_clipping_computes_no_gradient_for_the_decoder_in_the_inner_loop(monkeypatch):
    encoder, no_decoder = {(False, True)}, {(True, False)}
    inner, outer = [encoder, no_decoder], [{(False, True), (True, True)}]
    assert gradients_seen_when_clipping(monkeypatch, "per_module") == inner + inner + outer


def test_joint_clipping_computes_the_gradients_of_both(monkeypatch):
    both = {(False, True), (True, True)}
    assert gradients_seen_when_clipping(monkeypatch, "all") == [both] * 3


def test_the_decoder_is_trainable_after_an_error_in_the_inner_loop():
    trial = trial_of(tiny(aggressive()))
    with pytest.raises(ZeroDivisionError), trial.learner.inner_loop(decoder_gradients=False):
        raise ZeroDivisionError
    assert all(p.requires_grad for p in trial.model.parameters())


def encoder_step_length(clip_scope):
    trial = trial_of(tiny(aggressive(budget=1, clip_scope=clip_scope), training={"clip_norm": 0.01}))
    trial.model.train()
    before = copies(trial.model.encoder_parameters())
    trial.components.update(trial.learner, trial.train_batches[0], 1.0)
    steps = [p.detach() - b for p, b in zip(trial.model.encoder_parameters(), before, strict=True)]
    return math.sqrt(sum(float(step.square().sum()) for step in steps))


def test_the_joint_norm_shortens_the_step_of_the_encoder():
    assert encoder_step_length("per_module") == pytest.approx(0.01, rel=1e-3)
    assert encoder_step_length("all") < 0.009


def test_the_weight_and_the_update_count_advance_once_per_outer_step():
    trial = trial_of(tiny(aggressive(budget=3), {"kind": "kl_linear_epoch", "warm_up": 1.0, "w_start": 0.0}))
    trial.model.train()
    weights, loss = [], trial.learner.loss

    def spy(batch, weight):
        weights.append(weight)
        return loss(batch, weight)

    trial.learner.loss = spy
    for step, batch in enumerate(trial.train_batches):
        assert trial.step == step
        trial.train_batch(batch)
    assert trial.step == 4
    assert weights == [w for w in (0.25, 0.5, 0.75, 1.0) for _ in range(4)]


# --- the end of the inner loop ---------------------------------------------------------------------------------------


class ScriptedLearner:
    """A learner with given losses and random batches, which counts the steps."""

    def __init__(self, losses, batches):
        self.losses, self.batches = iter(losses), iter(batches)
        self.encoder_steps = self.decoder_steps = 0

    def inner_loop(self, *, decoder_gradients):
        return contextlib.nullcontext()

    def loss(self, batch, weight):
        total = torch.tensor(next(self.losses), dtype=torch.float64)
        return Loss(total, total[None], total[None, None])

    def descend(self, loss, *, encoder, decoder, clip_scope=None):
        self.encoder_steps += encoder
        self.decoder_steps += decoder

    def random_batch(self):
        return next(self.batches)


def batch_of(size, words):
    return SimpleNamespace(size=size, units=size * words)


def inner_steps(losses, batches=None, **fields):
    batches = batches or [batch_of(1, 1)]
    learner = ScriptedLearner(losses, itertools.chain(batches[1:], itertools.repeat(batches[-1])))
    update_of(**fields)(learner, batches[0], 1.0)
    assert learner.decoder_steps == 1
    return learner.encoder_steps


def steps_of_the_published_loop(losses, batches, check, max_inner):
    step, previous, current, words = 1, 1e4, 0.0, 0
    while step < max_inner:
        batch = batches[min(step - 1, len(batches) - 1)]
        current += losses[step - 1] * batch.size
        words += batch.units
        if step % check == 0:
            if previous - current / words < 0:
                return step
            previous, current, words = current / words, 0.0, 0
        step += 1
    return max_inner - 1


def test_it_ends_after_the_first_window_with_a_higher_mean():
    falling, rising = [3.0] * 4 + [2.0] * 4, [2.5] * 4
    assert inner_steps(falling + rising + [0.0] * 90, check=4) == 12
    assert inner_steps([1.0] * 4 + [2.0] * 4 + [0.0] * 90, check=4) == 8


def test_equal_windows_do_not_end_it():
    assert inner_steps([1.0] * 200, check=4, max_inner=50) == 49


@pytest.mark.parametrize(("modality", "check"), [("text", 15), ("images", 10)])
def test_the_default_window_is_the_one_of_the_published_code(modality, check):
    losses = [1.0] * check + [2.0] * 200
    assert inner_steps(losses, modality=modality) == 2 * check


def test_the_mean_is_over_words_not_over_batches():
    short, long = batch_of(8, 2), batch_of(8, 20)
    losses = [4.0, 4.0, 20.0, 20.0] + [0.0] * 90
    assert inner_steps(losses, [short, short, long, long, long], check=2, max_inner=9) == 8
    assert inner_steps(losses, [short] * 5, check=2, max_inner=9) == 4


@pytest.mark.parametrize("seed", range(20))
def test_it_takes_the_same_steps_as_the_published_loop(seed):
    draw = random.Random(seed)
    check, max_inner = draw.randint(1, 9), draw.randint(20, 60)
    batches = [batch_of(draw.randint(1, 5), draw.randint(1, 7)) for _ in range(max_inner + 1)]
    fall = draw.uniform(0.0, 0.3)
    losses = [10.0 - fall * step + draw.gauss(0, 0.3) for step in range(max_inner + 1)]
    losses = [loss * batch.units / batch.size for loss, batch in zip(losses, batches, strict=True)]
    steps = inner_steps(losses, batches, check=check, max_inner=max_inner)
    assert steps == steps_of_the_published_loop(losses, batches, check, max_inner)
    assert 2 * check <= steps <= max_inner - 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_it_as_diverged(value):
    with pytest.raises(Diverged, match=f"the loss of the inner loop is {value} after 4 encoder steps at update 1"):
        inner_steps([1.0, 1.0, value] + [1.0] * 90, check=2)


# --- the end of the phase --------------------------------------------------------------------------------------------

PHASES = [
    ("text", 0.0, [0.1, 0.2, 0.2, 0.19, 0.5], [True, True, True, False, False]),
    ("text", 0.0, [-0.001, 1.0], [False, False]),
    ("text", 0.01, [-0.001, 0.0, -0.009, -0.02], [True, True, True, False]),
    ("paper", 0.0, [0.1, 0.2, 0.2, 0.3], [True, True, False, False]),
    ("paper", 0.0, [0.0, 0.3], [False, False]),
    ("image", 0.0, [1.0, 0.9, 0.8, 1.1, 1.0, 1.1, 0.9, 1.05], [True] * 7 + [False]),
    ("image", 0.15, [1.0, 0.9, 0.8, 0.8, 0.8, 0.8, 0.8], [True] * 6 + [False]),
]


@pytest.mark.parametrize(("rule", "tolerance", "information", "active"), PHASES)
def test_the_phase_ends_by_its_rule_permanently(rule, tolerance, information, active):
    update = update_of(mi_stop=rule, mi_tol=tolerance)
    seen = []
    for mi in [*information, 100.0]:
        update.after_epoch({"mi_batch": mi})
        seen.append(update.active)
    assert seen == [*active, False]


@pytest.mark.parametrize(("modality", "rule"), [("text", "text"), ("images", "image")])
def test_the_automatic_rule_depends_on_the_modality(modality, rule):
    automatic, named = update_of(modality), update_of(modality, mi_stop=rule)
    for mi in [0.5, 0.6, 0.55, 0.3, 0.3, 0.3, 0.3]:
        automatic.after_epoch({"mi_batch": mi})
        named.after_epoch({"mi_batch": mi})
        assert automatic.state_dict() == named.state_dict()


@pytest.mark.parametrize(("rule", "tolerance", "information", "active"), PHASES)
def test_a_restored_phase_ends_at_the_same_epoch(rule, tolerance, information, active):
    update = update_of(mi_stop=rule, mi_tol=tolerance)
    seen = []
    for mi in information:
        fresh = update_of(mi_stop=rule, mi_tol=tolerance)
        fresh.load_state_dict(json.loads(json.dumps(update.state_dict())))
        update = fresh
        update.after_epoch({"mi_batch": mi})
        seen.append(update.active)
    assert seen == active


# --- examples of inner steps -----------------------------------------------------------------------------------------


def test_fresh_inner_batches_mix_examples_of_all_batches_without_replacement():
    config = tiny_images(aggressive(budget=3, inner_batches="fresh"), data={"binarisation": "fixed"})
    trial = trial_of(config)
    stored = {
        int(index): batch.pixels_BHW[row] for batch in trial.train_batches for row, index in enumerate(batch.index_B)
    }
    drawn = [trial.learner.random_examples(16) for _ in range(4)]
    for batch in drawn:
        assert len(set(batch.index_B.tolist())) == batch.size == 16
        assert all(torch.equal(batch.pixels_BHW[row], stored[int(index)]) for row, index in enumerate(batch.index_B))
    sets = [frozenset(batch.index_B.tolist()) for batch in drawn]
    assert not set(sets) & {frozenset(batch.index_B.tolist()) for batch in trial.train_batches}
    assert len(set(sets)) == 4


def test_fresh_grey_examples_are_binarised_again():
    trial = trial_of(tiny_images(aggressive(budget=3, inner_batches="fresh")))
    every = len(trial.dataset.train)
    one, other = (trial.learner.random_examples(every) for _ in range(2))
    pairs = zip((one.index_B.argsort(), other.index_B.argsort()), (one, other), strict=True)
    first, second = (batch.pixels_BHW[order] for order, batch in pairs)
    assert not torch.equal(first, second)


def test_fresh_inner_batches_resume_bit_for_bit():
    config = tiny_images(aggressive(budget=2, inner_batches="fresh"), training={"epochs": 2})
    assert essence(run_interrupted(config)[0]) == essence(run(config))


def test_fresh_inner_batches_are_for_examples_of_one_shape():
    with rejects("strategies") as issues:
        tiny(aggressive(inner_batches="fresh"))
    assert issues[0].code == "E09"


def settled(information, **fields):
    config = tiny({"kind": "aggressive", **fields}, training={"epochs": 9})
    curve = [
        {"epoch": n, "step": 4 * n, "skipped_batches": 0, "valid_mi_batch": mi} for n, mi in enumerate(information, 1)
    ]
    return config.settled_epoch(curve)


def test_it_settles_in_the_epoch_after_its_phase():
    assert settled([]) == 10, "unknown before the phase has ended"
    assert settled([1.0, 2.0]) == 10
    assert settled([1.0, 2.0, 1.5]) == settled([1.0, 2.0, 1.5, 3.0, 4.0]) == 4
    assert settled([1.0, 2.0, 1.5], mi_tol=0.6) == 10
    assert settled([], budget=0) == 1


def test_the_epoch_in_which_it_settles_is_the_first_without_inner_steps():
    config = tiny("aggressive", training={"epochs": 6})
    curve = [epoch.values for epoch in run(config).curve]
    steps = [after["encoder_steps"] - before["encoder_steps"] for before, after in itertools.pairwise(curve)]
    plain = [number for number, count in enumerate(steps, 2) if count == curve[0]["decoder_steps"]]
    assert config.settled_epoch(curve) == min(plain, default=7)


def test_the_epochs_of_pretraining_are_counted():
    config = tiny("aggressive", {"kind": "ae_pretrain", "epochs": 2}, training={"epochs": 9})
    curve = [
        {"epoch": n, "step": 4 * n, "skipped_batches": 0, "valid_mi_batch": mi}
        for n, mi in enumerate((9.0, 0.0, 1.0, 2.0, 1.0), 1)
    ]
    assert [config.settled_epoch(curve[:n]) for n in range(6)] == [12, 12, 12, 12, 12, 6]
