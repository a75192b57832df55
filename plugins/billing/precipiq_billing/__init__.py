"""Money on the chain, from the API and from Stripe. The plugin is ``precipiq_billing.plugin``."""
