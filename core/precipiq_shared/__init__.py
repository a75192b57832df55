"""What plugins share and core itself has no use for. Knows no plugin."""
