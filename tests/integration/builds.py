"""Which of the unusual builds that are found here a test runs on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.zoo.pythons import Python, select


def nth_build(request: pytest.FixtureRequest, number: int, wanted: Callable[[Python], bool]) -> Python:
    """Return one of those that are wanted, or skip the test."""
    found = [python for python in select(str(request.config.getoption("--pythons"))) if wanted(python)]
    if number >= len(found):
        pytest.skip("fewer such builds are found on this machine")
    return found[number]
