"""The command ``precipiq``."""
