/* mobilenet: classify a picture, measure, test, describe. The bundle is the program's own folder, or --folder. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "mobilenet.h"

static const char usage[] =
    "usage: mobilenet classify FILE | bench | selftest | info   [--folder F] [--threads N] [--runs N] [--top K]\n"
    "  FILE  a .ppm (P6) or .pgm (P5), a .npy (uint8 height x width x 3 or height x width, or a preprocessed input of\n"
    "        the model's dtype), or that input's bytes alone\n";

static const char seeded[] = "weights are seeded random numbers: classes mean nothing; build with --weights FILE";

static int fail(const char *what) {
    fprintf(stderr, "error: %s\n", what);
    return 1;
}

static int fail_at(const char *path, const char *what) {
    fprintf(stderr, "error: %s: %s\n", path, what);
    return 1;
}

static int misused(const char *argument, const char *what) {
    fprintf(stderr, "error: %s: %s\n%s", argument, what, usage);
    return 2;
}

static double milliseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* A regular file, whole, with a zero behind it; NULL after an error was told. A pipe without a writer is not waited for. */
static unsigned char *read_file(const char *path, size_t *n) {
    unsigned char *data = NULL;
    struct stat status;
    int file = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (file < 0 || fstat(file, &status)) fail_at(path, strerror(errno));
    else if (!S_ISREG(status.st_mode)) fail_at(path, S_ISDIR(status.st_mode) ? "it is a folder" : "it is no regular file");
    else if (!(data = malloc((size_t)status.st_size + 1))) fail_at(path, "no memory to read it");
    else {
        ssize_t got = 0;
        for (*n = 0; *n < (size_t)status.st_size; *n += (size_t)got)
            if ((got = read(file, data + *n, (size_t)status.st_size - *n)) <= 0) break;
        data[*n] = 0;
        if (got < 0) fail_at(path, strerror(errno)), free(data), data = NULL;
    }
    if (file >= 0) close(file);
    return data;
}

/* P6 or P5, width, height, 255, with comments between; returns where the pixels begin, or 0. */
static size_t ppm(const unsigned char *d, size_t n, int *width, int *height, int channels) {
    int numbers[3] = {0};
    size_t at = 2;
    for (int i = 0; i < 3; i++) {
        for (; at < n && (strchr(" \t\r\n#", d[at]) && d[at]); at++)
            if (d[at] == '#') while (at + 1 < n && d[at] != '\n') at++;
        for (; at < n && d[at] >= '0' && d[at] <= '9' && numbers[i] < 100000; at++) numbers[i] = numbers[i] * 10 + d[at] - '0';
    }
    *width = numbers[0];
    *height = numbers[1];
    at++;
    return numbers[2] == 255 && at <= n && (n - at) / (size_t)channels / (size_t)(*width > 0 ? *width : 1) >= (size_t)*height ? at : 0;
}

static const char *numpy_name(const char *dtype) {
    return !strcmp(dtype, "float32") ? "'<f4'" : !strcmp(dtype, "float16") ? "'<f2'" : *dtype == 'u' ? "'|u1'" : "'|i1'";
}

/* numpy's header is a Python dict in text; returns where the data begins, or 0: neither an image nor of the dtype.
 * Channels: 0 for what is no image. */
static size_t npy(const unsigned char *d, size_t n, const char *dtype, int *channels, int *width, int *height) {
    char header[512] = "";
    size_t length = n < 12 ? 0 : d[8] | (size_t)d[9] << 8, begin = 10;
    if (n >= 12 && d[6] > 1) length |= (size_t)d[10] << 16 | (size_t)d[11] << 24, begin = 12;
    if (!length || length > n - begin || length >= sizeof header) return 0;
    memcpy(header, d + begin, length);
    char *shape = strstr(header, "'shape': ("), end[2] = "";
    *channels = 1;
    int found = shape ? sscanf(shape, "'shape': (%d, %d, %d%1[)]", height, width, channels, end) : 0;
    int flat = found == 2 && sscanf(shape, "'shape': (%*d, %*d%1[)]", end) == 1;
    if (!strstr(header, "'|u1'") || !(flat || (found == 4 && (*channels == 1 || *channels == 3)))) *channels = 0;
    if (strstr(header, "True") || (!*channels && !strstr(header, numpy_name(dtype)))) return 0;
    return begin + length;
}

/* Grey pixels as RGB, which the library takes; NULL: no memory. */
static unsigned char *coloured(const unsigned char *grey, size_t pixels) {
    unsigned char *rgb = malloc(3 * pixels + 1);
    for (size_t i = 0; rgb && i < pixels; i++) rgb[3 * i] = rgb[3 * i + 1] = rgb[3 * i + 2] = grey[i];
    return rgb;
}

