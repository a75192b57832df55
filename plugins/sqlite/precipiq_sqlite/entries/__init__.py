"""The entry store driver that acts natively on the SQLite file."""
