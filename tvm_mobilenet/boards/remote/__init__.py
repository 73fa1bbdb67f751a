"""Remote boards: TVM's RPC client with time limits, readable errors, and no process left behind.

``wire``     the handshake of TVM's RPC servers and trackers, with a message for each way in which it fails
``frames``   TVM's frames, and the answers that each request allows
``reply_filter``  the process between TVM's client and a board; ``link`` starts and ends it
``session``  one session: every call with a limit, in a thread that no signal reaches
``board``    ``RemoteBoard``: files, services, modules
``module``   ``RemoteModule``: the calls of a local module, over RPC
"""
