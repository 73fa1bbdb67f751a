"""Text for people: lines, tables as wide as the terminal, names of layers, progress."""
