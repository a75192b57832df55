"""Makes the plugin importable from its source folder: it is not part of the project's environment."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
