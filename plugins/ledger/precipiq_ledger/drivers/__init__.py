"""The entry store drivers that the ledger ships. They register through the same hook as everybody's."""
