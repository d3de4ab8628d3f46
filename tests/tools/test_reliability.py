"""Every promise of docs/reliability.md names tests that are there and constants that the product has."""

from __future__ import annotations

import pytest

from tests.conftest import REPOSITORY
from tools.reliability_tables import PROMISES, chaos, constant


def test_every_promise_is_held_by_tests_that_exist() -> None:
    named = {name for each in PROMISES.values() for promise in each for name in promise.tests}
    assert named
    assert [name for name in sorted(named) if not (REPOSITORY / "tests" / name).is_file()] == []


def test_every_figure_is_a_constant_of_the_product() -> None:
    for promise in (promise for each in PROMISES.values() for promise in each):
        figures = {name: constant(place) for name, place in promise.constants.items()}
        assert promise.what.format(**figures) != promise.what or not figures


def test_what_was_tried_by_force_is_told_by_kind() -> None:
    assert "| recipes, specs, pipelines and journals of a stranger | `" in chaos()


def test_a_constant_that_is_gone_is_an_error() -> None:
    with pytest.raises(LookupError, match="has no constant GONE"):
        constant("core.exit_codes:GONE")
