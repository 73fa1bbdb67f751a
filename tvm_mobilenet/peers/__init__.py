"""Files of networks for other engines."""
