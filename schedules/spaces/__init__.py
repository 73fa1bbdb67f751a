"""Search spaces: what may be chosen of a kind of layer, what registers allow, which combinations make no sense.

A module has the candidates of each choice and ``refuse(layer, decisions, core)``. The loop nest that they mean is in
the module of the same name in ``schedules``, the point of an untuned build in ``schedules.defaults``.
"""
