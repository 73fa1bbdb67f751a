/* mobilenet: classify a picture, measure, test, describe. The bundle is the program's own folder, or --folder. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "picture.h"
#include "report.h"

#ifndef MOBILENET_VERSION
#define MOBILENET_VERSION "of unknown version" /* of the package that compiled this program */
#endif

static const char usage[] =
    "usage: mobilenet classify FILE | bench | selftest | info   [--folder F] [--threads N] [--runs N] [--top N] [--json]\n"
    "       mobilenet --version | --help\n"
    "  FILE  a JPEG (by libturbojpeg0) or PNG (by libpng16-16), a .ppm (P6) or .pgm (P5), a .npy (uint8 height x width x 3\n"
    "        or height x width, or a preprocessed input of the model's dtype), or that input's bytes alone\n";

static const char signature[] =
    "Who signed a bundle, and that its files are those: in its folder, before any of them runs,\n"
    "  ssh-keygen -Y verify -n tvm_mobilenet -f allowed_signers -I NAME -s manifest.sha256.sig < manifest.sha256 &&\n"
    "      sha256sum -c --quiet manifest.sha256\n"
    "  A line of allowed_signers is NAME and a public key.\n";

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

/* Largest memory of a picture's pixels: half of the machine's. */
static size_t half_of_memory(void) {
    uint64_t pages = (uint64_t)sysconf(_SC_PHYS_PAGES), page = (uint64_t)sysconf(_SC_PAGESIZE), half = pages * page / 2;
    return half < SIZE_MAX ? (size_t)half : SIZE_MAX;
}

/* A whole regular file, with a zero after it; NULL after a printed error. Does not wait for a pipe without a writer. */
static unsigned char *read_file(const char *path, size_t *n, size_t most) {
    unsigned char *data = NULL;
    struct stat status;
    int file = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (file < 0 || fstat(file, &status)) fail_at(path, strerror(errno));
    else if (!S_ISREG(status.st_mode)) fail_at(path, S_ISDIR(status.st_mode) ? "it is a folder" : "it is not a regular file");
    else if ((uint64_t)status.st_size >= most) fail_at(path, "it has more bytes than half of the memory");
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

/* The scores of a file that was read. */
static int scored(mobilenet *m, const char *path, const unsigned char *data, size_t n, picture *p, void *input, void *scores) {
    const mobilenet_info *info = mobilenet_describe(m);
    size_t wanted = info->input[0].bytes;
    const void *in = input;
    int code = picture_read(p, data, n, info, input);
    if (code > 0) return fail_at(path, p->why), code;
    if (code < 0 && n != wanted) {
        fprintf(stderr, "error: %s: no JPEG, PNG, .ppm, .pgm or .npy; as an input's bytes it has %zu bytes of data, the input of %s "
                "has %zu\n", path, n, info->input[0].dtype, wanted);
        return 1;
    }
    if (code < 0) memcpy(input, data, wanted);
    if (*p->why) fprintf(stderr, "note: %s: %s\n", path, p->why);
    if (p->rgb ? mobilenet_run_rgb(m, p->rgb, p->width, p->height, 0, scores) : mobilenet_run(m, &in, &scores))
        return fail_at(path, mobilenet_last_error());
    return 0;
}

static int classify(mobilenet *m, const char *path, int top, int json) {
    const mobilenet_info *info = mobilenet_describe(m);
    if (info->inputs != 1 || info->outputs != 1 || !info->classes) return fail("this model classifies no images");
    if (top > info->classes) top = info->classes;
    picture p = {.most_bytes = half_of_memory()};
    size_t n = 0;
    int code = 1;
    unsigned char *data = read_file(path, &n, p.most_bytes);
    void *scores = malloc(info->output[0].bytes), *input = aligned_alloc(64, (info->input[0].bytes + 63) / 64 * 64);
    mobilenet_class *best = calloc((size_t)top, sizeof *best);
    if (!scores || !input || !best) code = fail("no memory");
    else if (data) code = scored(m, path, data, n, &p, input, scores);
    if (!code && info->seeded) fprintf(stderr, "note: %s\n", REPORT_SEEDED);
    if (!code) report_classes(info, path, best, mobilenet_top(m, scores, top, best), json);
    free(p.rgb);
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

static int bench(mobilenet *m, int runs, int json) {
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
    if (!code) report_times(info, times, runs, json);
    for (int i = 0; i < ports; i++) free(buffers[i]);
    free(buffers);
    free(times);
    return code;
}

static int selftest(mobilenet *m, int json) {
    mobilenet_selftest_result r;
    int code = mobilenet_selftest(m, &r);
    if (code && code != MOBILENET_WRONG) return fail(mobilenet_last_error());
    report_selftest(mobilenet_describe(m), &r, !code, json);
    return code ? fail(mobilenet_last_error()) : 0;
}

/* The exit code, after all output has been written: a truncated output must not count as success. */
static int finished(int code) {
    return fflush(stdout) || ferror(stdout) ? fail_at("the output cannot be written", strerror(errno)) : code;
}

/* If the bundle was replaced while this program started, this is the old program, whose files are gone: it starts the
 * new one in its place, a limited number of times. Returns if nothing was replaced. */
static void start_again(char **argv) {
    static const char times[] = "MOBILENET_STARTED_AGAIN";
    const char *name = (const char *)getauxval(AT_EXECFN), *before = getenv(times);
    char now[2] = {before ? (char)(*before + 1) : '1', 0};
    struct stat own, there;
    int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC); /* not by its name: emulators know only to open it */
    int known = file >= 0 && !fstat(file, &own) && name && !stat(name, &there);
    if (file >= 0) close(file);
    int replaced = known && (own.st_ino != there.st_ino || own.st_dev != there.st_dev);
    if (replaced && *now >= '1' && *now <= '9' && !setenv(times, now, 1)) execv(name, argv);
}

int main(int argc, char **argv) {
    char own[4096];
    const char *folder = NULL, *verb = NULL, *file = NULL;
    int runs = 50, top = 5, json = 0;
    mobilenet_options options = {0};
    for (int i = 1; i < argc; i++) {
        int *place = NULL;
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return finished(fputs(usage, stdout) < 0 || fputs(signature, stdout) < 0);
        else if (!strcmp(argv[i], "--version")) return finished(puts("tvm_mobilenet " MOBILENET_VERSION) < 0);
        else if (!strcmp(argv[i], "--json")) json = 1;
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
    if (!strcmp(verb, "classify")) options.max_width = options.max_height = 65535; /* their number is compared with the memory */
    mobilenet *m;
    int refused = mobilenet_open(folder, &options, &m);
    if (refused == MOBILENET_FILE || refused == MOBILENET_CORRUPT) start_again(argv);
    if (refused) return fail(mobilenet_last_error());
    int code = !strcmp(verb, "classify")   ? classify(m, file, top, json)
               : !strcmp(verb, "bench")    ? bench(m, runs, json)
               : !strcmp(verb, "selftest") ? selftest(m, json)
               : !strcmp(verb, "info")     ? (report_info(mobilenet_describe(m), json), 0)
                                           : misused(verb, "no such verb");
    mobilenet_close(m);
    return finished(code);
}
