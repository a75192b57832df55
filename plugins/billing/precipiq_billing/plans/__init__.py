"""Plans of a deployment that charges its own tenants: Stripe's subscriptions decide each organisation's plan."""
