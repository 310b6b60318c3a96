"""How often agents, their tools and tenants may be served."""

from __future__ import annotations

from twogate.core.principal import AgentId
from twogate.flows.gateway.limit import CallRates, Rate

ROBOT, OTHER, ABROAD = AgentId("acme", "robot"), AgentId("acme", "other"), AgentId("globex", "robot")
ONE = Rate(1, 1)
TWO = Rate(1, 2)


def test_without_limits_every_call_may_run() -> None:
    rates = CallRates()
    assert [rates.take(ROBOT, "git.git_log", 0.0) for _ in range(1000)] == [0.0] * 1000


def test_an_agent_is_limited_over_all_its_tools_and_alone() -> None:
    rates = CallRates(agent=TWO)
    assert rates.take(ROBOT, "git.a", 0.0) == rates.take(ROBOT, "git.b", 0.0) == 0.0
    assert rates.take(ROBOT, "git.c", 0.0) == 1.0
    assert rates.take(OTHER, "git.a", 0.0) == rates.take(ABROAD, "git.a", 0.0) == 0.0
    assert rates.take(ROBOT, "git.c", 1.0) == 0.0


def test_a_tool_of_one_agent_is_limited_and_no_other_tool() -> None:
    rates = CallRates(tool=ONE)
    assert rates.take(ROBOT, "git.a", 0.0) == 0.0
    assert rates.take(ROBOT, "git.a", 0.5) == 0.5
    assert rates.take(ROBOT, "git.b", 0.0) == rates.take(OTHER, "git.a", 0.0) == rates.take(ABROAD, "git.a", 0.0) == 0.0


def test_a_tenant_is_limited_over_all_its_agents() -> None:
    rates = CallRates(tenant=TWO)
    assert rates.take(ROBOT, "git.a", 0.0) == rates.take(OTHER, "git.b", 0.0) == 0.0
    assert rates.take(ROBOT, "git.c", 0.0) == 1.0
    assert rates.take(ABROAD, "git.a", 0.0) == 0.0


def test_what_a_narrow_limit_refuses_uses_up_nothing_of_the_wider_ones() -> None:
    rates = CallRates(tool=ONE, agent=TWO, tenant=Rate(1, 3))
    assert rates.take(ROBOT, "git.a", 0.0) == 0.0
    assert all(rates.take(ROBOT, "git.a", 0.0) for _ in range(50))
    assert rates.take(ROBOT, "git.b", 0.0) == 0.0
    assert all(rates.take(ROBOT, f"git.x{number}", 0.0) for number in range(50))
    assert rates.take(OTHER, "git.a", 0.0) == 0.0
    assert rates.take(OTHER, "git.b", 0.0) > 0


def test_what_a_wide_limit_refuses_uses_up_nothing_of_the_narrower_ones() -> None:
    rates = CallRates(tool=Rate(1, 3), agent=TWO, tenant=Rate(2, 2))
    assert rates.take(ROBOT, "git.a", 0.0) == rates.take(OTHER, "git.a", 0.0) == 0.0
    # The tenant's turn comes back first; had the others been used up by these, they would refuse then.
    assert all(rates.take(ROBOT, "git.a", 0.0) for _ in range(50))
    assert rates.take(ROBOT, "git.a", 0.5) == 0.0
    assert rates.take(ROBOT, "git.a", 0.5) == 0.5
    assert rates.take(ROBOT, "git.b", 1.0) == 0.0


def test_a_reload_frees_nobody_unless_the_rate_itself_changed() -> None:
    rates = CallRates(tool=ONE, agent=ONE, tenant=ONE)
    assert rates.take(ROBOT, "git.a", 0.0) == 0.0
    same = rates.successor(tool=ONE, agent=ONE, tenant=ONE)
    assert same.take(ROBOT, "git.a", 0.0) > 0
    without_tool = rates.successor(tool=None, agent=ONE, tenant=ONE)
    assert without_tool.take(ROBOT, "git.a", 0.0) > 0
    only_tenant = rates.successor(tool=None, agent=None, tenant=ONE)
    assert only_tenant.take(OTHER, "git.b", 0.0) > 0
    assert rates.successor(tool=TWO, agent=TWO, tenant=TWO).take(ROBOT, "git.a", 0.0) == 0.0


def test_names_cannot_be_chosen_to_share_anothers_limit() -> None:
    rates = CallRates(tool=ONE, agent=ONE)
    assert rates.take(AgentId("a", "b"), "c.d", 0.0) == 0.0
    assert rates.take(AgentId("a", "b\0c"), "d", 0.0) == 0.0
