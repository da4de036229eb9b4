"""How many connections a process keeps, by how many files it may open."""

import resource

import pytest

from infra.runtime import serving


@pytest.mark.parametrize(
    ("allowed", "most", "kept", "raised_to"),
    [
        (1024, 1_048_576, 2_000, 2_500),
        (1024, resource.RLIM_INFINITY, 2_000, 2_500),
        (20_000, 20_000, 2_000, None),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 2_000, None),
        (1024, 1024, 524, 1024),
        (256, 256, 128, 256),
    ],
    ids=["a usual shell", "no hard limit", "enough", "no limit", "a strict machine", "a very strict one"],
)
def test_as_many_as_are_wanted_where_that_is_allowed(
    monkeypatch: pytest.MonkeyPatch, allowed: int, most: int, kept: int, raised_to: int | None
) -> None:
    said = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (allowed, most))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: said.append(limits))
    assert serving._connections_max(2_000) == kept
    assert said == ([] if raised_to is None else [(raised_to, most)])
