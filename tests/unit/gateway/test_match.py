"""Which rule of which route a request matches."""

import time

import pytest
import re2

from gateway.datastore.model import Match, Route, Rule, StringMatch, Target
from gateway.routing.match import compile_route, compile_text, match

CHAT = "/v1/chat/completions"


class World:
    """The part of a world that matching reads."""

    def __init__(self, *routes):
        self.by_model, self.by_adapter = {}, {}
        for route in routes:
            compiled = compile_route(route)
            if route.model_name:
                self.by_model[route.model_name] = (*self.by_model.get(route.model_name, ()), compiled)
            for adapter in route.adapters:
                self.by_adapter[adapter] = (*self.by_adapter.get(adapter, ()), compiled)


def rule(name, **wanted):
    return Rule((Target(f"default/{name}"),), name, Match(**wanted) if wanted else None)


def route(*rules, name="default/r", model="m", adapters=()):
    return Route(name, model, rules, tuple(adapters))


def find(world, model="m", path=CHAT, **headers):
    found = match(world, model, path, {name.replace("_", "-"): value for name, value in headers.items()}.get)
    return found and (found.route.name, found.rule.name)


def test_a_rule_without_a_match_takes_everything():
    assert find(World(route(rule("any")))) == ("default/r", "any")


def test_a_model_that_no_route_names_matches_nothing():
    assert find(World(route(rule("any"))), model="n") is None
    assert find(World(), model="m") is None


@pytest.mark.parametrize(
    ("wanted", "texts", "others"),
    [
        (StringMatch(exact="gold"), ["gold"], ["Gold", "golden", "", "gol"]),
        (StringMatch(exact=""), [""], ["x"]),
        (StringMatch(prefix="go"), ["go", "gold"], ["", "Go", "ago"]),
        (StringMatch(prefix=""), ["", "x"], []),
        (StringMatch(regex="^go+ld$"), ["gold", "goooold"], ["gld", "golden"]),
        (StringMatch(regex="ol"), ["gold"], ["gld"]),
        (StringMatch(regex="^ä+$"), ["ä", "ää"], ["a"]),
        (StringMatch(), ["", "x"], []),
        (StringMatch(exact="a", prefix="b"), ["a"], ["b"]),
        (StringMatch(prefix="b", regex="^a"), ["b", "ba"], ["a"]),
    ],
)
def test_texts_match_exactly_by_prefix_or_by_pattern_and_exact_comes_first(wanted, texts, others):
    test = compile_text(wanted)
    assert [test(text) for text in texts] == [True] * len(texts)
    assert [test(text) for text in others] == [False] * len(others)


def test_the_path_is_matched_like_a_header():
    world = World(
        route(rule("chat", path=StringMatch(prefix="/v1/chat")), rule("other", path=StringMatch(regex="embed")))
    )
    assert find(world, path=CHAT) == ("default/r", "chat")
    assert find(world, path="/v1/embeddings") == ("default/r", "other")
    assert find(world, path="/v1/rerank") is None


def test_header_names_match_in_any_case():
    world = World(route(rule("gold", headers={"X-Tier": StringMatch(exact="gold")})))
    assert find(world, x_tier="gold") == ("default/r", "gold")
    assert find(world, x_tier="Gold") is None


def test_every_part_that_is_present_must_match():
    wanted = {
        "headers": {"x-a": StringMatch(exact="1"), "x-b": StringMatch(exact="2")},
        "path": StringMatch(exact=CHAT),
        "model": "m",
    }
    world = World(route(rule("all", **wanted)))
    assert find(world, x_a="1", x_b="2") is not None
    assert find(world, x_a="1") is None
    assert find(world, x_a="1", x_b="2", path="/v1/completions") is None


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        (StringMatch(exact=""), True),
        (StringMatch(prefix=""), True),
        (StringMatch(regex="^$"), True),
        (StringMatch(regex=".*"), True),
        (StringMatch(), True),
        (StringMatch(exact="x"), False),
        (StringMatch(regex="."), False),
    ],
)
def test_a_missing_header_is_matched_as_the_empty_text(wanted, matches):
    assert (find(World(route(rule("r", headers={"x-a": wanted})))) is not None) is matches


def test_the_bodys_model_tells_a_model_from_its_adapters():
    world = World(route(rule("base", model="m"), rule("rest"), adapters=["m-sql"]))
    assert find(world, "m") == ("default/r", "base")
    assert find(world, "m-sql") == ("default/r", "rest")


def test_the_first_rule_that_matches_wins():
    gold = {"x-tier": StringMatch(exact="gold")}
    world = World(route(rule("first", headers=gold), rule("second"), rule("third", headers=gold)))
    assert find(world, x_tier="gold") == ("default/r", "first")
    assert find(world) == ("default/r", "second")


def test_a_route_without_a_rule_that_matches_leaves_the_request_to_the_next():
    gold = {"x-tier": StringMatch(exact="gold")}
    world = World(route(rule("gold", headers=gold), name="default/old"), route(rule("any"), name="default/young"))
    assert find(world, x_tier="gold") == ("default/old", "gold")
    assert find(world) == ("default/young", "any")


def test_a_models_own_routes_hide_routes_that_have_it_as_an_adapter_even_when_none_matches():
    never = {"x": StringMatch(exact="never")}
    world = World(
        route(rule("own", headers=never), name="default/own"),
        route(rule("as-adapter"), name="default/base", model="base", adapters=["m", "n"]),
    )
    assert find(world, "m") is None
    assert find(world, "m", x="never") == ("default/own", "own")
    assert find(world, "n") == ("default/base", "as-adapter")


def test_a_match_says_whether_the_model_was_an_adapter():
    world = World(route(rule("any"), adapters=["m-sql"]))
    none = {}.get
    assert [match(world, name, CHAT, none).is_adapter for name in ("m", "m-sql")] == [False, True]


def test_a_pattern_that_stalls_backtracking_engines_takes_linear_time():
    test = compile_text(StringMatch(regex="(a+)+$"))
    seconds = []
    for length in (20_000, 200_000):
        text = "a" * length + "b"
        started = time.process_time()
        assert test(text) is False
        seconds.append(time.process_time() - started)
    assert seconds[1] < 1.0
    assert seconds[1] < 100 * max(seconds[0], 0.001)


def test_a_pattern_that_is_none_is_refused_when_it_is_compiled():
    with pytest.raises(re2.error):
        compile_route(route(rule("bad", path=StringMatch(regex="("))))
