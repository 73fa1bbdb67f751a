"""The board's side of RPC: what an agent serves, measures and tells."""
