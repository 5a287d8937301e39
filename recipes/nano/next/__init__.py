"""The next nano: codes on screen, and moments found among a million tokens."""
