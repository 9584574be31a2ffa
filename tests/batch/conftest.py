import pytest
from helpers import batch_data
from helpers.small_altclip import save_small


@pytest.fixture(scope="session")
def batch_source(made_once):
    """A folder with the same items in every layout. Read it, never write into it."""
    return made_once("batch-data", batch_data.save_data)


@pytest.fixture(scope="session")
def small_altclip(made_once):
    return made_once("batch-altclip", save_small)
