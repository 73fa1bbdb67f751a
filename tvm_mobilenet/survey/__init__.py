"""What networks cost on boards without a build: estimates, budgets, the papers' ratios, reports."""
