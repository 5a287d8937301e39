"""nano: things and codes on screen, and moments found among a million tokens."""
