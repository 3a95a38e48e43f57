"""Files that are whole or absent, and tell when a bit of them has changed."""
