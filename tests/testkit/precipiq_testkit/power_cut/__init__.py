"""What a power cut would leave of a folder, for tests of durability: the public face is ``following``."""

from __future__ import annotations

from precipiq_testkit.power_cut.following import Disk, NotFollowed, following

__all__ = ["Disk", "NotFollowed", "following"]
