"""What every test may use."""

from __future__ import annotations

from hypothesis import settings

# A busy machine is no failure: no test has a wall clock.
settings.register_profile("longtake", deadline=None)
settings.load_profile("longtake")
