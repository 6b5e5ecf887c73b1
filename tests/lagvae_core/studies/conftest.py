"""This folder becomes importable by this file, for `sentences`."""

import pytest
from sentences import learned_by_heart


@pytest.fixture(scope="session")
def autoencoder(tmp_path_factory):
    return learned_by_heart(tmp_path_factory.mktemp("lines"))
