"""What goes to a device: packed, compiled, linked."""
