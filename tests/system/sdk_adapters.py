"""Runs inside the SDK's environment: its LangChain and CrewAI adapters; prints what the application saw as JSON."""

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from langchain_core import agents
from langchain_core.language_models import FakeListChatModel, FakeListLLM
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from precipiq import AsyncPrecipiq, Precipiq
from precipiq.integrations.crewai import PrecipiqCrewAICallback
from precipiq.integrations.langchain import PrecipiqLangChainCallback

scenario, url, key, work = sys.argv[1:5]
fallback = Path(work) / "fallback.log"
REPLY = "It costs 12 €, Zoë 🚀."
QUESTION = {"article": "lamp", "quantity": 3}

model = FakeListChatModel(responses=[REPLY])


@tool
def price_of(article: str) -> str:
    """The price of an article."""
    return f"{article}: 12 €"


def messages(price: str) -> list:
    return [SystemMessage("Answer briefly."), HumanMessage(f"What is it? {price}")]


def look_up(question: dict) -> dict:
    return {"price": price_of.invoke({"article": question["article"]})}


def answer(found: dict) -> dict:
    return {"reply": model.invoke(messages(found["price"])).content}


async def look_up_later(question: dict) -> dict:
    return {"price": await price_of.ainvoke({"article": question["article"]})}


async def answer_later(found: dict) -> dict:
    return {"reply": (await model.ainvoke(messages(found["price"]))).content}


chain = RunnableLambda(look_up, afunc=look_up_later) | RunnableLambda(answer, afunc=answer_later)


def config(client: Precipiq | AsyncPrecipiq, agent: str, **options: bool) -> dict:
    return {"callbacks": [PrecipiqLangChainCallback(client, agent_id=agent, **options)]}


def spool() -> list:
    return [json.loads(line) for line in fallback.read_text().splitlines()] if fallback.exists() else []


def langchain() -> object:
    text_model = FakeListLLM(responses=[REPLY])
    failing = FakeListChatModel(responses=[REPLY], error_on_chunk_number=2)
    with Precipiq(key, base_url=url, raise_on_error=True, fallback_log_path=fallback) as client:
        reply = chain.invoke(QUESTION, config(client, "batched"))
    with Precipiq(key, base_url=url, enable_batching=False, fallback_log_path=fallback) as client:
        chain.invoke(QUESTION, config(client, "single"))
        tokens = [chunk.content for chunk in model.stream("Tell me.", config(client, "stream"))]
        text_model.invoke("Tell me.", config(client, "text"))
        text_model.invoke("A secret.", config(client, "private", capture_inputs=False, capture_outputs=False))
        try:
            list(failing.stream("Tell me.", config(client, "failing")))
        except Exception as error:
            raised = type(error).__name__
        before = spool()
        prompt = ChatPromptTemplate.from_messages([("human", "What costs {article}?")])
        usual = prompt | model | StrOutputParser()
        text = usual.invoke({"article": "lamp"}, config(client, "usual"))
    return {
        "reply": reply,
        "tokens": tokens,
        "raised": raised,
        "text": text,
        "spooled_before": len(before),
        "spooled": spool(),
    }


def langchain_async() -> object:
    async def main() -> object:
        async with AsyncPrecipiq(key, base_url=url, raise_on_error=True, fallback_log_path=fallback) as client:
            reply = await chain.ainvoke(QUESTION, config(client, "later"))
            tokens = [chunk.content async for chunk in model.astream("Tell me.", config(client, "later-stream"))]
        client = AsyncPrecipiq(key, base_url=url, raise_on_error=True, fallback_log_path=fallback)
        chain.invoke(QUESTION, config(client, "later-tasks"))  # blocks the loop, so the adapter leaves tasks behind
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})
        await client.close()
        return {"reply": reply, "tokens": tokens, "spooled": spool()}

    return asyncio.run(main())


@dataclass
class ToolResult:
    """As in CrewAI 0.203: what a tool gave back, the first thing a step's callback sees."""

    result: str
    result_as_answer: bool = False


@dataclass
class AgentAction:
    """As in CrewAI 0.203."""

    thought: str
    tool: str
    tool_input: str
    text: str
    result: str | None = None


@dataclass
class AgentFinish:
    """As in CrewAI 0.203."""

    thought: str
    output: str
    text: str


def crew(client: Precipiq | AsyncPrecipiq, agent: str) -> None:
    """One task of a crew that uses one tool: the calls that CrewAI makes, in its order."""
    callback = PrecipiqCrewAICallback(client, agent_id=agent)
    callback(ToolResult("12 €"))
    callback(AgentAction("Look it up", "price_of", '{"article": "lamp"}', "Look it up\nObservation: 12 €", "12 €"))
    callback(AgentFinish("Now I know", REPLY, f"Final Answer: {REPLY}"))


def crewai() -> object:
    with Precipiq(key, base_url=url, raise_on_error=True, fallback_log_path=fallback) as client:
        crew(client, "crew")
        older = PrecipiqCrewAICallback(client, agent_id="crew-older")
        older(agents.AgentAction(tool="price_of", tool_input={"article": "lamp"}, log="Look it up"))
        older(agents.AgentFinish(return_values={"output": REPLY}, log="Now I know"))
        PrecipiqCrewAICallback(client, agent_id="crew-private", capture_inputs=False, capture_outputs=False)(
            agents.AgentAction(tool="price_of", tool_input="secret", log="secret")
        )

    async def main() -> None:
        client = AsyncPrecipiq(key, base_url=url, raise_on_error=True, fallback_log_path=fallback)
        await asyncio.to_thread(crew, client, "crew-thread")  # so does Crew.kickoff_async
        crew(client, "crew-tasks")
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})
        await client.close()

    asyncio.run(main())
    return {"spooled": spool()}


print(json.dumps(globals()[scenario]()))
