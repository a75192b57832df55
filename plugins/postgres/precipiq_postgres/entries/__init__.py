"""The entry store driver that acts natively on PostgreSQL."""
