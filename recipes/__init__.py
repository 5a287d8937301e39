"""Whole procedures, one command each."""
