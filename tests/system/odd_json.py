"""JSON documents at the edges of what the door accepts."""

from __future__ import annotations

import random
from typing import Any

DIGITS = (1, 15, 16, 17, 19, 20, 21, 22, 100, 308, 309, 400, 1000, 4299, 4300)
FLOATS = (
    *(1e308, -1e308, 5e-324, 2.2250738585072014e-308, 1e20, 1e21, 1e22, 123456789012345680000.0, 1e-5, 1e-6, 1e-7),
    *(-0.0, 0.1, 1 / 3, 9007199254740993.0, 4.35, 1.0, 100.0, -1.5e300),
)
TEXTS = (
    *("", " ", "\x00", "\x00\x1f\x7f\x80", "\u2028\u2029", "\ufeff", "\uffff", "\U0010ffff", "🚀", "é", "e\u0301"),
    *('"', "\\", '\\"', "</script>", '","id":"', '{"a":1}', ',"body":{', "null", "=1+1", "@SUM(A1)", "+1", "-1", "'"),
    *("a\r\nb", "a\nb", "\t", ",", ";", "x" * 9000, "ÿ" * 3000, "%00", "0" * 20, "1" * 400, "-" + "9" * 19),
)
KEYS = (
    *("", "v", "seq", "id", "kind", "hash", "salt", "body", "payload", "agent_id", "redacted", "__proto__", "metadata"),
    *(
        "\x00",
        "\u2028",
        "\U0001f600",
        "\ufb01",
        "é",
        '"',
        "\\",
        "a.b",
        "a b",
        "0",
        "constructor",
        "decision_id",
        "=cmd",
    ),
)


def integer(chance: random.Random) -> int:
    """Near a power of two where parsers change, or of very many digits."""
    if chance.random() < 0.5:
        near = 2 ** chance.choice((31, 32, 53, 63, 64, 127, 1024))
        return chance.choice((1, -1)) * (near + chance.randint(-2, 2))
    digits = chance.choice(DIGITS)
    return chance.choice((1, -1)) * chance.randint(10 ** (digits - 1), 10**digits - 1)


def scalar(chance: random.Random) -> Any:
    return chance.choice(
        (
            lambda: integer(chance),
            lambda: chance.choice(FLOATS),
            lambda: chance.choice(TEXTS),
            lambda: chance.choice((True, False, None)),
            lambda: chance.uniform(-1, 1) * 10 ** chance.randint(-300, 300),
            lambda: "".join(chr(chance.choice((chance.randrange(0xD800), chance.randrange(0xE000, 0x110000))))),
        )
    )()


def value(chance: random.Random, levels: int = 3) -> Any:
    if levels and chance.random() < 0.5:
        if chance.random() < 0.5:
            return [value(chance, levels - 1) for _ in range(chance.choice((0, 1, 2, 5)))]
        return document(chance, levels - 1)
    return scalar(chance)


def document(chance: random.Random, levels: int = 3) -> dict[str, Any]:
    """An object; now and then one that is as deep as the door allows."""
    if chance.random() < 0.02:
        deep: Any = scalar(chance)
        for _ in range(55):
            deep = [deep] if chance.random() < 0.5 else {chance.choice(KEYS): deep}
        return {"deep": deep}
    return {chance.choice(KEYS): value(chance, levels) for _ in range(chance.choice((0, 1, 1, 2, 6)))}
