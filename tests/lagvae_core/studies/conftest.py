"""Shared fixtures. This file also makes `sentences` importable from the tests of this folder."""

import pytest
from sentences import memorised_sentences


@pytest.fixture(scope="session")
def autoencoder(tmp_path_factory):
    """A model that has memorised eight sentences."""
    return memorised_sentences(tmp_path_factory.mktemp("lines"))
