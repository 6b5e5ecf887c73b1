"""Posterior means in the plane."""

import pytest
import torch
from helpers import tiny, tiny_images, trained_of

from lagvae_core.errors import ConfigError
from lagvae_core.studies.latent_plane import LatentPlane, scatter_ratio

SMALL = {"examples": 20, "followed": 6, "contexts": 4}


def measure(trained, **options):
    return LatentPlane(**{**SMALL, **options}).measure(trained, lambda *told: None)


def test_the_scatter_of_two_groups_by_hand():
    points = torch.tensor([[0.0, 0.0], [2.0, 0.0], [10.0, 4.0], [10.0, 6.0]], dtype=torch.float64)
    # centres (1, 0) and (10, 5), of all (5.5, 2.5): 2 * (20.25 + 6.25) * 2 between, 1 * 4 within
    assert scatter_ratio(points, ("a", "a", "b", "b")) == pytest.approx(106.0 / 4.0, rel=1e-12)
    assert scatter_ratio(points[[0, 0, 1, 1]], ("a", "a", "b", "b")) is None
    assert scatter_ratio(points, ("a", "a", "a", "a")) == 0.0


def test_a_mean_without_statistics_of_a_batch_does_not_depend_on_it():
    assert measure(trained_of(tiny())).values["plane_context_sd"] == pytest.approx(0.0, abs=1e-6)


def test_a_mean_that_is_normalised_by_its_batch_does():
    trained = trained_of(tiny({"kind": "bn_vae", "gamma": 0.6}, evaluation={"limit": None}))
    before = {name: value.clone() for name, value in trained.model.state_dict().items()}
    found = measure(trained, examples=32)
    assert 0.01 < found.values["plane_context_sd"] < 0.6
    assert all(torch.equal(value, before[name]) for name, value in trained.model.state_dict().items())
    assert not trained.model.training
    assert measure(trained, examples=32) == found


def test_the_table_holds_the_two_dimensions_that_vary_most():
    trained = trained_of(tiny({"kind": "bn_vae", "gamma": 0.6}, model={"latent_dim": 3}))
    found = measure(trained)
    means = trained.means(trained.split.limit(20))
    order = means.var(0).argsort(descending=True)
    assert found.tables["means"]["x"] == means[:, order[0]].tolist()
    assert found.tables["means"]["y"] == means[:, order[1]].tolist()
    assert found.tables["means"]["label"] == list(trained.split.limit(20).labels)


def test_one_dimension_lies_on_the_axis():
    found = measure(trained_of(tiny(model={"latent_dim": 1})))
    assert set(found.tables["means"]["y"]) == {0.0}


def test_of_images_the_context_is_not_measured():
    found = measure(trained_of(tiny_images()))
    assert found.values["plane_context_sd"] is None
    assert found.values["plane_scatter"] is not None


def test_a_model_without_z_is_refused():
    trained = trained_of(tiny("lstm_lm"))
    with pytest.raises(ConfigError, match="without z"):
        LatentPlane().require(trained.config, trained.dataset)
