"""The study `tsne`."""

import numpy as np
import pytest
import torch
from helpers import dataset_of, tiny

from lagvae_core.studies.trained_model import TrainedModel
from lagvae_core.studies.tsne import Tsne, _start


def quiet(phase, done, total):
    assert 0 <= done <= total


def with_means(means_NZ, heldout=60):
    """Return a model with the given posterior means of the test split."""
    config = tiny(data={"heldout": heldout}, evaluation={"limit": None})
    model = TrainedModel.untrained(config, dataset_of(config.data), torch.device("cpu"))
    object.__setattr__(model, "means", lambda split, progress: torch.from_numpy(means_NZ[: len(split)]))
    return model


def test_distant_clusters_are_separate_on_the_map():
    generator = np.random.default_rng(0)
    cluster = np.arange(60) % 3
    means = generator.standard_normal((60, 5)) + 50.0 * np.eye(5)[cluster]
    findings = Tsne(perplexity=5).measure(with_means(means), quiet)
    place = np.array([findings.tables["map"][axis] for axis in "xy"]).T
    near = np.linalg.norm(place[:, None] - place, axis=2) + np.diag(np.full(60, np.inf))
    assert np.array_equal(cluster[near.argmin(1)], cluster)
    assert 0.8 < findings.values["tsne_trust"] <= 1.0
    assert findings.values["tsne_examples"] == 60


def test_the_map_has_the_labels_of_the_split_and_is_reproducible():
    model = with_means(np.random.default_rng(1).standard_normal((60, 2)))
    study = Tsne(examples=40, perplexity=5)
    findings = study.measure(model, quiet)
    assert findings == study.measure(model, quiet)
    assert findings.tables["map"]["example"] == list(range(40))
    assert findings.tables["map"]["label"] == list(model.split.labels[:40])
    other = Tsne(examples=40, perplexity=5, seed=1, kind="tsne").measure(model, quiet)
    assert other.values.keys() == {column.name for column in Tsne.columns}


@pytest.mark.parametrize("means", [np.zeros((60, 3)), np.linspace(-1, 1, 60)[:, None]])
def test_means_that_vary_in_at_most_one_dimension_have_a_map(means):
    table = Tsne(perplexity=5).measure(with_means(means), quiet).tables["map"]
    assert np.isfinite([table["x"], table["y"]]).all()


def test_the_initial_layout_is_the_principal_components():
    generator = np.random.default_rng(0)
    means = generator.standard_normal((500, 3)) * np.array([3.0, 0.1, 1.0])
    start = _start(means, 0)
    correlation = np.corrcoef(np.hstack([start, means]).T)[:2, 2:]
    assert np.abs(correlation[0, 0]) > 0.999
    assert np.abs(correlation[1, 2]) > 0.999
    assert start.std(0)[0] == pytest.approx(1e-4, rel=1e-3)


def test_a_model_without_z_has_no_map():
    findings = Tsne(perplexity=5).measure(with_means(np.zeros((60, 0))), quiet)
    assert set(findings.values.values()) == {None}
    assert findings.tables == {}


def test_a_perplexity_above_the_number_of_examples_is_refused():
    model = with_means(np.zeros((60, 2)))
    (issue,) = Tsne(examples=20, perplexity=20).issues(model.config, model.dataset)
    assert (issue.where, issue.value) == ("tsne.perplexity", 20.0)
    assert not list(Tsne(perplexity=59).issues(model.config, model.dataset))
