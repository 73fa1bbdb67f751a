"""Search spaces: the free choices of a kind of layer, within its registers and without pointless combinations.

Each module has the candidates of each choice and ``refuse(layer, decisions, core)``. The module of the same name in
``schedules`` has the loop nest, that in ``schedules.defaults`` the decisions of an untuned build.
"""
