"""The entry store: each append a file."""
