"""Mistakes of a plugin's author: each is one sentence that names the plugin and the hook, and none is a traceback."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click
import pytest
from pydantic import BaseModel, model_validator
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from precipiq_contracts.database import Migration
from precipiq_contracts.errors import DeploymentError, ValidationFailed
from precipiq_core.app import Application
from precipiq_core.http.endpoint import Endpoint
from precipiq_core.plugin import LayeredMiddleware, PluginBase, PluginConfig, hookimpl
from precipiq_core.running import run_lifespans
from precipiq_work.child_process import ChildProcess
from tests.core.servants import OddlyMadeError, Thrower

pytestmark = pytest.mark.anyio

Problems = Callable[..., list[str]]


class Out(BaseModel):
    """An answer."""


async def answer(call: Any) -> object:
    """Answer."""
    return {}


def endpoint(**changes: Any) -> Endpoint:
    given = {"method": "GET", "path": "/x", "handler": answer, "scope": "read", "output": Out}
    return Endpoint(**{**given, **changes})


def giving(hook: str, value: Any, **attributes: Any) -> type[PluginBase[Any]]:
    """A plugin whose hook returns that; an exception is raised, and a function called."""

    def give(self: object) -> Any:
        if isinstance(value, BaseException):
            raise value
        return value() if callable(value) and not isinstance(value, type) else value

    give.__name__ = hook
    return type("Mistaken", (PluginBase,), {"name": "mistaken", hook: hookimpl(give), **attributes})


def wrapped(value: Any) -> Any:
    return lambda: [value]


@pytest.mark.parametrize(
    ("hook", "value"),
    [
        *[
            (hook, [5])
            for hook in ("migrations", "wrapped_secrets", "routes", "middleware", "authenticators", "commands")
        ],
        *[(hook, [object()]) for hook in ("migrations", "wrapped_secrets", "routes", "authenticators", "secret_names")],
        ("secret_names", [5]),
        ("migrations", [Migration]),
        ("routes", [Endpoint]),
        ("commands", [click.Command]),
        ("middleware", [LayeredMiddleware]),
        ("routes", {"a": 1}),
        ("routes", "no routes"),
        ("secret_names", (name for name in ("a",))),
        ("commands", SystemExit(0)),
        ("secret_names", SystemExit(3)),
        ("migrations", KeyError("pq_live_x")),
        ("lifespan", 5),
        ("lifespan", SystemExit(1)),
    ],
)
def test_what_a_hook_must_not_give_is_told(boot_problems: Problems, hook: str, value: Any) -> None:
    [problem] = boot_problems(giving(hook, value))
    assert problem.startswith(f"plugin mistaken, hook {hook}: "), problem
    assert "\n" not in problem


@pytest.mark.parametrize(
    "change",
    [
        {"method": "get"},
        {"method": "PUT"},
        {"path": "x"},
        {"path": None},
        {"scope": "wirte"},
        {"rate": "nope"},
        {"handler": 5},
        {"body": dict},
        {"body": 5},
        {"output": dict},
        {"output": 5},
        {"errors": "not_found"},
        {"errors": 5},
        {"errors": (5,)},
    ],
    ids=str,
)
def test_an_endpoint_that_no_request_could_use_is_told(boot_problems: Problems, change: dict[str, Any]) -> None:
    [problem] = boot_problems(giving("routes", lambda: [endpoint(**change)]))
    assert problem.startswith("plugin mistaken, hook routes: ValueError: "), problem
    with pytest.raises(ValueError, match=r"is|are|begins"):
        endpoint(**change)


def test_a_layer_that_there_is_not_is_told(boot_problems: Problems) -> None:
    [problem] = boot_problems(giving("middleware", lambda: [LayeredMiddleware("egde", lambda app: app)]))  # type: ignore[arg-type]
    assert "plugin mistaken, hook middleware" in problem
    assert "'egde'" in problem


@pytest.mark.parametrize("path", ["/bp/{a}/{a}", "/bp/{a:nope}"])
@pytest.mark.parametrize("kind", ["endpoint", "route"])
def test_a_template_that_cannot_be_read_is_told(boot: Any, path: str, kind: str) -> None:
    route = endpoint(path=path, absolute=True) if kind == "endpoint" else None
    given = wrapped(route or Route(path, PlainTextResponse)) if route else lambda: [Route(path, PlainTextResponse)]
    with pytest.raises(DeploymentError) as caught:
        Application(boot(giving("routes", given)))
    [problem] = caught.value.problems
    assert "mistaken" in problem


@pytest.mark.parametrize("kind", ["absent", "file", "text"])
def test_migrations_in_a_folder_that_there_is_not_are_told(boot_problems: Problems, tmp_path: Path, kind: str) -> None:
    folder: Any = tmp_path / "sql"
    if kind == "file":
        folder.write_text("")
    elif kind == "text":
        folder = str(tmp_path)
    [problem] = boot_problems(giving("migrations", [Migration("mistaken", folder, {})]))
    assert problem == (
        "plugin mistaken, hook migrations: the location of branch mistaken must be the Path of a folder that "
        f"exists, not {folder}"
    )


def test_an_error_code_that_no_error_has_is_told(boot: Any) -> None:
    given = [endpoint(errors=("not_found", "no_such")), endpoint(path="/y", absolute=True, errors=("nor_this",))]
    with pytest.raises(DeploymentError) as caught:
        Application(boot(giving("routes", lambda: given)))
    assert caught.value.problems == (
        "plugin mistaken: GET /api/v1/x names the error code 'no_such' in errors, which no error has",
        "plugin mistaken: GET /y names the error code 'nor_this' in errors, which no error has",
    )


def test_middleware_that_raises_is_told(boot: Any) -> None:
    def refuse(app: Any) -> Any:
        raise KeyError("why")

    with pytest.raises(DeploymentError, match="plugin mistaken, hook middleware: KeyError: 'why'"):
        Application(boot(giving("middleware", [LayeredMiddleware("app", refuse)])))


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("provides", "Cap"),
        ("provides", ("Cap",)),
        ("provides", int),
        ("requires", None),
        ("requires", ("Cap",)),
        ("optional", [int]),
        ("owns", ("X",)),
        ("Config", dict),
        ("Config", 5),
    ],
)
def test_a_class_that_declares_nonsense_is_told(boot_problems: Problems, attribute: str, value: Any) -> None:
    problems = boot_problems(giving("secret_names", ["a"], **{attribute: value}))
    assert [problem for problem in problems if problem.startswith("plugins.mistaken: ") and attribute in problem]


def test_owned_hooks_that_are_none_are_told(boot_problems: Problems) -> None:
    problems = boot_problems(giving("secret_names", ["a"], owns=(int,)))
    assert problems == ["plugin mistaken: int in owns specifies no hook"]


def test_a_validator_that_fails_is_told(boot_problems: Problems) -> None:
    class Odd(PluginConfig):
        @model_validator(mode="after")
        def _fail(self) -> Odd:
            raise KeyError("odd")

    assert boot_problems(giving("secret_names", ["a"], Config=Odd)) == ["plugins.mistaken: KeyError: 'odd'"]


def test_every_plugin_with_a_mistake_in_one_hook_is_told(boot_problems: Problems) -> None:
    first, second = giving("secret_names", [5]), giving("secret_names", KeyError("b"), name="other")
    problems = boot_problems(first, second)
    assert [problem.partition(",")[0] for problem in problems] == ["plugin mistaken", "plugin other"]


def test_a_plugin_whose_own_hooks_failed_is_asked_nothing_more(boot_problems: Problems) -> None:
    def gather(self: object, hooks: object, services: object) -> None:
        raise SystemExit(4)

    problems = boot_problems(giving("secret_names", KeyError("never asked"), gather=gather))
    assert problems == ["plugin mistaken, gather: SystemExit: 4"]


@pytest.mark.parametrize("template", ["/{rest:path}", "/api/v1/{any}/{x}", "/api/{any:path}"])
def test_a_template_that_takes_anothers_paths_fails_the_boot(boot: Any, template: str) -> None:
    theirs = giving("routes", lambda: [endpoint(path="/decisions/{id}")], name="theirs")
    wide = giving("routes", lambda: [Route(template, PlainTextResponse)])
    with pytest.raises(DeploymentError, match=r"/api/v1/decisions/\{id\} of theirs is taken by .* of mistaken"):
        Application(boot(wide, theirs))
    Application(boot(giving("routes", lambda: [Mount("/", app=PlainTextResponse("x"))]), theirs))


async def test_what_a_lifespan_asks_for_is_told_of_its_plugin(boot: Any) -> None:
    class Cap: ...

    class Asking(PluginBase[PluginConfig]):
        name = "asking"

        @hookimpl
        def lifespan(self, services: Any) -> Any:
            return self._run(services)

        @asynccontextmanager
        async def _run(self, services: Any) -> Any:
            services.get(Cap)
            yield

    with pytest.raises(DeploymentError, match="plugin asking asks for Cap"):
        async with run_lifespans(boot(Asking, giving("secret_names", ["a"]))):
            pass


async def test_an_error_that_cannot_be_pickled_keeps_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
    process = ChildProcess(Thrower())
    try:
        with pytest.raises(Exception, match="made of two") as caught:
            await process.call("throw")
        assert type(caught.value).__name__ == "InternalError"
        assert await process.call("add", 2, 3) == 5
    finally:
        await process.close()
    assert issubclass(OddlyMadeError, ValidationFailed)
