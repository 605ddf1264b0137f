"""What tests of several files share."""

import pytest


@pytest.fixture(scope="session")
def sample_dir(tmp_path_factory):
    """A data folder for the whole session: sample data made by one test is there for the next."""
    return tmp_path_factory.mktemp("data")
