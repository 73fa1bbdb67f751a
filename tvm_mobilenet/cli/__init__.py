"""What verbs share: running one, its arguments and flags, what it says when it is interrupted."""
