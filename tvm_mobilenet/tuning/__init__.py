"""The search of decisions: candidates, workers, fleets of boards, sessions."""
