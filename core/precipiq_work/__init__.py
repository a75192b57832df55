"""Where work runs, and in whose turn: child processes, and the turns that organisations take."""
