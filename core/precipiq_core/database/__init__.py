"""The core's database: plain reads, tenant reads, transactions and the schema. Entries belong to their driver."""

from precipiq_core.database.open import ManagedDatabase, new_database
from precipiq_core.database.settings import DatabaseSettings

__all__ = ["DatabaseSettings", "ManagedDatabase", "new_database"]
