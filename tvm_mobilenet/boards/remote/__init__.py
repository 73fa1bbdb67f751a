"""Boards in the next room: TVM's RPC client with time limits, plain words for what goes wrong, and nothing left behind.

``wire``     what a port says: the handshake of TVM's RPC servers and trackers, so that each way it fails has a message
``frames``   TVM's frames: what may answer which request
``reply_filter``  the process between TVM's client and a board; ``link`` starts and ends it
``session``  one session: every call with a limit, in a thread that no signal reaches
``board``    ``RemoteBoard``: files, services, modules
``module``   ``RemoteModule``: the calls of a local module, over RPC
"""
