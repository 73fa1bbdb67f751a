"""The time of a network's runs and kernels: records, statistics, conditions, rooflines, regressions."""
