"""The commands of ``billing`` by name; entering a command imports its module."""

from __future__ import annotations

from precipiq_core.cli.later import Later

COMMANDS = (
    Later(
        "stripe", "Endpoints for Stripe's events, their secrets, and replays.", "precipiq_billing.commands:stripe_group"
    ),
    Later(
        "plans",
        "List the plans of organisations, and replay events of Stripe.",
        "precipiq_billing.plans.commands:plans_group",
    ),
)
