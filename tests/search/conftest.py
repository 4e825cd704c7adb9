"""One search for all tests that only ask it."""

from __future__ import annotations

import pytest
import uneven

from keras_lowbit.search.bit_search import BitSearch


@pytest.fixture(scope="session")
def search() -> BitSearch:
    return uneven.search()
