"""The same networks for other engines."""
