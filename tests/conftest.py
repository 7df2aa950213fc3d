"""What every test has: the servers, and one seed that the header and each failure print."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Generator

import hypothesis
import pytest

pytest_plugins = ["tests.services.plugin"]

_SEED_VARIABLE = "POSTROAD_TEST_SEED"
_SEED = int(os.environ.get(_SEED_VARIABLE) or secrets.randbelow(2**32))
# The conformance suite and the processes that tests start take it from there.
os.environ[_SEED_VARIABLE] = str(_SEED)
_REPEAT = f"{_SEED} (repeat with {_SEED_VARIABLE}={_SEED})"

# A busy machine makes an example slow, not wrong.
hypothesis.settings.register_profile("postroad", deadline=None, print_blob=True)
hypothesis.settings.load_profile("postroad")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--hypothesis-seed") is None:
        config.option.hypothesis_seed = str(_SEED)


def pytest_report_header() -> str:
    return f"seed: {_REPEAT}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections.append(("seed", _REPEAT))
    return report


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Start each test from the run's seed, whichever tests ran before it."""
    random.seed(_SEED)
