"""The memory of another process, read from outside. Linux only; as its user, or as root."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

_CHUNK_BYTES = 16 * 1024 * 1024


def search_memory(pid: int, needles: Mapping[str, bytes]) -> set[str]:
    """Names of the needles found in any memory that the process can read. Raises ``OSError`` if that is forbidden."""
    overlap = max(map(len, needles.values())) - 1
    found = set()
    for chunk in _chunks(pid, overlap):
        found |= {name for name, needle in needles.items() if name not in found and needle in chunk}
    return found


def _chunks(pid: int, overlap: int) -> Iterator[bytes]:
    """All readable mappings, in pieces that overlap."""
    mappings = Path(f"/proc/{pid}/maps").read_text().splitlines()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for mapping in mappings:
            addresses, rights = mapping.split()[:2]
            if "r" not in rights or mapping.endswith(("[vvar]", "[vvar_vclock]", "[vsyscall]")):
                continue
            position, end = (int(address, 16) for address in addresses.split("-"))
            while position < end:
                memory.seek(position)
                try:
                    chunk = memory.read(min(_CHUNK_BYTES, end - position))
                except OSError:  # unmapped meanwhile, or the part of a mapped file behind its end
                    break
                if not chunk:
                    break
                yield chunk
                position += max(len(chunk) - overlap, 1) if position + len(chunk) < end else len(chunk)
