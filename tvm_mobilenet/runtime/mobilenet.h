/* A MobileNet as a C library: no Python, no TVM, no C++ library, only libc, libm and pthreads.
 *
 *     mobilenet *m;
 *     if (mobilenet_open("folder", NULL, &m)) { fputs(mobilenet_last_error(), stderr); exit(1); }
 *     mobilenet_run_rgb(m, pixels, width, height, 0, scores);
 *     mobilenet_top(m, scores, 5, best);
 *     mobilenet_close(m);
 *
 * All functions are safe to call from any thread; calls on one instance wait for each other. Nothing is allocated after
 * mobilenet_open except by mobilenet_set_threads, mobilenet_check, mobilenet_selftest, opening another instance, and the
 * first run in a forked child. An instance that was open at a fork is open in the child too, with threads of its own.
 * Nothing is ever written to stdout or stderr. These functions compute with the default rounding mode and with
 * subnormal numbers, and restore the caller's settings.
 *
 * A program that links two models statically defines MOBILENET_PREFIX before it includes this, once for each model and
 * file: the prefix is "symbol_prefix" in the bundle's manifest.
 */
#ifndef MOBILENET_H
#define MOBILENET_H

#include <stddef.h>
#include <stdint.h>

#ifdef MOBILENET_PREFIX
#define MOBILENET_JOIN_(a, b) a##b
#define MOBILENET_JOIN(a, b) MOBILENET_JOIN_(a, b)
#define mobilenet_open MOBILENET_JOIN(MOBILENET_PREFIX, mobilenet_open)
#define mobilenet_describe MOBILENET_JOIN(MOBILENET_PREFIX, mobilenet_describe)
#define mobilenet_run MOBILENET_JOIN(MOBILENET_PREFIX, mobilenet_run)
#define mobilenet_run_rgb MOBILENET_JOIN(MOBILENET_PREFIX, mobilenet_run_rgb)
#define mobilenet_preprocess MOBILENET_JOIN(MOBILENET_PREFIX, mobilenet_preprocess)
#define mobilenet_top MOBILENET_JOIN(MOBILENET_PREFIX, mobilenet_top)
#define mobilenet_set_threads MOBILENET_JOIN(MOBILENET_PREFIX, mobilenet_set_threads)
#define mobilenet_check MOBILENET_JOIN(MOBILENET_PREFIX, mobilenet_check)
#define mobilenet_selftest MOBILENET_JOIN(MOBILENET_PREFIX, mobilenet_selftest)
#define mobilenet_last_error MOBILENET_JOIN(MOBILENET_PREFIX, mobilenet_last_error)
#define mobilenet_close MOBILENET_JOIN(MOBILENET_PREFIX, mobilenet_close)
#define mobilenet_open_weights MOBILENET_JOIN(MOBILENET_PREFIX, mobilenet_open_weights)
#define mobilenet_steps MOBILENET_JOIN(MOBILENET_PREFIX, mobilenet_steps)
#define mobilenet_step_name MOBILENET_JOIN(MOBILENET_PREFIX, mobilenet_step_name)
#define mobilenet_run_steps MOBILENET_JOIN(MOBILENET_PREFIX, mobilenet_run_steps)
#define mobilenet_operand MOBILENET_JOIN(MOBILENET_PREFIX, mobilenet_operand)
#define mobilenet_times MOBILENET_JOIN(MOBILENET_PREFIX, mobilenet_times)
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define MOBILENET_API __attribute__((visibility("default")))

/* Return values of the functions below. */
enum {
    MOBILENET_OK = 0,
    MOBILENET_ARGUMENT = 1, /* an impossible argument */
    MOBILENET_FILE = 2,     /* a file is missing or cannot be read */
    MOBILENET_CORRUPT = 3,  /* a file is not the one that was built */
    MOBILENET_CPU = 4,      /* this CPU lacks a feature that the kernels use */
    MOBILENET_MEMORY = 5,
    MOBILENET_KERNEL = 6,   /* a kernel reported an error */
    MOBILENET_WRONG = 7,    /* the self-test found wrong results */
    MOBILENET_INFINITE = 8, /* an input or a result holds infinities or NaN, or leaves the range of the layers' dtype */
    MOBILENET_CLOSED = 9    /* the instance is closed, or was closed while the call waited */
};

typedef struct mobilenet mobilenet;

/* Zero in any field (or no options at all) is the default. */
typedef struct {
    int threads;             /* default: one for each CPU this process may use */
    int max_width, max_height; /* of images for run_rgb, default 8192 each */
    int spin_microseconds;   /* how long an idle thread spins, default 100; -1 never */
    int no_affinity;         /* 1: threads are not bound to CPUs */
    int map_weights;         /* 1: weights.bin stays mapped, and a page of it is read when a run needs it. Opening takes no
                              * time, but a change of the file changes the results, and if it becomes shorter, the
                              * process ends with SIGBUS. 0: it is read at open, into memory of this process. */
} mobilenet_options;

typedef struct {
    const char *name;
    const char *dtype;    /* "float32", "float16", "int8" or "uint8" */
    int dimensions;
    const int64_t *shape;
    size_t bytes;
    int scales;           /* 0 for floats; for integers 1, or one for each channel, */
    int axis;             /* which are this dimension */
    const double *scale, *zero_point; /* a value stands for (value - zero_point) * scale */
} mobilenet_tensor;

