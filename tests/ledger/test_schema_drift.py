"""Who disarms what guards the tables is noticed by the sweep alone, before and after a restart."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest

from precipiq_testkit.server import ServerProcess, running_server
from tests.database.intruder import hollow_index

pytestmark = pytest.mark.slow

SWEEP = {"PRECIPIQ__PLUGINS__LEDGER__SWEEP_INTERVAL_S": "0.1"}
CHANGED, AS_IT_WAS = "the schema was changed, and not by a migration", "the schema is as it was recorded again"
PATIENCE_S = 240.0

SQLITE = {
    "a trigger dropped": ("DROP TRIGGER {trigger}", "{trigger_sql}", "trigger {trigger}"),
    "a trigger added": (
        "CREATE TRIGGER mine AFTER INSERT ON entries BEGIN SELECT 1; END",
        "DROP TRIGGER mine",
        "trigger mine",
    ),
    "an index that hides rows": (
        "DROP INDEX {index}; CREATE INDEX {index} ON entries (hash) WHERE seq < 0",
        "DROP INDEX {index}; {index_sql}",
        "index {index}",
    ),
    "a view added": ("CREATE VIEW mine AS SELECT * FROM entries", "DROP VIEW mine", "view mine"),
}
POSTGRES = {
    "a trigger disabled": (
        "ALTER TABLE entries DISABLE TRIGGER {trigger}",
        "ALTER TABLE entries ENABLE ALWAYS TRIGGER {trigger}",
        "trigger {trigger} of entries",
    ),
    "a policy that shows everything": (
        "CREATE POLICY mine ON entries USING (true)",
        "DROP POLICY mine ON entries",
        "policy mine of entries",
    ),
    "row-level security that the owner escapes": (
        "ALTER TABLE api_keys NO FORCE ROW LEVEL SECURITY",
        "ALTER TABLE api_keys FORCE ROW LEVEL SECURITY",
        "table api_keys",
    ),
    "a function of one's own": (
        "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "DROP FUNCTION mine()",
        "function mine()",
    ),
    "an index that hides rows": (
        "DROP INDEX {index}; CREATE INDEX {index} ON entries (hash) WHERE seq < 0",
        "DROP INDEX {index}; {index_sql}",
        "index {index}",
    ),
    "a rule that swallows rows": (
        "CREATE RULE mine AS ON INSERT TO organisations DO INSTEAD NOTHING",
        "DROP RULE mine ON organisations",
        "rule mine of organisations",
    ),
}
ACTS = [*(("sqlite", name) for name in SQLITE), *(("postgres", name) for name in POSTGRES)]


@pytest.fixture(scope="module")
def guarded(
    database: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server that looks ten times a second."""
    with ExitStack() as stack:
        postgres = None
        if database == "postgres":
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            postgres = request.getfixturevalue("migrated_postgres").copy()
            stack.callback(postgres.drop)
            for name, value in postgres.environment.items():
                patch.setenv(name, value)
        server = running_server(tmp_path_factory.mktemp("guarded"), postgres=postgres, overrides=SWEEP)
        yield stack.enter_context(server)


def first(look: Callable[[], list[Any]]) -> list[Any]:
    deadline_s = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < deadline_s, "it does not come"
        time.sleep(0.02)
    return found


def logged(server: ServerProcess, event: str, after: int = 0) -> list[dict[str, Any]]:
    return [line for line in server.log_lines() if line.get("event") == event][after:]


def written_us(server: ServerProcess) -> int:
    """When the last round of the sweep was put on record."""
    return int(json.loads((server.data_dir / "sweep" / "sweep.json").read_bytes())["written_us"])


