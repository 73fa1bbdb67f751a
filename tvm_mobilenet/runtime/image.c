/* From 8-bit RGB to an input, as Pillow resizes: each pass is a weighted sum in fixed point, rounded to 8 bits.
 *
 * Only the columns and rows that the crop keeps are computed. The horizontal pass of a source row lies in a ring that
 * holds as many rows as one output row reads, so memory does not grow with the image's height.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

enum { BITS = 22 }; /* of the fraction: 8 bits of pixel and 2 of headroom are left of 32 */

static double weight_at(double x) {
    x = fabs(x);
    if (mn_model.image.kernel == 1) return x < 1 ? 1 - x : 0;
    const double a = -0.5; /* Keys' cubic */
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

static double reach(void) { return mn_model.image.kernel == 2 ? 2.0 : mn_model.image.kernel; }

/* Output pixel `at` of `to` from `from` pixels: first source pixel and how many, and their weights. */
static int taps(int at, int from, int to, int *first, int *weights) {
    double scale = (double)from / to, wide = scale > 1 ? scale : 1, support = reach() * wide;
    if (mn_model.image.kernel == 0) {
        *first = (int)((at + 0.5) * scale);
        if (*first >= from) *first = from - 1;
        weights[0] = 1 << BITS;
        return 1;
    }
    double centre = (at + 0.5) * scale, sum = 0;
    int low = (int)(centre - support + 0.5), high = (int)(centre + support + 0.5);
    if (low < 0) low = 0;
    if (high > from) high = from;
    for (int i = low; i < high; i++) sum += weight_at((i - centre + 0.5) / wide);
    for (int i = low; i < high; i++) {
        double w = weight_at((i - centre + 0.5) / wide);
        if (sum != 0) w /= sum;
        weights[i - low] = (int)(w * (1 << BITS) + (w < 0 ? -0.5 : 0.5));
    }
    *first = low;
    return high - low;
}

static uint8_t clip(int sum) {
    sum >>= BITS;
    return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

static int scaled_side(int side, double scale, int least) {
    const double unit = 6755399441055744.0; /* 1.5 * 2^52: a sum with it has no bits for a fraction */
    int scaled = (int)(side * scale + unit - unit); /* half to even, as Python rounds; libm would cost 360 KB */
    return scaled < least ? least : scaled;
}

int mn_image_init(mn_image *i, int max_width, int max_height) {
    int w = mn_model.image.width, h = mn_model.image.height, most = max_width > max_height ? max_width : max_height;
    int least = w < h ? w : h;
    double shrink = (double)most * mn_model.image.crop / least;
    i->max_width = max_width;
    i->max_height = max_height;
    i->most_taps = 2 * (int)(reach() * (shrink > 1 ? shrink : 1) * 1.02) + 5;
    i->coefficients = malloc(sizeof(int) * (size_t)w * (size_t)i->most_taps);
    i->row_coefficients = malloc(sizeof(int) * (size_t)i->most_taps);
    i->first = malloc(sizeof(int) * (size_t)w);
    i->count = malloc(sizeof(int) * (size_t)w);
    i->ring = malloc((size_t)i->most_taps * 3 * (size_t)w);
    if (!i->coefficients || !i->row_coefficients || !i->first || !i->count || !i->ring)
        return mn_fail(MOBILENET_MEMORY, "no memory for images of %d x %d", max_width, max_height);
    for (int c = 0; c < 3; c++)
        for (int v = 0; v < 256; v++)
            i->table[c][v] = (float)((v / 255.0 - mn_model.image.mean[c]) / mn_model.image.std[c]);
    return 0;
}

void mn_image_close(mn_image *i) {
    free(i->coefficients);
    free(i->row_coefficients);
    free(i->first);
    free(i->count);
    free(i->ring);
}

static void shrink_row(const mn_image *i, const uint8_t *row, uint8_t *out) {
    for (int x = 0; x < mn_model.image.width; x++, out += 3) {
        const int *k = i->coefficients + (size_t)x * (size_t)i->most_taps;
        const uint8_t *p = row + 3 * (size_t)i->first[x];
        int r = 1 << (BITS - 1), g = r, b = r;
        for (int n = i->count[x]; n--; p += 3, k++) r += p[0] * *k, g += p[1] * *k, b += p[2] * *k;
        out[0] = clip(r), out[1] = clip(g), out[2] = clip(b);
    }
}

int mn_image_load(mn_image *i, const uint8_t *rgb, int width, int height, size_t stride, float *input) {
    int w = mn_model.image.width, h = mn_model.image.height;
    if (width < 1 || height < 1 || width > i->max_width || height > i->max_height || (stride && stride < 3 * (size_t)width))
        return mn_fail(MOBILENET_ARGUMENT, "an image of %d x %d: 1 x 1 to %d x %d, as mobilenet_open was told", width,
                       height, i->max_width, i->max_height);
    if (!stride) stride = 3 * (size_t)width;
    double sy = h / mn_model.image.crop / height, sx = w / mn_model.image.crop / width, s = sy > sx ? sy : sx;
    int sw = scaled_side(width, s, w), sh = scaled_side(height, s, h), left = (sw - w) / 2, top = (sh - h) / 2;
    if ((int)(reach() * (width > sw ? (double)width / sw : 1)) * 2 + 3 > i->most_taps ||
        (int)(reach() * (height > sh ? (double)height / sh : 1)) * 2 + 3 > i->most_taps)
        return mn_fail(MOBILENET_ARGUMENT, "an image of %d x %d is too narrow", width, height);
    for (int x = 0; x < w; x++)
        i->count[x] = taps(left + x, width, sw, &i->first[x], i->coefficients + (size_t)x * (size_t)i->most_taps);
    int next = 0, plane = mn_model.image.nhwc ? 1 : h * w, pixel = mn_model.image.nhwc ? 3 : 1;
    for (int y = 0; y < h; y++) {
        int first, n = taps(top + y, height, sh, &first, i->row_coefficients);
        if (next < first) next = first;
        for (; next < first + n; next++)
            shrink_row(i, rgb + (size_t)next * stride, i->ring + (size_t)(next % i->most_taps) * 3 * (size_t)w);
        for (int x = 0; x < 3 * w; x++) {
            int sum = 1 << (BITS - 1);
            for (int t = 0; t < n; t++)
                sum += i->ring[(size_t)((first + t) % i->most_taps) * 3 * (size_t)w + (size_t)x] * i->row_coefficients[t];
            input[(size_t)(x % 3) * (size_t)plane + (size_t)(y * w + x / 3) * (size_t)pixel] = i->table[x % 3][clip(sum)];
        }
    }
    for (int b = 1; b < mn_model.image.batch; b++)
        memcpy(input + (size_t)b * 3 * (size_t)(h * w), input, sizeof(float) * 3 * (size_t)(h * w));
    return 0;
}
