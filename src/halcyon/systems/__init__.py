"""Start structures: built, packed, guessed and drawn."""
