"""The public SDK's LangChain and CrewAI adapters, unchanged, against the real server.

LangChain is real: langchain_core with its own fake models, a tool and chains. CrewAI is not installed, because it
brings 140 packages and three quarters of a gigabyte: the SDK's callback gets objects of the shape that CrewAI 0.203
passes to a ``step_callback``, in the order of a real run, and langchain_core's own ``AgentAction`` and ``AgentFinish``,
which the adapter was written for.
"""

from __future__ import annotations

import functools
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from precipiq_testkit.server import running_server

from .client import Client
from .sdk_environment import sdk_python

pytestmark = pytest.mark.system

SCENARIOS = Path(__file__).with_name("sdk_adapters.py")
REPLY = "It costs 12 €, Zoë 🚀."
QUESTION = "{'article': 'lamp', 'quantity': 3}"

# What one run of the chain leaves: action type, inputs, outputs, metadata; an inner run ends before its outer one.
CHAIN = [
    ("tool:price_of", {"input": "{'article': 'lamp'}"}, {"output": "lamp: 12 €"}, {}),
    ("chain_call", {"inputs": QUESTION}, {"price": "lamp: 12 €"}, {}),
    (
        "llm_call",
        {"prompts": ["System: Answer briefly.\nHuman: What is it? lamp: 12 €"]},
        {"completion": REPLY},
        {"streamed_token_count": 0},
    ),
    ("chain_call", {"inputs": "{'price': 'lamp: 12 €'}"}, {"reply": REPLY}, {}),
    ("chain_call", {"inputs": QUESTION}, {"reply": REPLY}, {}),
]
STREAM = [("llm_call", {"prompts": ["Human: Tell me."]}, {"completion": REPLY}, {"streamed_token_count": len(REPLY)})]

# What one task of a crew leaves. CrewAI's own AgentFinish and ToolResult have nothing that the adapter looks for.
CREW = [
    ("crewai:step", {}, {"step": "ToolResult(result='12 €', result_as_answer=False)"}),
    ("crewai:price_of", {"tool_input": '{"article": "lamp"}'}, {"log": ""}),
    (
        "crewai:step",
        {},
        {"step": f"AgentFinish(thought='Now I know', output='{REPLY}', text='Final Answer: {REPLY}')"},
    ),
]


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield Client(server)


@pytest.fixture(scope="module")
def outcome(ledger: Client, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """What the application saw of a scenario; each is run once."""
    url, key = str(ledger.http.base_url).partition("/api/")[0], ledger.http.headers["X-Precipiq-Key"]

    @functools.cache
    def run(scenario: str) -> Any:
        work = tmp_path_factory.mktemp(scenario)
        command = [sdk_python(), SCENARIOS, scenario, url, key, work]
        environment = {"HOME": str(work), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def recorded(ledger: Client, agent: str) -> list[dict[str, Any]]:
    """An agent's decisions, oldest first."""
    page = ledger.data("GET", "/decisions", params={"agent_id": agent, "limit": "100"})
    assert page["next_cursor"] is None
    return page["items"][::-1]


def content(decisions: list[dict[str, Any]], *more: str) -> list[tuple[Any, ...]]:
    return [tuple(each[name] for name in ("action_type", "inputs", "outputs", *more)) for each in decisions]


def test_a_langchain_run_is_recorded_call_by_call(ledger: Client, outcome: Callable[[str], Any]) -> None:
    seen = outcome("langchain")

    assert seen["reply"] == {"reply": REPLY}
    assert "".join(seen["tokens"]) == REPLY
    for agent in ("batched", "single"):
        decisions = recorded(ledger, agent)
        assert content(decisions, "metadata") == CHAIN
        assert {each["confidence"] for each in decisions} == {1}
    assert content(recorded(ledger, "stream"), "metadata") == STREAM
    assert content(recorded(ledger, "text")) == [("llm_call", {"prompts": ["Tell me."]}, {"completion": REPLY})]
    assert content(recorded(ledger, "private")) == [("llm_call", {}, {})]
    assert ledger.verify()["is_valid"]


def test_a_failing_model_is_recorded_and_still_fails(ledger: Client, outcome: Callable[[str], Any]) -> None:
    assert outcome("langchain")["raised"] == "FakeListChatModelError"

    expected = [("llm_error", {}, {"error": "FakeListChatModelError()"}, 0)]
    assert content(recorded(ledger, "failing"), "confidence") == expected


def test_what_is_no_decision_stays_in_the_spool_and_harms_nothing(
    ledger: Client, outcome: Callable[[str], Any]
) -> None:
    """The adapter sends whatever a chain returns as ``outputs``: of prompt | model | parser, no object at all."""
    seen = outcome("langchain")

    assert seen["text"] == REPLY
    prompts, parser, whole = seen["spooled"]
    assert "not JSON serializable" in prompts["reason"], "the SDK could not even send it"
    for refused in (parser, whole):
        assert refused["payload"]["outputs"] == REPLY
        assert "422" in refused["reason"]
        assert "outputs" in refused["reason"], "the answer names the field"
    assert [each["action_type"] for each in recorded(ledger, "usual")] == ["llm_call"]
    assert seen["spooled_before"] == 0


def test_the_asynchronous_client_records_the_same_langchain_run(ledger: Client, outcome: Callable[[str], Any]) -> None:
    seen = outcome("langchain_async")

    assert (seen["reply"], "".join(seen["tokens"]), seen["spooled"]) == ({"reply": REPLY}, REPLY, [])
    assert content(recorded(ledger, "later"), "metadata") == CHAIN
    assert content(recorded(ledger, "later-stream"), "metadata") == STREAM
    assert content(recorded(ledger, "later-tasks"), "metadata") == CHAIN
    assert ledger.verify()["is_valid"]


def test_the_steps_of_a_crew_are_recorded(ledger: Client, outcome: Callable[[str], Any]) -> None:
    assert outcome("crewai")["spooled"] == []

    for agent in ("crew", "crew-thread", "crew-tasks"):
        assert content(recorded(ledger, agent)) == CREW
    assert content(recorded(ledger, "crew-older")) == [
        ("crewai:price_of", {"tool_input": {"article": "lamp"}}, {"log": "Look it up"}),
        ("crewai:finish", {}, {"output": REPLY}),
    ]
    assert content(recorded(ledger, "crew-private")) == [("crewai:price_of", {}, {})]
    assert ledger.verify()["is_valid"]
