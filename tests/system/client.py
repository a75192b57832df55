"""A small client of the REST contract for tests."""

from __future__ import annotations

import json
import weakref
from typing import Any

import httpx2

from precipiq_testkit.server import ServerProcess


class Client:
    """Requests with one key; ``data`` unpacks the envelope."""

    def __init__(self, server: ServerProcess, key: str | None = None) -> None:
        self.http = httpx2.Client(
            base_url=f"{server.url}/api/v1", headers={"X-Precipiq-Key": key or server.key}, timeout=30
        )
        weakref.finalize(self, self.http.close)

    def data(self, method: str, path: str, **options: Any) -> Any:
        answer = self.http.request(method, path, **options)
        assert answer.is_success, f"{answer.status_code} {answer.text}"
        return json.loads(answer.text)["data"]

    def decide(self, number: int = 0, **changes: Any) -> Any:
        return self.data("POST", "/decisions", json=decision(number, **changes))

    def entries(self, page: int = 100) -> list[dict[str, Any]]:
        """Every raw entry of the chain, page by page."""
        found: list[dict[str, Any]] = []
        after = 0
        while after is not None:
            answer = self.data("GET", "/ledger/entries", params={"after_seq": after, "limit": page})
            found += answer["items"]
            after = answer["next_after_seq"]
        return found

    def verify(self) -> Any:
        return self.data("GET", "/decisions/chain/verify")


def decision(number: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "agent_id": f"agent-{number % 7}",
        "action_type": "discount_offer",
        "inputs": {"customer": number, "note": "Zoë 🚀"},
        "outputs": {"discount_pct": 15},
        "confidence": 0.82,
        **changes,
    }
