"""First on the path of TVM's own servers, which start sooner without PyTorch and have no use for it."""

raise ImportError("there is no PyTorch on a board")
