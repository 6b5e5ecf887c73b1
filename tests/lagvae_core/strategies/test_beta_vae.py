import pytest
import torch
from helpers import assert_equals_plain_vae, tiny, trial_of


def beta_vae(beta):
    return {"kind": "beta_vae", "beta": beta}


def test_a_factor_of_one_is_the_plain_vae():
    assert_equals_plain_vae(beta_vae(1))


TERMS = (
    lambda loss: loss.total,
    lambda loss: loss.rec_B.mean(),
    lambda loss: loss.kl_BZ.sum(1).mean(),
)


def gradients(beta, weight):
    """The gradients of the objective, the mean reconstruction and the mean KL, in float64."""
    results = []
    for term in TERMS:
        trial = trial_of(tiny(beta_vae(beta)))
        trial.model.double().train()
        loss = trial.learner.loss(trial.train_batches[0], weight)
        parameters = [*trial.model.encoder_parameters(), *trial.model.decoder_parameters()]
        results.append(torch.autograd.grad(term(loss), parameters, materialize_grads=True))
    return results


@pytest.mark.parametrize("beta", [0.0, 0.2, 0.4, 1.0, 3.0])
@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_the_gradient_is_the_reconstructions_plus_beta_times_the_kls(beta, weight):
    objective, rec, kl = gradients(beta, weight)
    assert any(float(g.abs().max()) > 1e-3 for g in kl)
    for of_objective, of_rec, of_kl in zip(objective, rec, kl, strict=True):
        torch.testing.assert_close(of_objective, of_rec + weight * beta * of_kl, rtol=1e-9, atol=1e-12)


def test_at_a_factor_of_zero_the_kl_has_no_gradient():
    objective, rec, _ = gradients(0.0, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(objective, rec, strict=True))


def test_the_objective_is_the_mean_over_the_batch_of_the_sum_over_dimensions():
    objective = trial_of(tiny(beta_vae(0.5))).components.objective
    rec_B, kl_BZ = torch.tensor([10.0, 20.0]), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert float(objective(rec_B, kl_BZ, 1.0)) == 15.0 + 0.5 * 5.0
    assert float(objective(rec_B, kl_BZ, 0.1)) == pytest.approx(15.0 + 0.05 * 5.0)
