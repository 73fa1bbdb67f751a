"""The board's side of RPC: the agent's sessions, measurements and facts."""
