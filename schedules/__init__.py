"""Schedules: what is computed for each kind of layer, and how.

A kind of layer is one module here with four functions that all take the same decision record (a plain dict such as
``{"tile_m": 7, "tile_n": 8}``):

``decisions(layer, core) -> Space``      its free choices, each with candidates and a default
``valid(layer, decisions, core) -> str`` why a combination is impossible, or the empty string
``pack(layer, decisions, weight, bias)`` the constants as the kernel wants them, numpy in, numpy out
``kernel(layer, decisions) -> PrimFunc`` TE compute, scheduled; arguments: data, packed constants, residual or
                                         second operand if any, output

The same decisions always give the same TIR, whoever asks: search, replay of a log or a default build.
"""
