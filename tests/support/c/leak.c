/* Many runs: the heap must not change by a byte after open, nor may memory stay after close. argv: folder, runs */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mobilenet.h"

static size_t heap(void) {
    struct mallinfo2 i = mallinfo2();
    return i.uordblks + i.hblkhd;
}

int main(int argc, char **argv) {
    mobilenet *m;
    mobilenet_options o = {.threads = 1};
    if (argc < 3 || mobilenet_open(argv[1], &o, &m)) return 1;
    const mobilenet_info *info = mobilenet_describe(m);
    float *scores = malloc(info->output[0].bytes);
    unsigned char *image = malloc(info->input[0].bytes + 320 * 200 * 3);
    mobilenet_class best[5];
    for (int i = 0; i < 320 * 200 * 3; i++) image[i] = (unsigned char)(i * 7919 >> 3);
    mobilenet_run_rgb(m, image, 320, 200, 0, scores);
    size_t opened = heap();
    for (int i = 0; i < atoi(argv[2]); i++) {
        const void *in = image;
        void *out = scores;
        if (i % 100 == 0 ? mobilenet_run_rgb(m, image, 320, 200, 0, scores)
                         : (mobilenet_run(m, (const void *[]){image}, &out), (void)in, 0)) return 1;
        mobilenet_top(m, scores, 5, best);
    }
    size_t after = heap();
    mobilenet_close(m);
    for (int i = 0; i < 50; i++) {
        if (mobilenet_open(argv[1], &o, &m)) return 1;
        mobilenet_close(m);
    }
    size_t closed = heap();
    for (int i = 0; i < 50; i++) {
        if (mobilenet_open(argv[1], &o, &m)) return 1;
        mobilenet_close(m);
    }
    size_t end = heap();
    printf("run: %ld bytes more; open and close: %ld bytes more\n", (long)(after - opened), (long)(end - closed));
    return after != opened || end != closed;
}
