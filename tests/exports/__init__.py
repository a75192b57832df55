"""Exports: bundles, signing keys, jobs and stores."""
