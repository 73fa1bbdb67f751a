"""The runtime: the C sources of a build's library, and the other files of a bundle.

    pool.c      threads, and the three functions that TVM's kernels call
    instance.c  open, run, close; a run is a loop of calls whose arguments were made at open
    handles.c   the list of open instances, also after a fork
    steps.c     names, operands and times of those calls, for tools
    folder.c    the manifest, the weights and the hashes of a bundle's folder
    image.c     from RGB bytes to an input
    scores.c    the best classes and their probabilities
    numbers.c   meaning of values, checks for infinities and NaN, the floating-point control register
    sha256.c    hashes
    selftest.c  the self-test
    error.c     the last error, memory
    cpu.c       the CPU's features
    main.c      the program: its verbs; report.c its output
    picture.c   from files to pixels: .ppm, .pgm, orientation; codecs.c JPEG and PNG, libjpeg.c JPEG
                without libturbojpeg; array.c .npy
    mobilenet.h, mobilenet.py  the interfaces in a bundle; mobilenet_pictures.py files as pixels for Python,
                mobilenet_program.py `python3 mobilenet.py`
    instance.py a build's library in a process of the verbs

`compiler/tables.py` writes a plan as C tables, `compiler/library.py` compiles and links,
`compiler/symbols.py` gives symbols names of the model's own.
"""
