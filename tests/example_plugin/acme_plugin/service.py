"""The domain: notes are entries of the chain. Knows the ledger by its contract and no HTTP."""

from __future__ import annotations

from collections.abc import Sequence

from acme_plugin.errors import NoteTooLong
from precipiq_contracts.chain import Chain, Draft, Entry
from precipiq_contracts.ledger import Ledger

NOTE = "acme_note"

_PAGE_ENTRIES = 500


class Notes:
    """Writes and reads notes."""

    def __init__(self, ledger: Ledger, text_characters_max: int) -> None:
        self._ledger = ledger
        self._text_characters_max = text_characters_max

    async def write(self, chain: Chain, author: str, text: str, key: str | None) -> Entry:
        """Seal a note: who wrote it stays for ever (body), what it says may be erased (payload)."""
        if len(text) > self._text_characters_max:
            raise NoteTooLong(details={"text": [f"must have at most {self._text_characters_max} characters"]})
        draft = Draft(NOTE, author, {"author": author}, {"text": text}, key and f"acme:{key}")
        appended = await self._ledger.append(chain, [draft])
        return appended.entries[0]

    async def read(self, chain: Chain, limit: int) -> Sequence[Entry]:
        """The oldest notes."""
        return await self._ledger.read(chain, 0, limit, NOTE)

    async def count(self, chain: Chain) -> int:
        """How many notes there are. Reads them all, a page at a time."""
        count, seq = 0, 0
        while page := await self._ledger.read(chain, seq, _PAGE_ENTRIES, NOTE):
            count, seq = count + len(page), page[-1].seq
        return count