static void print_class(const mobilenet_info *info, const mobilenet_class *c) {
    printf("%9.4f  ", c->score);
    if (c->probability >= 0) printf("%6.2f %%  ", 100.0 * c->probability);
    printf("%s %d%s%s\n", info->classes == 1 ? "output" : "class", c->index, c->label ? "  " : "", c->label ? c->label : "");
}

static int classify(mobilenet *m, const char *path, int top) {
    const mobilenet_info *info = mobilenet_describe(m);
    if (info->inputs != 1 || info->outputs != 1 || !info->classes) return fail("this model classifies no images");
    size_t n = 0, at = 0, wanted = info->input[0].bytes;
    int width = 0, height = 0, channels = 0, code = 0;
    unsigned char *rgb = NULL, *data = read_file(path, &n);
    void *scores = malloc(info->output[0].bytes), *input = aligned_alloc(64, (wanted + 63) / 64 * 64);
    mobilenet_class *best = calloc((size_t)top, sizeof *best);
    if (!data || !scores || !input || !best) {
        code = data ? fail("no memory") : 1;
    } else if (n > 2 && (!memcmp(data, "P6", 2) || !memcmp(data, "P5", 2))) {
        channels = data[1] == '6' ? 3 : 1;
        if (!(at = ppm(data, n, &width, &height, channels))) code = fail_at(path, "not a whole P6 or P5 picture of 8 bits a channel");
    } else if (n > 6 && !memcmp(data, "\x93NUMPY", 6)) {
        if (!(at = npy(data, n, info->input[0].dtype, &channels, &width, &height)))
            code = fail_at(path, "not a .npy of uint8 height x width x 3 or height x width, or of the input's dtype in C order");
    }
    if (!code && channels) {
        size_t room = (n - at) / (size_t)channels / (size_t)(width > 0 ? width : 1);
        if (width < 1 || height < 1 || room < (size_t)height) code = fail_at(path, "the picture is cut off");
        else if (!info->takes_images) code = fail("this model takes no images: give its input as a .npy of its dtype");
        else if (channels == 1 && !(rgb = coloured(data + at, (size_t)width * (size_t)height))) code = fail("no memory");
        else if (mobilenet_run_rgb(m, rgb ? rgb : data + at, width, height, 0, scores))
            code = fail_at(path, mobilenet_last_error());
    } else if (!code && n > 4 && (!memcmp(data, "\xff\xd8\xff", 3) || !memcmp(data, "\x89PNG", 4))) {
        code = fail_at(path, "a compressed picture: save it as .ppm, or use mobilenet.py");
    } else if (!code) {
        const void *in = input;
        void *out = scores;
        if (n - at != wanted) {
            fprintf(stderr, "error: %s: %s%zu bytes of data, the input of %s has %zu\n", path,
                    at ? "" : "no .ppm, .pgm or .npy; as an input's bytes it has ", n - at, info->input[0].dtype, wanted);
            code = 1;
        } else if (memcpy(input, data + at, wanted), mobilenet_run(m, &in, &out))
            code = fail_at(path, mobilenet_last_error());
    }
    if (!code && info->seeded) fprintf(stderr, "note: %s\n", seeded);
    for (int i = 0, k = code ? 0 : mobilenet_top(m, scores, top, best); i < k; i++) print_class(info, &best[i]);
    free(rgb);
    free(data);
    free(scores);
    free(input);
    free(best);
    return code;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int bench(mobilenet *m, int runs) {
    const mobilenet_info *info = mobilenet_describe(m);
    int ports = info->inputs + info->outputs, code = 0;
    void **buffers = calloc((size_t)ports, sizeof *buffers);
    double *times = calloc((size_t)runs, sizeof *times);
    for (int i = 0; i < ports; i++) {
        size_t n = (info->input[i].bytes + 63) / 64 * 64;
        if (buffers && (buffers[i] = aligned_alloc(64, n))) memset(buffers[i], 0, n);
        else code = 1;
    }
    if (!times || code) return fail("no memory");
    for (int i = -3; i < runs && !code; i++) {
        double start = milliseconds();
        if (mobilenet_run(m, (const void *const *)buffers, buffers + info->inputs)) code = fail(mobilenet_last_error());
        if (i >= 0) times[i] = milliseconds() - start;
    }
    qsort(times, (size_t)runs, sizeof *times, by_value);
    if (!code)
        printf("%s on %s, %d threads, %d runs: fastest %.3f ms, median %.3f ms, slowest %.3f ms\n", info->model, info->target,
               info->threads, runs, times[0], times[runs / 2], times[runs - 1]);
    for (int i = 0; i < ports; i++) free(buffers[i]);
    free(buffers);
    free(times);
    return code;
}

static int selftest(mobilenet *m) {
    mobilenet_selftest_result r;
    const mobilenet_info *info = mobilenet_describe(m);
    int code = mobilenet_selftest(m, &r);
    if (code && code != MOBILENET_WRONG) return fail(mobilenet_last_error());
    printf("%s  %s for %s (%s): difference %.2e of the scale (allowed %.2e) on %d inputs, %.2f ms with %d threads, "
           "%.1f MB resident\n", code ? "WRONG" : "passed", info->model, info->target, info->id, r.difference, r.allowed,
           r.samples, r.milliseconds, info->threads, (double)r.resident_bytes / 1e6);
    return code ? fail(mobilenet_last_error()) : 0;
}

static int describe(const mobilenet *m) {
    const mobilenet_info *info = mobilenet_describe(m);
    printf("model    %s\ntarget   %s\nbuild    %s\nthreads  %d\n", info->model, info->target, info->id, info->threads);
    for (int i = 0; i < info->inputs + info->outputs; i++) {
        const mobilenet_tensor *t = &info->input[i];
        printf("%s %s %s", i < info->inputs ? "input   " : "output  ", t->name, t->dtype);
        for (int d = 0; d < t->dimensions; d++) printf("%s%lld", d ? " x " : " ", (long long)t->shape[d]);
        printf(", %zu bytes", t->bytes);
        for (int s = 0; s < t->scales; s++)
            printf("%s(v - %.9g) * %.9g", s ? "; " : t->scales > 1 ? ", a channel stands for " : ", stands for ",
                   t->zero_point[s], t->scale[s]);
        puts("");
    }
    printf("image    %s\n", info->preprocess);
    if (info->classes) printf("classes  %d, scores: %s\n", info->classes, info->scores);
    else puts("classes  none");
    if (info->labels) printf("labels   %s\n", info->labels_source);
    if (info->seeded) printf("weights  %s\n", seeded + strlen("weights are "));
    printf("memory   %zu bytes of weights, %zu of arena (scratch of a thread: %zu)\n", info->weight_bytes, info->arena_bytes,
           info->scratch_bytes);
    return 0;
}

/* The exit code, once all that was printed has arrived: who reads a cut output must not take it for success. */
static int finished(int code) {
    return fflush(stdout) || ferror(stdout) ? fail_at("the output cannot be written", strerror(errno)) : code;
}

int main(int argc, char **argv) {
    char own[4096];
    const char *folder = NULL, *verb = NULL, *file = NULL;
    int runs = 50, top = 5;
    mobilenet_options options = {0};
    for (int i = 1; i < argc; i++) {
        int *place = NULL;
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return finished(fputs(usage, stdout) < 0);
        else if (!strcmp(argv[i], "--folder") && i + 1 < argc) folder = argv[++i];
        else if (!strcmp(argv[i], "--threads")) place = &options.threads;
        else if (!strcmp(argv[i], "--runs")) place = &runs;
        else if (!strcmp(argv[i], "--top")) place = &top;
        else if (*argv[i] == '-') return misused(argv[i], "no such option, or its value is missing");
        else if (verb && file) return misused(argv[i], "one file at a time");
        else *(verb ? &file : &verb) = argv[i];
        if (place) {
            char *end = NULL, *text = i + 1 < argc ? argv[i + 1] : "";
            long number = strtol(text, &end, 10);
            if (end == text || *end || number < 1 || number > 1000000) return misused(argv[i], "wants a number from 1 to 1000000");
            *place = (int)number, i++;
        }
    }
    if (!verb) return fputs(usage, stderr), 2;
    if (!strcmp(verb, "classify") ? !file : !!file) return misused(verb, file ? "it takes no file" : "FILE is missing");
    if (!folder) {
        ssize_t n = readlink("/proc/self/exe", own, sizeof own - 1);
        own[n < 0 ? 0 : n] = 0;
        char *slash = strrchr(own, '/');
        folder = slash ? (*slash = 0, own) : ".";
    }
    mobilenet *m;
    if (mobilenet_open(folder, &options, &m)) return fail(mobilenet_last_error());
    int code = !strcmp(verb, "classify")   ? classify(m, file, top)
               : !strcmp(verb, "bench")    ? bench(m, runs)
               : !strcmp(verb, "selftest") ? selftest(m)
               : !strcmp(verb, "info")     ? describe(m)
                                           : misused(verb, "no such verb");
    mobilenet_close(m);
    return finished(code);
}
