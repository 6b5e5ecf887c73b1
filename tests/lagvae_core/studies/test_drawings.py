"""The study `drawings`."""

import pytest
import torch
from helpers import dataset_of, tiny, tiny_images, trained_of

from lagvae_core.models.pixel_decoder import PixelDecoder
from lagvae_core.studies.drawings import Drawings

SMALL = {"examples": 3, "paths": 1, "steps": 2}


def measure(trained, **options):
    progress = []
    findings = Drawings(**{**SMALL, **options}).measure(trained, lambda *place: progress.append(place))
    phase, done, total = progress[-1]
    assert (phase, done) == ("draw", total)
    return findings


def rows(findings, what):
    table = findings.tables["drawings"]
    return [pixels for name, pixels in zip(table["what"], table["pixels"], strict=True) if name == what]


@pytest.fixture(scope="module")
def trained():
    return trained_of(tiny_images())


def test_every_kind_of_drawing_is_there_and_only_the_seed_changes_them(trained):
    findings = measure(trained)
    counts = {what: len(rows(findings, what)) for what in dict.fromkeys(findings.tables["drawings"]["what"])}
    assert counts == {"image": 3, "reconstruction": 3, "swapped": 3, "sample": 3, "interpolation": 3}
    assert {pixel for pixels in findings.tables["drawings"]["pixels"] for pixel in pixels} <= {0, 1}
    assert measure(trained) == findings
    assert measure(trained, seed=1) != findings


def test_the_images_are_the_first_of_the_measured_split(trained):
    (batch,) = trained.split.limit(3).batches(3)
    assert rows(measure(trained), "image") == batch.targets.flatten(1).int().tolist()


def test_the_errors_are_shares_of_pixels(trained):
    findings = measure(trained)
    images = torch.tensor(rows(findings, "image"))
    for what, column in (("reconstruction", "drawing_error"), ("swapped", "drawing_error_swapped")):
        assert findings.values[column] == pytest.approx(
            float((torch.tensor(rows(findings, what)) != images).double().mean())
        )


def test_an_interpolation_leads_from_the_reconstruction_to_the_swapped_reconstruction(trained):
    findings = measure(trained)
    first, _, last = rows(findings, "interpolation")
    assert first == rows(findings, "reconstruction")[0]
    assert last == rows(findings, "swapped")[0]


def test_with_a_threshold_the_swapped_reconstruction_is_that_of_the_next_image(trained):
    findings = measure(trained, pixels="threshold")
    assert rows(findings, "swapped")[:2] == rows(findings, "reconstruction")[1:]


def test_a_decoder_that_ignores_z_draws_the_same_with_every_z(trained, monkeypatch):
    inner = PixelDecoder.maps_of
    monkeypatch.setattr(PixelDecoder, "maps_of", lambda self, z: inner(self, torch.zeros_like(z)))
    findings = measure(trained)
    assert rows(findings, "reconstruction") == rows(findings, "swapped")
    assert findings.values["drawing_error"] == findings.values["drawing_error_swapped"]


def test_models_of_words_and_models_without_z_are_refused():
    assert [issue.where for issue in Drawings().unsupported_data(tiny())] == ["drawings"]
    config = tiny_images("pixelcnn_lm")
    assert list(Drawings().unsupported_data(config)) == []
    assert [issue.where for issue in Drawings().issues(config, dataset_of(config.data))] == ["drawings"]
