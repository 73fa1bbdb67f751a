/* From a photograph to a label:
 *     cc -o classify classify.c -I BUNDLE -L BUNDLE -lmobilenet -Wl,-rpath,BUNDLE
 *     ./classify BUNDLE photo.ppm
 */
#include <stdio.h>
#include <stdlib.h>

#include "mobilenet.h"

/* The pixels of a binary .ppm of 8 bits; NULL: it is none, or has more pixels than a library opened without options takes. */
static unsigned char *read_ppm(const char *path, int *width, int *height) {
    FILE *f = fopen(path, "rb");
    unsigned char *rgb = NULL;
    if (!f) return NULL;
    if (fscanf(f, "P6 %d %d 255", width, height) == 2 && *width > 0 && *width <= 8192 && *height > 0 && *height <= 8192) {
        size_t pixels = (size_t)*width * (size_t)*height;
        if (fgetc(f) == '\r') (void)fgetc(f); /* lines that end in CR LF */
        rgb = malloc(3 * pixels);
        if (rgb && (fread(rgb, 3, pixels, f) != pixels || fgetc(f) != EOF)) free(rgb), rgb = NULL;
    }
    fclose(f);
    return rgb;
}

int main(int argc, char **argv) {
    int width, height, code = 1;
    mobilenet *m = NULL;
    mobilenet_class best[3];
    if (argc != 3) return fprintf(stderr, "usage: %s BUNDLE photo.ppm\n", argv[0]), 2;
    unsigned char *rgb = read_ppm(argv[2], &width, &height);
    if (!rgb) return fprintf(stderr, "error: %s is not there, or no .ppm (P6) of 8 bits\n", argv[2]), 2;
    void *scores = NULL; /* of whichever dtype */
    if (mobilenet_open(argv[1], NULL, &m) || !(scores = malloc(mobilenet_describe(m)->output[0].bytes)) ||
        mobilenet_run_rgb(m, rgb, width, height, 0, scores)) {
        fprintf(stderr, "error: %s\n", mobilenet_last_error());
    } else {
        for (int i = 0, n = mobilenet_top(m, scores, 3, best); i < n; i++)
            printf("class %d  %6.2f %%  %s\n", best[i].index, 100 * best[i].probability, best[i].label ? best[i].label : "");
        code = 0;
    }
    if (m) mobilenet_close(m);
    free(scores);
    free(rgb);
    return code;
}
