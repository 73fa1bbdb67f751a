"""The decisions of an untuned layer: one point of its search space, by estimates of cycles from its shape and the
core's data.

Each module has ``choose(layer, core)``, which returns a decision record. The cost of moving cache lines comes from
`targets.memory`, figures measured on a core from its ``[limits]``. Nothing here generates code: equal decisions give
equal code, however they were chosen.
"""
