"""Plans of a deployment that charges its own tenants: Stripe's subscriptions say who has which."""
