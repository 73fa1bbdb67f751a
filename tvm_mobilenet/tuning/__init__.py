"""The search for decisions: candidates, workers, fleets of boards, sessions."""
