/* Three runs of a bundle, the second and third between the marks of tests/evidence/executed.c. argv: folder, threads */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "mobilenet.h"

static void mark(int k) { (void)getpgid(0x7e570000 + k); }

int main(int argc, char **argv) {
    mobilenet *m;
    if (argc < 3) return 2;
    mobilenet_options o = {.threads = atoi(argv[2])};
    if (mobilenet_open(argv[1], &o, &m)) return fprintf(stderr, "%s\n", mobilenet_last_error()), 1;
    const mobilenet_info *info = mobilenet_describe(m);
    float *input = malloc(info->input[0].bytes);
    for (size_t i = 0; i < info->input[0].bytes / 4; i++) input[i] = (float)(i * 2654435761u % 2001) / 1000 - 1;
    const void *in = input;
    void *out = malloc(info->output[0].bytes);
    for (int k = 0; k < 3; k++) {
        if (k) mark(k);
        if (mobilenet_run(m, &in, &out)) return 1;
    }
    mark(3);
    mobilenet_close(m);
    return 0;
}
