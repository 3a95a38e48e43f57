"""Terms that print as text, and the nearest of the names that are known."""
