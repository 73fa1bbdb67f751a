/* Runs a model on one thread, for a tool that counts the instructions of mobilenet_run. argv: folder, runs */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mobilenet.h"

int main(int argc, char **argv) {
    mobilenet *m;
    mobilenet_options o = {.threads = 1};
    if (argc < 3 || mobilenet_open(argv[1], &o, &m)) return fprintf(stderr, "%s\n", mobilenet_last_error()), 1;
    const mobilenet_info *info = mobilenet_describe(m);
    void *in = aligned_alloc(64, (info->input[0].bytes + 63) / 64 * 64);
    void *out = aligned_alloc(64, (info->output[0].bytes + 63) / 64 * 64);
    if (!in || !out || info->inputs != 1 || info->outputs != 1) return 1;
    memset(in, 0, info->input[0].bytes);
    for (int i = 0; i < atoi(argv[2]); i++)
        if (mobilenet_run(m, (const void *[]){in}, &out)) return fprintf(stderr, "%s\n", mobilenet_last_error()), 1;
    mobilenet_close(m);
    free(in);
    free(out);
    return 0;
}
