/* Declarations that the runtime's sources share. The model itself is a table, mn_model, which tables.py writes. */
#ifndef MN_INTERNAL_H
#define MN_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "mobilenet.h"

enum { MN_INPUT, MN_OUTPUT, MN_ARENA, MN_PARAMETERS };
enum { MN_LOGITS, MN_SOFTMAX, MN_SIGMOID, MN_VALUE }; /* the kinds of scores */
enum { MN_ALIGNMENT = 64, MN_WEIGHTS_HEADER = 64, MN_MOST_THREADS = 64, MN_MOST_TAKEN = 16 };

/* TVM's calling convention: an argument of 16 bytes, and DLPack's tensor. */
typedef struct {
    int32_t type_index, padding;
    uint64_t value;
} mn_any;

typedef struct {
    void *data;
    int32_t device_type, device_id, ndim;
    uint8_t code, bits;
    uint16_t lanes;
    const int64_t *shape, *strides;
    uint64_t byte_offset;
} mn_dltensor;

typedef int (*mn_kernel)(void *self, const mn_any *arguments, int32_t count, mn_any *result);
typedef int (*mn_task)(int id, void *environment, void *data);

typedef struct {
    uint8_t space, index, ndim, code, bits;
    uint64_t offset;
    const int64_t *dims; /* the shape, then the strides */
} mn_operand;

typedef struct {
    mn_kernel kernel;
    const char *name;
    uint16_t first, count;
    uint64_t scratch_at; /* where the arena is free while the kernel runs: scratch memory of the first thread, */
    uint64_t scratch;    /* this number of bytes, then that of the next */
} mn_step;

/* Conversion of an image's bytes: strides count values from one pixel, channel, row and image to the next. */
typedef struct {
    const void *table; /* 256 values for each channel */
    int bytes;         /* of a value; 0: there is no such table */
    size_t pixel, plane, row, image;
} mn_pixels;

typedef struct {
    const char *model, *target, *id, *weights_sha256, *preprocess, *labels_source;
    const mn_step *steps;
    const mn_operand *operands;
    const mobilenet_tensor *ports; /* inputs, then outputs */
    uint32_t step_count, operand_count, inputs, outputs;
    uint64_t arena_bytes, scratch_bytes, parameter_bytes; /* scratch_bytes: the most of a thread */
    int classes, has_labels, scores, seeded; /* scores: an MN_ of above */
    const char *architecture;
    const char *features; /* names with blanks between */
    const unsigned char *embedded; /* the weights, or NULL for a file */
    const float *largest; /* of each input: the magnitude beyond which it is refused */
    struct {
        int wanted, height, width, batch, kernel; /* kernel: 0 nearest, 1 bilinear, 2 bicubic */
        int channels, squash, bgr;                /* channels: 3, or 1 of grey */
        double crop;
        mn_pixels input; /* in the input */
        mn_pixels first; /* in what the first step would make of the input, */
        uint32_t operand; /* which is this operand */
    } image;
} mn_model_t;
extern const mn_model_t mn_model;

/* ---- pool.c */
typedef struct mn_pool mn_pool;
typedef struct {
    mn_pool *pool;
    int slot, in_task, live;
    size_t used; /* of its scratch memory */
    struct {
        char *at;
        size_t before;
    } taken[MN_MOST_TAKEN];
    pthread_t thread;
    char padding[64];
} mn_worker;

struct mn_pool {
    mn_task task;
    void *data;
    char *scratch; /* of the first thread, for the kernel that runs */
    size_t scratch_bytes;
    int tasks, threads, started, pin;
    int placed, cpu[MN_MOST_THREADS]; /* the CPU of each thread; the first is the caller's */
    int64_t spin_nanoseconds;
    mn_worker *workers; /* one for each thread; the first is the caller of run */
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    char padding_a[64];
    atomic_uint generation;
    atomic_int stop, sleeping;
    char padding_b[64];
    atomic_int remaining, waiting, failed;
};

