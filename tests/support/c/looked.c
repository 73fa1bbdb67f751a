/* Looks through an input whose every place holds in turn what is refused. argv: the model's features, the limit of the
 * input or 0 for none, how far the next place is. Prints how many were tried. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

enum { VALUES = 2 * 4096 + 3 * 128 + 5 }; /* blocks, pieces and a rest */

static float values[VALUES];
static float limit;
static const int64_t shape[] = {VALUES};
static const mobilenet_tensor port = {"x", "float32", 1, shape, sizeof values, 0, 0, NULL, NULL};
static char features[256];
const mn_model_t mn_model = {.ports = &port, .inputs = 1, .features = features, .largest = &limit};

int main(int argc, char **argv) {
    static mn_pool pool;
    if (argc < 4) return 2;
    strncpy(features, argv[1], sizeof features - 1);
    limit = atof(argv[2]) > 0 ? (float)atof(argv[2]) : FLT_MAX;
    mn_pool_init(&pool, 0, 0);
    if (mn_pool_threads(&pool, 2)) return 2;
    const float beyond[] = {NAN, -NAN, INFINITY, -INFINITY, nextafterf(limit, INFINITY), -nextafterf(limit, INFINITY)};
    int tried = 0;
    for (int kind = 0; kind < 3; kind++) { /* what lies around it: much, nothing, and the largest that may be */
        for (int i = 0; i < VALUES; i++) values[i] = kind == 2 ? (i % 2 ? limit : -limit) : kind ? 0 : (float)(i % 511) - 255;
        if (mn_check_input(&pool, 0, values)) return printf("finite numbers: %s\n", mobilenet_last_error()), 1;
        for (int at = kind; at < VALUES; at += atoi(argv[3]))
            for (size_t k = 0; k < sizeof beyond / sizeof *beyond; k++, tried++) {
                char place[32];
                float before = values[at];
                values[at] = beyond[k];
                snprintf(place, sizeof place, " at %d", at);
                if (mn_check_input(&pool, 0, values) != MOBILENET_INFINITE || !strstr(mobilenet_last_error(), place))
                    return printf("%g%s of kind %d: %s\n", beyond[k], place, kind, mobilenet_last_error()), 1;
                values[at] = before;
            }
    }
    mn_pool_close(&pool);
    printf("%d\n", tried);
    return 0;
}
