"""Our runtime: the C sources of a build's library, and what travels with a bundle beside it.

    pool.c      threads, and the three functions that TVM's kernels call
    instance.c  open, run, close; a run is a loop of calls whose arguments were made at open
    handles.c   which instances are open, and what a fork leaves of them
    steps.c     names, operands and times of those calls, for tools
    folder.c    the manifest, the weights and the hashes of a bundle's folder
    image.c     from RGB bytes to an input
    scores.c    what outputs say of classes
    numbers.c   what values stand for, whether they are numbers, the floating-point control register
    sha256.c    hashes
    selftest.c  the self-test
    error.c     what went wrong last, memory
    cpu.c       the CPU's features
    main.c      the program: its verbs; report.c what it prints
    picture.c   from files to pixels: .ppm, .pgm, which way is up; codecs.c JPEG and PNG, libjpeg.c JPEG
                without libturbojpeg; array.c .npy
    mobilenet.h, mobilenet.py  the interfaces that travel; mobilenet_pictures.py files as pixels for Python,
                mobilenet_program.py `python3 mobilenet.py`
    instance.py the library of a build in a process of our tools

`compiler/tables.py` writes a plan as C tables, `compiler/library.py` compiles and links,
`compiler/symbols.py` gives symbols names of the model's own.
"""
