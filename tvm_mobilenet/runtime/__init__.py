"""What travels with a bundle: the C sources of our runtime, its header, the `mobilenet` program and `mobilenet.py`.

    pool.c      threads, and the three functions that TVM's kernels call
    instance.c  open, run, close; a run is a loop of calls whose arguments were made at open
    folder.c    the manifest, the weights and the hashes of a bundle's folder
    image.c     from RGB bytes to an input
    scores.c    what outputs say of classes
    sha256.c    hashes
    selftest.c  the self-test
    error.c     what went wrong last, memory
    cpu.c       the CPU's features
    main.c      the program

`bundle/tables.py` writes a plan as C tables, `bundle/symbols.py` gives symbols names of the model's own.
"""
