/* Eight threads share three instances; every output must be that of the first run. argv: folder, runs a thread */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mobilenet.h"

static mobilenet *m[3];
static float *input, *expected;
static size_t bytes;
static int runs;

static void *work(void *argument) {
    float *out = malloc(bytes);
    long bad = 0, id = (long)argument;
    for (int i = 0; i < runs; i++) {
        const void *in = input;
        void *to = out;
        if (mobilenet_run(m[(id + i) % 3], &in, &to) || memcmp(out, expected, bytes)) bad++;
        if (i % 7 == 3 && id < 3) mobilenet_set_threads(m[id], 1 + i % 3);
    }
    free(out);
    return (void *)bad;
}

int main(int argc, char **argv) {
    pthread_t threads[8];
    long bad = 0;
    if (argc < 3) return 2;
    runs = atoi(argv[2]);
    for (int i = 0; i < 3; i++) {
        mobilenet_options o = {.threads = 1 + i, .max_width = 640, .max_height = 640};
        if (mobilenet_open(argv[1], &o, &m[i])) return fprintf(stderr, "%s\n", mobilenet_last_error()), 1;
    }
    const mobilenet_info *info = mobilenet_describe(m[0]);
    bytes = info->output[0].bytes;
    input = malloc(info->input[0].bytes);
    expected = malloc(bytes);
    for (size_t i = 0; i < info->input[0].bytes / 4; i++) input[i] = (float)(i * 2654435761u % 2001) / 1000 - 1;
    const void *in = input;
    void *to = expected;
    if (mobilenet_run(m[0], &in, &to)) return 1;
    for (long i = 0; i < 8; i++) pthread_create(&threads[i], NULL, work, (void *)i);
    for (int i = 0; i < 8; i++) {
        void *result;
        pthread_join(threads[i], &result);
        bad += (long)result;
    }
    for (int i = 0; i < 3; i++) mobilenet_close(m[i]);
    free(input);
    free(expected);
    printf("%ld wrong\n", bad);
    return bad != 0;
}
