"""What a decoder learns: what was asked for, and when it was."""
