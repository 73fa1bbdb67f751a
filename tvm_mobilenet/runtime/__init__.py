"""What travels with a bundle: the C sources of our runtime, its header, the `mobilenet` program and `mobilenet.py`.

    pool.c      threads, and the three functions that TVM's kernels call
    instance.c  open, run, close; a run is a loop of calls whose arguments were made at open
    folder.c    the manifest, the weights and the hashes of a bundle's folder
    image.c     from RGB bytes to an input
    check.c     CPU features, self-test, memory
    main.c      the program

`tables.py` writes a plan as C tables, `symbols.py` gives the symbols of an object names of the model's own.
"""
