"""Which point of its search space an untuned layer takes, by estimates of cycles from its shape and the core's data.

A module has ``choose(layer, core)``, which gives a decision record. What lines cost to move is `targets.memory`, what
was measured on a core its ``[limits]``. Nothing here makes code: of equal decisions it is the same.
"""
