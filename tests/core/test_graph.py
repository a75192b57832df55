"""The boot order, and everything that can be wrong with it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from precipiq_core.graph import boot_order
from precipiq_core.plugin import AnyPlugin, PluginBase


class A:
    pass


class B:
    pass


class C:
    pass


def plugin(
    provides: tuple[type, ...] = (), requires: tuple[type, ...] = (), optional: tuple[type, ...] = ()
) -> type[AnyPlugin]:
    return type("Tiny", (PluginBase,), {"provides": provides, "requires": requires, "optional": optional})


def ordered(core: tuple[type, ...] = (), **plugins: type[AnyPlugin]) -> tuple[list[str], list[str]]:
    problems: list[str] = []
    return boot_order(plugins, core, problems), problems


def test_a_provider_comes_before_those_that_need_it() -> None:
    order, problems = ordered(last=plugin((), (A, B)), middle=plugin((B,), (A,)), first=plugin((A,)))

    assert (order, problems) == (["first", "middle", "last"], [])


def test_ties_keep_the_deployments_order() -> None:
    assert ordered(c=plugin(), a=plugin(), b=plugin())[0] == ["c", "a", "b"]


def test_an_optional_capability_orders_when_present_and_may_be_absent() -> None:
    assert ordered(user=plugin((), (), (A,)), maker=plugin((A,))) == (["maker", "user"], [])
    assert ordered(user=plugin((), (), (A,))) == (["user"], [])


def test_what_core_provides_needs_no_plugin() -> None:
    assert ordered((A,), user=plugin((), (A,))) == (["user"], [])


def test_a_missing_provider_names_who_needs_what() -> None:
    assert ordered(user=plugin((), (A,)))[1] == ["plugin user requires A, which no enabled plugin provides"]


def test_the_sentence_on_a_missing_provider_ends_with_advice() -> None:
    problems: list[str] = []
    boot_order({"user": plugin((), (A,), (B,))}, (), problems, lambda capability: f"; look for {capability.__name__}")
    assert problems == ["plugin user requires A, which no enabled plugin provides; look for A"]


def test_two_providers_are_both_named() -> None:
    assert ordered(x=plugin((A,)), y=plugin((A,)))[1] == ["A is provided by both x and y; enable one"]
    assert ordered((A,), x=plugin((A,)))[1] == ["A is provided by both core and x; enable one"]


def test_a_circle_is_shown_as_a_path() -> None:
    order, [problem] = ordered(x=plugin((A,), (B,)), y=plugin((B,), (A,)))

    assert order == []
    assert problem.startswith("plugins require each other in a circle: ")
    assert problem.count(" -> ") == 2


def test_an_optional_wish_can_make_a_circle_too() -> None:
    assert "in a circle" in ordered(x=plugin((A,), (B,)), y=plugin((B,), (), (A,)))[1][0]


def test_a_plugin_that_needs_what_it_provides_itself_is_no_circle() -> None:
    assert ordered(x=plugin((A,), (A,))) == (["x"], [])


def test_every_problem_is_listed_at_once() -> None:
    _, problems = ordered(x=plugin((A,), (C,)), y=plugin((A, B)), z=plugin((), (C,)))

    assert len(problems) == 3


@given(st.lists(st.sets(st.integers(0, 7)), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_any_acyclic_set_of_plugins_boots_providers_first(needs: list[set[int]], random: object) -> None:
    capabilities = [type(f"Capability{index}", (), {}) for index in range(len(needs))]
    wanted = {index: {need for need in items if need < index} for index, items in enumerate(needs)}
    names = list(wanted)
    random.shuffle(names)  # type: ignore[attr-defined]
    plugins = {
        f"p{index}": plugin((capabilities[index],), tuple(capabilities[need] for need in wanted[index]))
        for index in names
    }

    order, problems = ordered((), **plugins)

    assert (problems, sorted(order)) == ([], sorted(plugins))
    for index, items in wanted.items():
        assert all(order.index(f"p{need}") < order.index(f"p{index}") for need in items)
