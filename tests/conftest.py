"""What holds for every test: one thread to compute on, nobody's own files, and no hang."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")  # read when torch is imported

# A shell has what it starts in the background ignore it, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

HANG_SECONDS = 300
NIGHTLY_HANG_SECONDS = 1200  # long suites, beside whatever else goes on at night


@pytest.fixture(scope="session", autouse=True)
def _own_user_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Profiles, corpora and settings of the user are neither read nor written."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name.lower())))
        yield


@pytest.fixture(autouse=True)
def _no_hang(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that waits for what never comes fails."""
    is_nightly = request.node.get_closest_marker("nightly") is not None
    seconds = NIGHTLY_HANG_SECONDS if is_nightly else HANG_SECONDS

    def give_up(*_: object) -> None:
        raise TimeoutError(f"the test hangs: {seconds} s have passed")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
