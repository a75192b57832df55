"""Renders docs/settings.md from the models: `.venv/bin/python tests/repo/settings_page.py > docs/settings.md`."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from precipiq_auth_keys.config import AddressLimitsConfig, AuthKeysConfig
from precipiq_billing.config import BillingConfig
from precipiq_billing.plans.config import PlansConfig, TierConfig
from precipiq_bundles_s3.config import BundlesS3Config
from precipiq_contracts.settings import SecretReference
from precipiq_core.deployment import DeploymentSettings, SecretSettings
from precipiq_core.http.settings import HttpSettings
from precipiq_exports.config import ExportsConfig
from precipiq_hypercorn.config import HypercornConfig, TlsSettings
from precipiq_ledger.config import LedgerConfig
from precipiq_logs.settings import LogSettings
from precipiq_outcomes.config import CorrelationConfig, LiabilityConfig, OutcomesConfig
from precipiq_postgres.config import PostgresConfig
from precipiq_sqlite.config import SqliteConfig
from precipiq_vault_aws.config import VaultAwsConfig
from precipiq_vault_local.config import VaultLocalConfig
from precipiq_ws_stream.config import WsStreamConfig

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"

SECTIONS: dict[str, type[BaseModel] | tuple[type[BaseModel], ...]] = {
    "deployment": DeploymentSettings,
    "server": HypercornConfig,
    "server.tls": TlsSettings,
    "http": HttpSettings,
    "logs": LogSettings,
    "database": (SqliteConfig, PostgresConfig),
    "secrets": SecretSettings,
    "plugins.ledger": LedgerConfig,
    "plugins.auth_keys": AuthKeysConfig,
    "plugins.address_limits": AddressLimitsConfig,
    "plugins.ws_stream": WsStreamConfig,
    "plugins.exports": ExportsConfig,
    "plugins.billing": BillingConfig,
    "plugins.billing.plans": PlansConfig,
    "plugins.billing.plans.tiers.NAME": TierConfig,
    "plugins.outcomes": OutcomesConfig,
    "plugins.outcomes.correlation": CorrelationConfig,
    "plugins.outcomes.liability": LiabilityConfig,
    "plugins.vault_local": VaultLocalConfig,
    "plugins.vault_aws": VaultAwsConfig,
    "plugins.bundles_s3": BundlesS3Config,
}


def render() -> str:
    lines = ["# Settings", "", "Generated from the code. Units are the last word of a name, or in the description.", ""]
    for section, models in SECTIONS.items():
        lines += [f"## [{section}]", "", "| key | default | meaning |", "|---|---|---|"]
        for name, fields in _fields(models if isinstance(models, tuple) else (models,)).items():
            field = fields[0]
            parts = (field.annotation, *get_args(field.annotation))
            nested = any(isinstance(part, type) and issubclass(part, BaseModel) for part in parts)
            nested = nested and field.annotation is not SecretReference
            default = "required" if field.is_required() else _shown(field.get_default(call_default_factory=True))
            meaning = ", or ".join(dict.fromkeys(each.description or "" for each in fields)).replace("|", "\\|")
            lines.append(f"| `{name}` | {default} | {meaning}{' (a table)' if nested else ''} |")
        lines.append("")
    return "\n".join(lines)


def _fields(models: tuple[type[BaseModel], ...]) -> dict[str, list[FieldInfo]]:
    """By name; several where each plugin that a section may belong to has its own."""
    found: dict[str, list[FieldInfo]] = {}
    for model in models:
        for name, field in model.model_fields.items():
            found.setdefault(name, []).append(field)
    return found


def _shown(value: object) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, BaseModel):
        return "as below"
    if isinstance(value, dict):
        return "<br>".join(f"`{name} = {item}`" for name, item in value.items()) or "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    print(render(), end="")
