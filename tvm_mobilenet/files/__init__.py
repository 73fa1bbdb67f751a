"""Files written whole or not at all, and JSON that somebody else may have written."""
