"""Text output: lines, tables fitted to the terminal, names of layers, progress."""
