"""The study `latent_plane`."""

import pytest
import torch
from helpers import dataset_of, tiny, tiny_images, trained_of

from lagvae_core.studies.latent_plane import LatentPlane, scatter_ratio

SMALL = {"examples": 20, "followed": 6, "contexts": 4}


def measure(trained, **options):
    return LatentPlane(**{**SMALL, **options}).measure(trained, lambda *place: None)


def test_the_scatter_of_two_groups_agrees_with_a_calculation_by_hand():
    points = torch.tensor([[0.0, 0.0], [2.0, 0.0], [10.0, 4.0], [10.0, 6.0]], dtype=torch.float64)
    # centres (1, 0) and (10, 5), overall (5.5, 2.5): between groups 2 * 2 * (20.25 + 6.25), within groups 4 * 1
    assert scatter_ratio(points, ("a", "a", "b", "b")) == pytest.approx(106.0 / 4.0, rel=1e-12)
    assert scatter_ratio(points[[0, 0, 1, 1]], ("a", "a", "b", "b")) is None
    assert scatter_ratio(points, ("a", "a", "a", "a")) == 0.0


def test_without_batch_statistics_a_mean_does_not_depend_on_its_batch():
    assert measure(trained_of(tiny())).values["plane_context_sd"] == pytest.approx(0.0, abs=1e-6)


def test_with_batch_normalisation_a_mean_depends_on_its_batch_and_the_model_stays_unchanged():
    trained = trained_of(tiny({"kind": "bn_vae", "gamma": 0.6}, evaluation={"limit": None}))
    before = {name: value.clone() for name, value in trained.model.state_dict().items()}
    findings = measure(trained, examples=32)
    assert 0.01 < findings.values["plane_context_sd"] < 0.6
    assert all(torch.equal(value, before[name]) for name, value in trained.model.state_dict().items())
    assert not trained.model.training
    assert measure(trained, examples=32) == findings


def test_the_table_holds_the_two_dimensions_that_vary_most():
    trained = trained_of(tiny({"kind": "bn_vae", "gamma": 0.6}, model={"latent_dim": 3}))
    findings = measure(trained)
    means = trained.means(trained.split.limit(20))
    order = means.var(0).argsort(descending=True)
    assert findings.tables["means"]["x"] == means[:, order[0]].tolist()
    assert findings.tables["means"]["y"] == means[:, order[1]].tolist()
    assert findings.tables["means"]["label"] == list(trained.split.limit(20).labels)


def test_a_single_dimension_lies_on_the_axis():
    findings = measure(trained_of(tiny(model={"latent_dim": 1})))
    assert set(findings.tables["means"]["y"]) == {0.0}


def test_the_effect_of_batches_is_not_measured_for_images():
    findings = measure(trained_of(tiny_images()))
    assert findings.values["plane_context_sd"] is None
    assert findings.values["plane_scatter"] is not None


def test_a_model_without_z_is_refused():
    config = tiny("lstm_lm")
    assert [issue.where for issue in LatentPlane().issues(config, dataset_of(config.data))] == ["latent_plane"]
