"""What all tests share: a quiet TensorFlow, where the packages and the data are."""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported

import pytest
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).resolve().parents[1]

# "ci" runs the same cases every time, "nightly" more and others (CONTRIBUTING.md).
settings.register_profile(
    "ci", max_examples=300, derandomize=True, deadline=None, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
settings.register_profile(
    "nightly", settings.get_profile("ci"), max_examples=5000, derandomize=False, print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture
def shared_data(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder: KERAS_LOWBIT_DATA, else `shared` beside the repository, else skip."""
    variable = "KERAS_LOWBIT_DATA"
    shared = REPOSITORY.parent / "shared"
    if not os.environ.get(variable):
        if not (shared / "data").is_dir():
            pytest.skip(f"{variable} is not set and {shared} has no data: nothing to measure on")
        monkeypatch.setenv(variable, str(shared))
    return Path(os.environ[variable])
