"""``VERIFY.md``: how to check a bundle without us, with the bundle's own values."""

from __future__ import annotations

import json
from pathlib import Path

from precipiq_contracts.clock import format_timestamp
from precipiq_exports.bundle.spec import BundleSpec

_TEMPLATE = Path(__file__).with_name("VERIFY.md")


def guide(spec: BundleSpec) -> bytes:
    """The page. Its facts of this bundle are those known before the bundle was written."""
    asked = ", ".join(f"{name} {json.dumps(value)}" for name, value in spec.filters.items() if value is not None)
    values = {
        "export_id": spec.export_id,
        "created_at": format_timestamp(spec.created_us),
        "organisation": json.dumps(spec.chain.org_id),
        "environment": spec.chain.environment,
        "range": f"{spec.after_seq + 1} to {spec.through_seq}",
        "asked": asked or "everything",
        "fingerprint": spec.signing_key.fingerprint,
    }
    text = _TEMPLATE.read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace("{" + name + "}", value)
    return text.encode()
