from pathlib import Path

import pytest

from twogate.config import ConfigError, Settings, parse_settings
from twogate.config.enforcement import MAX_OBSERVED, parse_moment
from twogate.config.policy import compile_policy

NOW = 1_800_000_000  # 2027-01-15T08:00:00Z
CONFIG = """\
public_url: http://localhost:8080
listen: 127.0.0.1:8080
store: sqlite:///./twogate.db
tenants: {acme: {}}
"""


def load(text: str, *, now: int = NOW) -> Settings:
    return parse_settings(CONFIG + text, Path("/etc/twogate.yaml"), now=now)


def problems(text: str, *, now: int = NOW) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text, now=now)
    return [f"{problem.key}: {problem.message}" for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("2027-01-16", 1_800_057_600),
        ("2027-01-16T00:00:00Z", 1_800_057_600),
        ("2027-01-16t00:00:00z", 1_800_057_600),
        ("2027-01-16T02:00:00+02:00", 1_800_057_600),
        ("2027-01-15T19:00:00-05:00", 1_800_057_600),
    ],
)
def test_a_date_means_its_first_moment_in_utc_and_a_time_what_it_says(written: str, moment: int) -> None:
    assert parse_moment(written) == moment


@pytest.mark.parametrize(
    "written",
    ["", "soon", "2027-01-16T00:00:00", "2027-01-16T00:00", "2027-01-16 00:00:00Z", "20270116", "2027-W03-1",
     "2027-02-30", "2027-01-16T25:00:00Z", "2027-01-16T00:00:00.5Z", "2027-01-16\n",
     "٢٠٢٧-٠١-١٦", 1_800_057_600, True, None],
)  # fmt: skip
def test_anything_else_is_no_moment(written: object) -> None:
    with pytest.raises(ValueError, match=r"must be a date|is no date"):
        parse_moment(written)


def test_by_default_gate_two_is_enforced() -> None:
    policy = compile_policy(load(""))
    assert policy.observe_until is None
    assert not policy.observing(0)


def test_observing_ends_by_itself_at_its_moment() -> None:
    policy = compile_policy(load("enforcement: observe\nobserve_until: 2027-01-16\n"))
    assert policy.observing(NOW)
    assert policy.observing(1_800_057_599)
    assert not policy.observing(1_800_057_600)
    assert not policy.observing(2**40)


def test_observing_needs_an_end_ahead_and_near() -> None:
    assert problems("enforcement: observe\n") == [
        "observe_until: is missing: say when observing ends, for example `observe_until: 2026-12-01`"
    ]
    observe = "enforcement: observe\nobserve_until: 2027-01-16\n"
    for late in (1_800_057_600, 1_800_057_601, NOW * 2):
        (found,) = problems(observe, now=late)
        assert found.startswith("observe_until: has passed; write `enforcement: enforce`")
    load(observe, now=1_800_057_600 - MAX_OBSERVED)
    (found,) = problems(observe, now=1_800_057_599 - MAX_OBSERVED)
    assert found.startswith("observe_until: lies more than 30 days ahead")


def test_an_end_without_observing_is_a_contradiction() -> None:
    for text in ("observe_until: 2027-01-16\n", "enforcement: enforce\nobserve_until: 2027-01-16\n"):
        assert problems(text) == ["observe_until: goes with `enforcement: observe`; remove it to enforce"]


def test_a_broken_end_is_reported_once() -> None:
    (found,) = problems("enforcement: observe\nobserve_until: tomorrow\n")
    assert found.startswith("observe_until: must be a date")


def test_the_end_of_observing_is_part_of_the_generation() -> None:
    first, second = (load(f"enforcement: observe\nobserve_until: 2027-01-{day}\n") for day in (16, 17))
    assert len({first.generation, second.generation, load("").generation}) == 3
