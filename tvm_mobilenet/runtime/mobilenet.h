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
 * Nothing is ever written to stdout or stderr. However the caller's rounding mode and treatment of small numbers are
 * set, these functions compute with the default ones, and leave the caller's as they were.
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

/* What the functions below return. */
enum {
    MOBILENET_OK = 0,
    MOBILENET_ARGUMENT = 1, /* a value that makes no sense */
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
    int spin_microseconds;   /* how long an idle thread waits awake, default 100; -1 never */
    int no_affinity;         /* 1: threads are not bound to CPUs */
    int map_weights;         /* 1: weights.bin stays mapped, and a page of it is read when a run needs it. Opening takes no
                              * time; but what changes the file changes the results, and what makes it shorter ends the
                              * process (SIGBUS). 0: it is read at open, into memory of this process. */
} mobilenet_options;

typedef struct {
    const char *name;
    const char *dtype;    /* "float32", "float16", "int8" or "uint8" */
    int dimensions;
    const int64_t *shape;
    size_t bytes;
    int scales;           /* of floats 0; of whole numbers 1, or one for each channel, */
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
    const char *const *labels; /* one a class, or NULL */
    int takes_images;       /* whether run_rgb works */
    int threads;
    size_t weight_bytes, arena_bytes, scratch_bytes; /* all intermediates are the arena; of them a thread's own */
    int seeded;                /* 1: the weights are random numbers, classes mean nothing */
    const char *scores;        /* "logits", "softmax" (probabilities), "sigmoid" (each by itself), "value" (no class) */
    const char *preprocess;    /* how an image becomes the input, in words; and which of it is assumed */
    const char *labels_source; /* where the labels come from, or "" */
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

/* What the model takes and gives, with the number of threads at the time of the call; valid until close. NULL: it is not
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

/* The best k classes of the first input of a batch, best first; scores: the output, of its dtype. Returns how many there
 * are: none if a score is an infinity or NaN. */
MOBILENET_API int mobilenet_top(const mobilenet *m, const void *scores, int k, mobilenet_class *best);

MOBILENET_API int mobilenet_set_threads(mobilenet *m, int threads);

/* Hashes every file of a bundle's folder. */
MOBILENET_API int mobilenet_check(const char *folder);

/* Hashes every file, runs the inputs that travel with the bundle and compares with the outputs that do. */
MOBILENET_API int mobilenet_selftest(mobilenet *m, mobilenet_selftest_result *result);

/* What went wrong in the last call of this thread that failed. */
MOBILENET_API const char *mobilenet_last_error(void);

/* Waits for the calls that compute; those that wait for them, and later ones, end with MOBILENET_CLOSED. What is closed
 * already, or was never opened, stays as it is. */
MOBILENET_API void mobilenet_close(mobilenet *m);

/* ---- for tools that check and measure: a run in its steps, each one call of a kernel */

/* Opens without a folder: with weights.bin of a bundle, or the same weights without its header, as a build has them.
 * There are no labels, and no self-test. */
MOBILENET_API int mobilenet_open_weights(const char *weights, const mobilenet_options *options, mobilenet **opened);

/* How many steps a run has, and the name of one; NULL: there is none of that number. */
MOBILENET_API int mobilenet_steps(const mobilenet *m);
MOBILENET_API const char *mobilenet_step_name(const mobilenet *m, int step);

/* Runs steps first to last - 1 alone, on what lies in memory: what a run left there, or what mobilenet_operand's
 * caller wrote. */
MOBILENET_API int mobilenet_run_steps(mobilenet *m, const void *const *inputs, void *const *outputs, int first,
                                      int last);

/* Where an operand of a step lies, the output last; inputs and outputs of the model where they lay in the last run.
 * What it holds is the step's until another step writes there. Valid until mobilenet_set_threads. NULL: there is none. */
MOBILENET_API void *mobilenet_operand(const mobilenet *m, int step, int operand);

/* From now on each run writes when each of its steps began, and then when the last ended: nanoseconds of
 * CLOCK_MONOTONIC, one more than there are steps. NULL: no more. */
MOBILENET_API int mobilenet_times(mobilenet *m, int64_t *nanoseconds);

#ifdef __cplusplus
}
#endif
#endif
