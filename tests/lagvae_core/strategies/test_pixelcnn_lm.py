import itertools

import pytest
import torch
from helpers import run, tiny_images, trial_of

from lagvae_core.data import ImageDomain
from lagvae_core.evaluation.evaluate import evaluate
from lagvae_core.metrics.posterior import LATENT_COLUMNS
from lagvae_core.models.decoder import DecoderOptions
from lagvae_core.models.image_vae import DECODERS, ResNetPixelCnn
from lagvae_core.models.without_z import decoder_without_z
from lagvae_core.settings import EvaluationConfig
from lagvae_core.strategies.pixelcnn_lm import PixelCnnLm


def language_model(variant, height, width, **sizes):
    config = ResNetPixelCnn(variant=variant, **sizes)
    return decoder_without_z(config, ImageDomain(height, width), torch.Generator(), DecoderOptions())


def test_its_size_equals_v2_without_z():
    assert sum(p.numel() for p in language_model("v2", 28, 28).parameters()) == 778_368


@pytest.mark.parametrize("variant", DECODERS)
def test_the_probabilities_of_all_2_x_2_images_sum_to_one(variant):
    model = language_model(variant, 2, 2, kernels=(3, 3), maps=4).double().eval()
    images = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=torch.float64).view(-1, 2, 2)
    nll = model(images, images, torch.zeros(16, 1, 0).double()).detach()
    assert float((-nll).exp().sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("variant", DECODERS)
def test_a_vae_with_a_decoder_that_ignores_z_has_the_same_likelihood(variant):
    vae, lm = (trial_of(tiny_images(*stack, model={"variant": variant})) for stack in ((), ("pixelcnn_lm",)))
    weights = lm.model.decoder.state_dict()
    of_vae = vae.model.decoder.state_dict()
    with torch.no_grad():
        for name, value in of_vae.items():
            if name in weights:
                fits = tuple(slice(length) for length in weights[name].shape)
                value.zero_()[fits].copy_(weights[name])  # weights of the maps of z stay 0
        for parameter in vae.model.encoder.parameters():
            parameter.zero_()  # q = N(0, I)
    config, device = EvaluationConfig(iw_samples=20), torch.device("cpu")
    metrics, exact = (
        evaluate(trial.model.double(), trial.components, trial.dataset, trial.dataset.test, config, device)
        for trial in (vae, lm)
    )
    assert metrics["kl"] == 0
    for column in ("nll_iw", "nll_elbo", "rec", "bits_per_dim"):
        assert metrics[column] == pytest.approx(exact[column], abs=1e-9), column
    assert metrics["nll_iw"] != pytest.approx(0, abs=1)


def test_its_likelihood_is_exact_and_columns_about_z_are_null():
    record = run(tiny_images("pixelcnn_lm", evaluation={"limit": None}))
    metrics = record.metrics
    assert metrics["iw_k"] == 1
    assert metrics["nll_iw"] == pytest.approx(metrics["nll_elbo"], rel=1e-5)
    assert metrics["nll_iw_mc_se"] == 0
    of_z = {*LATENT_COLUMNS, "valid_kl", "valid_mi", "valid_au", "kl_weight", "kl_weight_final"}
    of_z |= {"iw_khat", "iw_unreliable"}
    assert all(metrics[column] is None for column in of_z)
    assert of_z == PixelCnnLm.unmeasured
    assert record.cost["encoder_steps"] == 0
    assert record.curve[-1]["train_loss"] < record.curve[0]["train_loss"]
