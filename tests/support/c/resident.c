/* What a process that runs the model takes: opens, runs once, prints resident bytes, what the model needs (weights,
 * arena and the caller's input and output), and the milliseconds that the fastest of 20 opens took. argv: folder, threads, 1 to map the
 * weights */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "mobilenet.h"

static double milliseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static long resident(void) {
    static char text[4096]; /* stdio itself would bring in more pages of libc */
    int f = open("/proc/self/smaps_rollup", O_RDONLY);
    ssize_t n = f < 0 ? -1 : read(f, text, sizeof text - 1);
    close(f);
    char *at = n < 0 ? NULL : strstr(text, "\nRss:");
    return at ? strtol(at + 5, NULL, 10) * 1024 : -1;
}

int main(int argc, char **argv) {
    mobilenet *m;
    mobilenet_options o = {.threads = argc > 2 ? atoi(argv[2]) : 1, .map_weights = argc > 3 ? atoi(argv[3]) : 0};
    if (argc < 4 || mobilenet_open(argv[1], &o, &m)) return fprintf(stderr, "%s\n", mobilenet_last_error()), 1;
    const mobilenet_info *info = mobilenet_describe(m);
    void *in = aligned_alloc(64, (info->input[0].bytes + 63) / 64 * 64), *out = aligned_alloc(64, (info->output[0].bytes + 63) / 64 * 64);
    if (!in || !out || info->inputs != 1 || info->outputs != 1) return 1;
    memset(in, 0, info->input[0].bytes);
    if (mobilenet_run(m, (const void *[]){in}, &out)) return fprintf(stderr, "%s\n", mobilenet_last_error()), 1;
    long used = resident();
    size_t needed = info->weight_bytes + info->arena_bytes + info->input[0].bytes + info->output[0].bytes;
    mobilenet_close(m);
    double fastest = 1e9;
    for (int i = 0; i < 20; i++) {
        double start = milliseconds();
        if (mobilenet_open(argv[1], &o, &m)) return 1;
        double took = milliseconds() - start;
        fastest = took < fastest ? took : fastest;
        mobilenet_close(m);
    }
    printf("%ld %zu %.3f\n", used, needed, fastest);
    return used < 0;
}
