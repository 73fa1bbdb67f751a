/* From a photograph to a label:
 *     cc -o classify classify.c -I BUNDLE -L BUNDLE -lmobilenet -Wl,-rpath,BUNDLE
 *     ./classify BUNDLE photo.ppm
 */
#include <stdio.h>
#include <stdlib.h>

#include "mobilenet.h"

int main(int argc, char **argv) {
    int width, height;
    mobilenet *m;
    FILE *f = argc == 3 ? fopen(argv[2], "rb") : NULL;
    if (!f || fscanf(f, "P6 %d %d 255%*c", &width, &height) != 2 || width < 1 || height < 1 || width > 8192 || height > 8192) {
        fprintf(stderr, "usage: %s BUNDLE photo.ppm\n", argv[0]);
        return 2;
    }
    unsigned char *rgb = calloc((size_t)width * height, 3);
    if (fread(rgb, 3, (size_t)width * height, f) != (size_t)width * height || mobilenet_open(argv[1], NULL, &m)) {
        fprintf(stderr, "%s\n", mobilenet_last_error());
        return 1;
    }
    float *scores = malloc(mobilenet_describe(m)->output[0].bytes);
    mobilenet_class best[3];
    if (mobilenet_run_rgb(m, rgb, width, height, 0, scores)) fprintf(stderr, "%s\n", mobilenet_last_error());
    for (int i = 0, n = mobilenet_top(m, scores, 3, best); i < n; i++)
        printf("%.3f class %d %s\n", best[i].score, best[i].index, best[i].label ? best[i].label : "");
    mobilenet_close(m);
    fclose(f);
    free(scores);
    free(rgb);
}