void mn_pool_init(mn_pool *p, int spin_microseconds, int pin);
int mn_pool_threads(mn_pool *p, int threads);
void mn_pool_follow(mn_pool *p); /* the caller moved to a thread's CPU: they change places */
void mn_pool_forked(mn_pool *p); /* in a forked child: the threads and the holder of the lock are gone */
int mn_pool_ready(mn_pool *p);   /* starts the threads that a fork lost */
void mn_pool_close(mn_pool *p);
int mn_pool_share(mn_pool *p, mn_task task, void *data, int tasks); /* by the pool's threads */
int64_t mn_now(void); /* nanoseconds of a clock that never goes back */
int mn_allowed_cpus(void);
extern __thread mn_worker *mn_current;

/* ---- folder.c and sha256.c */
typedef struct {
    uint32_t h[8];
    uint64_t length;
    uint8_t block[64];
} mn_sha256;
void mn_sha256_begin(mn_sha256 *s);
void mn_sha256_add(mn_sha256 *s, const void *data, size_t n);
void mn_sha256_end(mn_sha256 *s, char hex[65]);

typedef struct {
    const unsigned char *weights; /* behind the header */
    void *mapped;                 /* memory of our own with the file's bytes, or the file itself */
    size_t mapped_bytes;
    char *label_text;
    const char **labels;
} mn_files;
typedef struct {
    const char *path; /* for people */
    int at;           /* its descriptor */
} mn_folder;
int mn_folder_open(mn_folder *f, const char *path);
void mn_folder_close(mn_folder *f);
int mn_folder_check(const mn_folder *f, int hash); /* its manifest, and size, or also hash, of every file */
int mn_files_open(mn_files *f, const char *folder, int map_weights);
int mn_files_open_weights(mn_files *f, const char *path, int map_weights);
char *mn_absolute(const char *path); /* on the heap: good after the working directory changes; NULL: no memory */
void mn_files_close(mn_files *f);
int mn_read(const mn_folder *folder, const char *name, size_t most, char **text, size_t *n);

/* ---- image.c */
typedef struct {
    int max_width, max_height, most_taps;
    int *coefficients, *first, *count; /* horizontal, for each column that is kept */
    int *row_coefficients;
    uint8_t *line, *ring, *out;        /* a row of the source; rows resized in width; a row of the input */
} mn_image;
int mn_image_init(mn_image *i, int max_width, int max_height);
void mn_image_close(mn_image *i);
int mn_image_load(mn_image *i, const uint8_t *rgb, int width, int height, size_t stride, const mn_pixels *to, void *out);

/* ---- numbers.c */
typedef struct {
    uint64_t control;
} mn_floats;
mn_floats mn_floats_begin(void); /* rounding to nearest, with subnormal numbers, no traps: returns the old setting */
void mn_floats_end(mn_floats before);
double mn_value(const mobilenet_tensor *t, const void *data, size_t i); /* the real number of the i-th value */
/* Fails if a value is an infinity or NaN, or too large; data: aligned. */
int mn_check_input(mn_pool *p, uint32_t input, const void *data);
int mn_check_output(uint32_t output, const void *data);

/* ---- error.c */
int mn_fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
void *mn_allocate(size_t n); /* aligned to 64 bytes, zero only as the system gives it */

/* ---- cpu.c */
int mn_check_cpu(void);

/* ---- instance.c */
typedef struct mn_description {
    mobilenet_info info;
    struct mn_description *next;
} mn_description;

struct mobilenet {
    mobilenet_info info;
    pthread_mutex_t lock;
    mn_pool pool;
    mn_files files;
    mn_image image;
    char *folder, *arena; /* no folder: opened with weights alone */
    int64_t *times;       /* of the caller, or NULL */
    void **port_buffers; /* our own copies of inputs and outputs, for callers' that are not aligned */
    mn_dltensor *tensors;
    mn_any *arguments;
    mn_description *descriptions; /* each that was needed: callers may still read it */
    _Atomic(const mobilenet_info *) described;
    /* of handles.c */
    _Atomic(mobilenet *) next;
    int users, torn;              /* calls that are inside; the fork that made this process left it half changed */
    atomic_int changing, closing; /* a change of threads is under way; close waits for the calls inside */
};

/* ---- handles.c */
int mn_publish(mobilenet *m);        /* from now on it is open */
int mn_enter(const mobilenet *m);    /* an error where it is not open; else it stays until mn_leave */
void mn_leave(const mobilenet *m);
int mn_retire(mobilenet *m);         /* waits until no call is inside; 0: it was not open */

#endif
