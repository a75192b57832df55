"""The commands of ``billing`` by name; what runs them is imported when one is entered."""

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
