"""The study `probe` on trained models and on data from files."""

import numpy as np
import pytest
import torch
from helpers import MemoryCheckpoint, dataset_of, run, tiny

from lagvae_core.config.trial import parse_trial
from lagvae_core.studies.probe import Probe
from lagvae_core.studies.trained_model import TrainedModel, restore

SMALL = {"labels": (20, 50), "draws": 2, "inverse_penalties": (0.1, 1.0)}
QUICK = Probe(**SMALL | {"labels": (20, 50, 1_000)})
COLUMNS = {column.name for column in Probe.columns}


def quiet(phase, done, total):
    assert 0 <= done <= total


def trained(*strategies, **sections):
    config, model_store = tiny(*strategies, **sections), MemoryCheckpoint()
    run(config, model_store=model_store)
    return restore(model_store.content, config, dataset_of(config.data))


@pytest.fixture(scope="module")
def model():
    return trained(training={"epochs": 1})


@pytest.fixture(scope="module")
def findings(model):
    return QUICK.measure(model, quiet)


def test_every_representation_draw_and_number_of_labels_has_a_row(findings):
    table = findings.tables["accuracy"]
    rows = list(zip(table["features"], table["labels"], table["draw"], strict=True))
    names = ("means", "raw_means", "random_encoder", "bag_of_words")
    expected = [(name, size, draw) for name in names for draw in range(2) for size in (20, 50, 64)]
    assert rows == [("majority", 64, None), *expected]
    assert all(0.0 <= value <= 1.0 for part in ("accuracy", "valid_accuracy") for value in table[part])


def test_the_columns_are_means_over_draws_with_the_most_labels(findings):
    assert findings.values.keys() == COLUMNS
    table = findings.tables["accuracy"]
    rows = zip(table["features"], table["labels"], table["accuracy"], strict=True)
    accuracies = [accuracy for name, size, accuracy in rows if (name, size) == ("means", 64)]
    assert findings.values["probe_accuracy"] == pytest.approx(np.mean(accuracies))
    assert findings.values["probe_accuracy_sd"] == pytest.approx(np.std(accuracies, ddof=1))
    assert (findings.values["probe_labels"], findings.values["probe_classes"]) == (64, 4)
    assert findings.values["probe_mixture"] is None


def test_the_majority_class_is_that_of_the_training_split(model, findings):
    train, test = model.dataset.train.labels, model.dataset.test.labels
    largest = max(sorted(set(train)), key=train.count)
    assert findings.values["probe_majority"] == test.count(largest) / len(test)


def test_only_the_seed_changes_the_findings(model):
    one, again, other = (QUICK.model_copy(update={"labels": (20,), "seed": seed}) for seed in (0, 0, 1))
    assert one.measure(model, quiet) == again.measure(model, quiet) != other.measure(model, quiet)


def test_the_random_encoder_is_the_encoder_before_training(model, findings):
    start = TrainedModel.untrained(model.config, model.dataset, torch.device("cpu"))
    before = QUICK.measure(start, quiet)
    assert before.values["probe_accuracy"] == findings.values["probe_random"]
    assert not torch.equal(start.means(start.split), model.means(model.split))


def test_the_means_equal_those_of_the_encoded_split(model):
    assert torch.equal(model.means(model.split), model.encoded.mean_NZ)


def test_the_probe_of_a_perfect_encoder_reaches_the_optimal_accuracy():
    """With z as the mean, the best accuracy for four components of unit covariance at (+-2, +-2) is Phi(2)^2."""
    config = tiny(data={"examples": 2_000, "heldout": 4_000, "length": 2})
    dataset = dataset_of(config.data)
    perfect = TrainedModel.untrained(config, dataset, torch.device("cpu"))
    object.__setattr__(perfect, "means", lambda split, progress: torch.from_numpy(truth_of(dataset, split)))
    values = Probe(labels=(2_000,), draws=1, mixture=True).measure(perfect, quiet).values
    optimum = 0.5 * (1 + torch.erf(torch.tensor(2.0) / 2**0.5)).item()
    assert values["probe_accuracy"] == pytest.approx(optimum**2, abs=0.01)
    assert values["probe_accuracy_raw"] == pytest.approx(optimum**2, abs=0.01)
    assert values["probe_mixture"] == pytest.approx(optimum**2, abs=0.02)
    assert values["probe_random"] == pytest.approx(optimum**2, abs=0.01) or values["probe_random"] < 0.9


def truth_of(dataset, split):
    (name,) = [name for name in ("train", "valid", "test") if getattr(dataset, name) is split]
    return dataset.truth[f"{name}_z"]


def test_the_scale_of_the_means_affects_the_raw_means_only():
    config = tiny(data={"examples": 400, "heldout": 400})
    dataset = dataset_of(config.data)
    values = {}
    for scale in (1.0, 1e-4):
        model = TrainedModel.untrained(config, dataset, torch.device("cpu"))
        object.__setattr__(
            model, "means", lambda split, progress, f=scale: torch.from_numpy(f * truth_of(dataset, split))
        )
        values[scale] = Probe(labels=(400,), draws=1).measure(model, quiet).values
    assert values[1e-4]["probe_accuracy"] == values[1.0]["probe_accuracy"] > 0.9
    assert values[1.0]["probe_accuracy_raw"] > 0.9
    assert values[1e-4]["probe_accuracy_raw"] == values[1.0]["probe_majority"]


def test_a_model_without_z_has_the_baselines_only():
    values = QUICK.measure(trained("lstm_lm", training={"epochs": 1}), quiet).values
    measured = {name for name, value in values.items() if value is not None}
    assert measured == {"probe_majority", "probe_bow", "probe_labels", "probe_classes"}


def corpus(folder, train):
    for name, text in (("train", train), ("valid", train), ("test", train)):
        (folder / f"{name}.txt").write_text(text)
    sections = {"data": {"kind": "text", "path": str(folder)}, "model": {"latent_dim": 2, "hidden": 8, "embedding": 8}}
    config = parse_trial(sections)
    return config, config.data.load()


def test_word_counts_predict_labels_that_depend_on_words(tmp_path):
    config, dataset = corpus(tmp_path, "good\ta fine film\nbad\ta dull film\nbad\tso dull and so long\n" * 8)
    assert list(QUICK.issues(config, dataset)) == []
    values = QUICK.measure(TrainedModel.untrained(config, dataset, torch.device("cpu")), quiet).values
    assert values["probe_bow"] == 1.0
    assert values["probe_majority"] == pytest.approx(2 / 3)


def test_data_without_labels_are_refused(tmp_path):
    config, dataset = corpus(tmp_path, "a fine film\na dull film\n" * 8)
    (issue,) = QUICK.issues(config, dataset)
    assert issue.where == "probe"
    assert "train, valid, test" in issue.message
    assert issue.hint
