"""Standard, attacked and verified accuracy, and where the results live."""
