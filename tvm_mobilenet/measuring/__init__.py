"""What a network's runs and kernels take: records, statistics, conditions, rooflines, regressions."""
