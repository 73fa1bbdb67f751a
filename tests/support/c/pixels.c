/* image.c alone, for any network: cases from stdin, the inputs that it makes of them to stdout.
 *
 * A case: 14 ints (height, width, nhwc, batch, kernel, channels, squash, bgr of the network; most width and height; width,
 * height and stride of the picture; 0), 7 doubles (crop, mean, std), and the picture's rows. What is refused gives one NaN.
 */
#define mn_model mn_model_that_is_constant
#include "internal.h"
#undef mn_model
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

mn_model_t mn_model;

int mn_fail(int code, const char *format, ...) { return format ? code : 0; }

int main(void) {
    int n[14];
    double d[7];
    while (fread(n, sizeof n, 1, stdin) == 1 && fread(d, sizeof d, 1, stdin) == 1) {
        mn_image image;
        memset(&image, 0, sizeof image);
        memset(&mn_model, 0, sizeof mn_model);
        mn_model.image.wanted = 1;
        mn_model.image.height = n[0], mn_model.image.width = n[1], mn_model.image.batch = n[3];
        mn_model.image.kernel = n[4], mn_model.image.channels = n[5], mn_model.image.squash = n[6], mn_model.image.bgr = n[7];
        mn_model.image.crop = d[0];
        static float table[3][256];
        for (int k = 0; k < n[5]; k++)
            for (int v = 0; v < 256; v++) table[k][v] = (float)((v / 255.0 - d[1 + k]) / d[4 + k]);
        size_t plane = (size_t)n[0] * (size_t)n[1], channels = (size_t)n[5], row = (size_t)n[1];
        mn_pixels nchw = {table, 4, 1, plane, row, channels * plane};
        mn_pixels nhwc = {table, 4, channels, 1, row * channels, channels * plane};
        size_t count = (size_t)n[0] * (size_t)n[1] * (size_t)n[3] * (size_t)n[5];
        size_t rows = (size_t)n[11] * (size_t)(n[12] ? n[12] : 3 * n[10]);
        unsigned char *rgb = malloc(rows);
        float *input = malloc(count * sizeof *input), none = NAN;
        if (fread(rgb, 1, rows, stdin) != rows) return 1;
        int code = mn_image_init(&image, n[8], n[9]);
        if (!code) code = mn_image_load(&image, rgb, n[10], n[11], (size_t)n[12], n[2] ? &nhwc : &nchw, input);
        fwrite(code ? &none : input, sizeof *input, code ? 1 : count, stdout);
        mn_image_close(&image);
        free(rgb);
        free(input);
    }
    return 0;
}
