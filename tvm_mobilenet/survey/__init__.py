"""The cost of networks on boards without a build: estimates, budgets, the papers' ratios, reports."""
