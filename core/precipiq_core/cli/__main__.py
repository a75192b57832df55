"""``python -m precipiq_core.cli``: the same as the command ``precipiq``."""

from precipiq_core.cli.main import main

main()
