"""Code that verbs share: running a verb, its arguments and flags, its message after an interruption."""
