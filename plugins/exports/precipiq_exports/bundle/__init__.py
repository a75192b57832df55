"""The evidence bundle: a signed ZIP that a stranger checks. Knows no server: a store's auditor in, bytes out."""
