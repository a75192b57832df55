"""The tests of ``precipiq_testkit.entry_store``, one module per part of the contract. Subclass that, not these."""
