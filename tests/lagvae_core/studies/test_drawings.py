"""Drawings of a model of images."""

import pytest
import torch
from helpers import tiny, tiny_images, trained_of

from lagvae_core.errors import ConfigError
from lagvae_core.models.pixel_decoder import PixelDecoder
from lagvae_core.studies.drawings import Drawings

SMALL = {"examples": 3, "paths": 1, "steps": 2}


def measure(trained, **options):
    heard = []
    found = Drawings(**{**SMALL, **options}).measure(trained, lambda *told: heard.append(told))
    assert heard[-1] == ("draw", heard[-1][2], heard[-1][2])
    return found


def rows(found, what):
    table = found.tables["drawings"]
    return [pixels for name, pixels in zip(table["what"], table["pixels"], strict=True) if name == what]


@pytest.fixture(scope="module")
def trained():
    return trained_of(tiny_images())


def test_it_draws_of_every_kind_and_repeats_itself(trained):
    found = measure(trained)
    counts = {what: len(rows(found, what)) for what in dict.fromkeys(found.tables["drawings"]["what"])}
    assert counts == {"image": 3, "reconstruction": 3, "swapped": 3, "sample": 3, "interpolation": 3}
    assert {pixel for pixels in found.tables["drawings"]["pixels"] for pixel in pixels} <= {0, 1}
    assert measure(trained) == found
    assert measure(trained, seed=1) != found


def test_images_are_the_measured_ones(trained):
    (batch,) = trained.split.limit(3).batches(3)
    assert rows(measure(trained), "image") == batch.targets.flatten(1).int().tolist()


def test_errors_are_shares_of_pixels(trained):
    found = measure(trained)
    images = torch.tensor(rows(found, "image"))
    for what, column in (("reconstruction", "drawing_error"), ("swapped", "drawing_error_swapped")):
        assert found.values[column] == pytest.approx(float((torch.tensor(rows(found, what)) != images).double().mean()))


def test_an_interpolation_goes_from_the_reconstruction_to_that_with_the_next_one_s_z(trained):
    found = measure(trained)
    first, _, last = rows(found, "interpolation")
    assert first == rows(found, "reconstruction")[0]
    assert last == rows(found, "swapped")[0]


def test_where_nothing_is_drawn_at_random_the_next_one_s_z_gives_the_next_one(trained):
    found = measure(trained, pixels="threshold")
    assert rows(found, "swapped")[:2] == rows(found, "reconstruction")[1:]


def test_a_decoder_that_ignores_z_draws_the_same_with_any(trained, monkeypatch):
    inner = PixelDecoder.maps_of
    monkeypatch.setattr(PixelDecoder, "maps_of", lambda self, z: inner(self, torch.zeros_like(z)))
    found = measure(trained)
    assert rows(found, "reconstruction") == rows(found, "swapped")
    assert found.values["drawing_error"] == found.values["drawing_error_swapped"]


def test_models_of_words_and_models_without_z_are_refused():
    for config in (tiny(), tiny_images("pixelcnn_lm")):
        other = trained_of(config)
        with pytest.raises(ConfigError):
            Drawings().require(other.config, other.dataset)
