"""What a power cut would leave of a folder, for tests of durability: the public face is ``follow``."""

from __future__ import annotations

from precipiq_testkit.power_cut.following import Disk, NotFollowed, follow

__all__ = ["Disk", "NotFollowed", "follow"]