def names_of(server: ServerProcess) -> dict[str, str]:
    """A trigger and an index of the entries, and what made them."""
    if server.postgres is None:
        sql = "SELECT name, sql FROM sqlite_master WHERE tbl_name = 'entries' AND type = '{}' AND sql IS NOT NULL"
        (trigger, trigger_sql), (index, index_sql) = (
            server.sql(sql.format(kind) + " ORDER BY name")[0] for kind in ("trigger", "index")
        )
    else:
        [(trigger, trigger_sql)] = server.sql(
            "SELECT tgname, '' FROM pg_trigger WHERE tgrelid = 'entries'::regclass AND NOT tgisinternal LIMIT 1"
        )
        [(index, index_sql)] = server.sql(
            "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index "
            "WHERE indrelid = 'entries'::regclass AND NOT indisunique ORDER BY 1 LIMIT 1"
        )
    return {"trigger": trigger, "trigger_sql": trigger_sql, "index": index, "index_sql": index_sql}


def statements(text: str, names: dict[str, str]) -> list[str]:
    return [text.format(**names)] if "TRIGGER" in text else text.format(**names).split("; ")


def names(found: dict[str, Any]) -> set[str]:
    assert found["level"] == "critical"
    return set(found["objects"])


@pytest.mark.parametrize(("database", "act"), ACTS, indirect=["database"], scope="module")
def test_a_guard_that_is_disarmed_is_named(guarded: ServerProcess, database: str, act: str) -> None:
    made = names_of(guarded)
    change, undo, name = (SQLITE if database == "sqlite" else POSTGRES)[act]
    first(lambda: logged(guarded, "the guards of the schema are recorded"))
    changes, repairs = len(logged(guarded, CHANGED)), len(logged(guarded, AS_IT_WAS))

    guarded.sql(*statements(change, made))
    [found, *_] = first(lambda: logged(guarded, CHANGED, changes))
    assert name.format(**made) in names(found)
    assert found["code"] == "SCHEMA_DRIFT"
    ready = first(lambda: [answer] if (answer := httpx2.get(f"{guarded.url}/readyz")).status_code == 503 else [])
    assert ready[0].json()["parts"]["ledger.integrity"] != "ok"

    guarded.sql(*statements(undo, made))
    first(lambda: logged(guarded, AS_IT_WAS, repairs))
    first(lambda: [True] if httpx2.get(f"{guarded.url}/readyz").status_code == 200 else [])


def test_what_was_disarmed_while_the_server_was_down_is_named_at_its_start(guarded: ServerProcess) -> None:
    made = names_of(guarded)
    table = SQLITE if guarded.postgres is None else POSTGRES
    change, undo, name = table["an index that hides rows"]
    first(lambda: logged(guarded, "the guards of the schema are recorded"))
    assert guarded.stop() == 0
    guarded.sql(*statements(change, made))
    guarded.start_on(guarded.url.rpartition(":")[2])
    [found] = first(lambda: logged(guarded, CHANGED))
    assert names(found) == {name.format(**made)}
    guarded.sql(*statements(undo, made))
    first(lambda: logged(guarded, AS_IT_WAS))


@pytest.mark.parametrize("database", ["sqlite"], indirect=True, scope="module")
def test_an_index_that_was_emptied_behind_its_definition_is_named(guarded: ServerProcess) -> None:
    assert guarded.stop() == 0
    hollow_index(guarded.database_file, "entries_kind", "kind = 'key_created'")
    guarded.start_on(guarded.url.rpartition(":")[2])
    [found] = first(lambda: logged(guarded, "an index does not hold what its table holds: queries miss rows"))
    assert (found["level"], found["code"]) == ("critical", "INDEX_INCOMPLETE")
    assert any("entries_kind" in problem for problem in found["problems"])
    first(lambda: [True] if httpx2.get(f"{guarded.url}/readyz").status_code == 503 else [])
    assert logged(guarded, CHANGED) == []
    guarded.sql("REINDEX entries_kind")
    first(lambda: logged(guarded, "the indexes hold what their tables hold again"))


def test_an_index_of_the_operators_own_is_no_fault(guarded: ServerProcess) -> None:
    before = len(logged(guarded, CHANGED))
    guarded.sql("CREATE INDEX operators_own ON entries (hash)")
    rounds = {written_us(guarded)}
    first(lambda: [True] if rounds.add(written_us(guarded)) or len(rounds) > 2 else [])
    assert len(logged(guarded, CHANGED)) == before
    guarded.sql("DROP INDEX operators_own")
