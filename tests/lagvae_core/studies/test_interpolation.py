import pytest
from helpers import dataset_of, tiny

from lagvae_core.studies.interpolation import Interpolation
from lagvae_core.studies.reconstruction import Reconstruction

SMALL = {"pairs": 2, "max_length": 8}


def rows_of(trained, **options):
    return Interpolation(**options).measure(trained, lambda phase, done, total: None).tables["sentences"]


@pytest.mark.parametrize("between", ["mean", "sample"])
def test_the_ends_of_a_line_are_reconstructions(autoencoder, between):
    rows = rows_of(autoencoder, between=between)
    reconstructions = (
        Reconstruction().measure(autoencoder, lambda *place: None).tables["sentences"][f"{between}_greedy"]
    )
    assert len(rows["text"]) == 4 * 6
    for a, first, second, text in zip(rows["a"], rows["first"], rows["second"], rows["text"], strict=True):
        if a in (0.0, 1.0):
            assert text == reconstructions[first if a == 0 else second]


def test_the_steps_are_equal_and_no_example_is_used_twice(autoencoder):
    rows = rows_of(autoencoder, steps=4, pairs=3)
    assert rows["a"] == [0.0, 0.25, 0.5, 0.75, 1.0] * 3
    assert rows["pair"] == [0] * 5 + [1] * 5 + [2] * 5
    ends = set(zip(rows["pair"], rows["first"], rows["second"], strict=True))
    assert len(ends) == 3
    assert len({number for _, *both in ends for number in both}) == 6


def test_a_different_seed_chooses_different_pairs(autoencoder):
    assert rows_of(autoencoder, pairs=1)["first"] != rows_of(autoencoder, pairs=1, seed=1)["first"]


def test_a_model_without_z_and_a_split_of_one_example_are_refused():
    config = tiny("lstm_lm", data={"heldout": 1})
    without_z, too_few = Interpolation().issues(config, dataset_of(config.data))
    assert str(without_z) == (
        "interpolation: needs a model with a latent variable, but lstm_lm has none. Measure a different model."
    )
    assert str(too_few).startswith("interpolation: needs at least two examples, but the split has 1. ")
