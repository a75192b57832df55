"""The core's database: plain reads, tenant reads, transactions and the schema. Entries belong to their driver."""
