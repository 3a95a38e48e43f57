"""What the structure of blocks saves: windows and diagonals of generators."""