typedef struct {
    const char *model;      /* "v1 1-224" */
    const char *target;     /* "rpi4" */
    const char *id;         /* of this build, hexadecimal */
    int inputs, outputs;
    const mobilenet_tensor *input, *output;
    int classes;            /* 0: the model does not classify */
    const char *const *labels; /* one for each class, or NULL */
    int takes_images;       /* whether run_rgb works */
    int threads;
    size_t weight_bytes, arena_bytes, scratch_bytes; /* all intermediates are the arena; of them a thread's own */
    int seeded;                /* 1: the weights are random numbers, classes mean nothing */
    const char *scores;        /* "logits", "softmax" (probabilities), "sigmoid" (independent), "value" (no class) */
    const char *preprocess;    /* text of the preprocessing of images; and its assumed fields */
    const char *labels_source; /* the source of the labels, or "" */
} mobilenet_info;

typedef struct {
    int index;
    float score;       /* the model's output for the class, as the number that it stands for: mobilenet_info.scores */
    float probability; /* 0 to 1: the score's softmax, unless the model ends in one; -1: unknown */
    const char *label; /* or NULL */
} mobilenet_class;

typedef struct {
    int samples;
    float difference, allowed; /* largest difference to what is expected, of the scale of the output */
    double milliseconds;       /* a run, the median */
    size_t resident_bytes;     /* of this process, after the first run */
} mobilenet_selftest_result;

/* Opens the bundle in a folder: checks the CPU, the manifest's hash, the sizes of all files and the weights' header. A
 * relative folder is that of the working directory now; it may change later. */
MOBILENET_API int mobilenet_open(const char *folder, const mobilenet_options *options, mobilenet **opened);

/* The model's inputs and outputs, and the number of threads at the time of the call; valid until close. NULL: it is not
 * open. */
MOBILENET_API const mobilenet_info *mobilenet_describe(const mobilenet *m);

/* inputs[i] and outputs[i]: the whole tensors, in the order of mobilenet_describe and of its dtypes. No copy when aligned
 * to 64 bytes. An infinity or NaN in an input or output is an error, MOBILENET_INFINITE, and so is an input beyond 1e18, or
 * beyond 65,504 that layers of float16 read: their sums may overflow. Nothing is computed of such an input; outputs are written nevertheless. */
MOBILENET_API int mobilenet_run(mobilenet *m, const void *const *inputs, void *const *outputs);

/* From 8-bit RGB rows, `stride` bytes apart (0: width * 3): made grey for a model of one channel, resized, cropped and
 * normalised as the model wants it. Grey rows are RGB rows of three equal values. scores: the output, of its dtype. */
MOBILENET_API int mobilenet_run_rgb(mobilenet *m, const uint8_t *rgb, int width, int height, size_t stride,
                                    void *scores);

/* Fills one input tensor, of its dtype (every image of a batch gets the same): mobilenet_run gives for it what
 * mobilenet_run_rgb gives. */
MOBILENET_API int mobilenet_preprocess(mobilenet *m, const uint8_t *rgb, int width, int height, size_t stride,
                                       void *input);

/* The best k classes of the first input of a batch, best first; scores: the output, of its dtype. Returns their
 * number: none if a score is an infinity or NaN. */
MOBILENET_API int mobilenet_top(const mobilenet *m, const void *scores, int k, mobilenet_class *best);

MOBILENET_API int mobilenet_set_threads(mobilenet *m, int threads);

/* Hashes every file of a bundle's folder. */
MOBILENET_API int mobilenet_check(const char *folder);

/* Hashes every file, runs the inputs that travel with the bundle and compares with the outputs that do. */
MOBILENET_API int mobilenet_selftest(mobilenet *m, mobilenet_selftest_result *result);

/* The error of the last failed call of this thread. */
MOBILENET_API const char *mobilenet_last_error(void);

/* Waits for calls that compute; calls that wait for these, and later ones, end with MOBILENET_CLOSED. An instance that is
 * closed already, or was never opened, is ignored. */
MOBILENET_API void mobilenet_close(mobilenet *m);

/* ---- for tools that check and measure: a run in its steps, each one call of a kernel */

/* Opens without a folder: with weights.bin of a bundle, or the same weights without its header, as a build has them.
 * There are no labels, and no self-test. */
MOBILENET_API int mobilenet_open_weights(const char *weights, const mobilenet_options *options, mobilenet **opened);

/* The number of steps of a run, and the name of one; NULL: there is no step of that number. */
MOBILENET_API int mobilenet_steps(const mobilenet *m);
MOBILENET_API const char *mobilenet_step_name(const mobilenet *m, int step);

/* Runs only steps first to last - 1, on the present contents of memory: data of an earlier run, or data that a caller
 * of mobilenet_operand wrote. */
MOBILENET_API int mobilenet_run_steps(mobilenet *m, const void *const *inputs, void *const *outputs, int first,
                                      int last);

/* The address of an operand of a step, the output last; inputs and outputs of the model are those of the last run.
 * Its contents are the step's until another step writes there. Valid until mobilenet_set_threads. NULL: there is none. */
MOBILENET_API void *mobilenet_operand(const mobilenet *m, int step, int operand);

/* From now on each run records the start of each of its steps, and then the end of the last: nanoseconds of
 * CLOCK_MONOTONIC, one more than there are steps. NULL: stop recording. */
MOBILENET_API int mobilenet_times(mobilenet *m, int64_t *nanoseconds);

#ifdef __cplusplus
}
#endif
#endif
