/* From 8-bit RGB to an input, or to what the first step makes of one, as models/resize.py defines it: each pass is a weighted sum in fixed point, rounded to 8 bits.
 *
 * Only the columns and rows that the crop keeps are computed. The horizontal pass of a source row lies in a ring that
 * holds as many rows as one output row reads, so memory does not grow with the image's height. Where the height shrinks
 * far more than the width, the vertical pass comes first, and each of its rows is resized in width at once.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

enum { BITS = 22, HALF = 1 << 21 }; /* of the fraction: 8 bits of pixel and 2 of headroom are left of 32 */
enum { LARGEST = 1 << 24 };         /* pixels of a side after resizing */

static double weight_at(double x) {
    x = fabs(x);
    if (mn_model.image.kernel == 1) return x < 1 ? 1 - x : 0;
    const double a = -0.5; /* Keys' cubic */
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

static double reach(void) { return mn_model.image.kernel; } /* 0, 1 or 2 pixels to each side */

/* One side of the image: `from` pixels become `to`, of which those from `begin` are kept. */
typedef struct {
    int from, to, begin;
    double scale, wide, next; /* next: where the nearest pixel of the next one lies */
} side;

static side side_of(int from, int to, int kept) {
    side s = {from, to, (to - kept) / 2, (double)from / to, 1, 0};
    if (s.scale > 1) s.wide = s.scale;
    s.next = 0.5 * s.scale;
    for (int i = 0; i < s.begin; i++) s.next += s.scale; /* Pillow adds where multiplication would round differently */
    return s;
}

/* The next kept pixel, number `at`: first source pixel, number of source pixels, and their weights. */
static int taps(side *s, int at, int *first, int *weights) {
    if (mn_model.image.kernel == 0) {
        *first = (int)s->next;
        if (*first >= s->from) *first = s->from - 1;
        weights[0] = 1 << BITS;
        s->next += s->scale;
        return 1;
    }
    double centre = (s->begin + at + 0.5) * s->scale, support = reach() * s->wide, narrow = 1.0 / s->wide, sum = 0;
    int low = (int)(centre - support + 0.5), high = (int)(centre + support + 0.5);
    if (low < 0) low = 0;
    if (high > s->from) high = s->from;
    for (int i = low; i < high; i++) sum += weight_at((i - centre + 0.5) * narrow);
    for (int i = low; i < high; i++) {
        double w = weight_at((i - centre + 0.5) * narrow);
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

static int rounded(double x, int least) {
    const double unit = 6755399441055744.0; /* 1.5 * 2^52: a sum with it has no bits for a fraction */
    int whole = (int)(x + unit - unit);     /* half to even, as Python rounds; libm would cost 360 KB */
    return whole < least ? least : whole;
}

/* The largest factor by which a side of at most `most` pixels can shrink to `kept` of them. */
static double shrink(int most, int kept) {
    double least = kept / mn_model.image.crop - 0.5;
    return most / (least > kept ? least : kept);
}

int mn_image_init(mn_image *i, int max_width, int max_height) {
    int w = mn_model.image.width, h = mn_model.image.height, c = mn_model.image.channels;
    double most = shrink(max_width, w), other = shrink(max_height, h);
    if (most < other) most = other;
    i->max_width = max_width;
    i->max_height = max_height;
    i->most_taps = 2 * (int)(reach() * (most > 1 ? most : 1) + 1) + 3;
    i->coefficients = malloc(sizeof(int) * (size_t)w * (size_t)i->most_taps);
    i->row_coefficients = malloc(sizeof(int) * (size_t)i->most_taps);
    i->first = malloc(sizeof(int) * (size_t)w);
    i->count = malloc(sizeof(int) * (size_t)w);
    i->line = malloc((size_t)c * (size_t)max_width);
    i->ring = malloc((size_t)i->most_taps * (size_t)c * (size_t)w);
    i->out = malloc((size_t)c * (size_t)w);
    if (!i->coefficients || !i->row_coefficients || !i->first || !i->count || !i->line || !i->ring || !i->out)
        return mn_fail(MOBILENET_MEMORY, "no memory for images of %d x %d", max_width, max_height);
    return 0;
}

void mn_image_close(mn_image *i) {
    free(i->coefficients);
    free(i->row_coefficients);
    free(i->first);
    free(i->count);
    free(i->line);
    free(i->ring);
    free(i->out);
}

/* Of R, G and B: ITU-R 601, as Pillow's convert("L"). */
static uint8_t grey(const uint8_t *p) { return (uint8_t)((p[0] * 19595u + p[1] * 38470u + p[2] * 7471u + 0x8000) >> 16); }

/* A source row in as many channels as the network has. */
static const uint8_t *row_of(const mn_image *i, const uint8_t *rgb, int width) {
    if (mn_model.image.channels == 3) return rgb;
    for (int x = 0; x < width; x++) i->line[x] = grey(rgb + 3 * (size_t)x);
    return i->line;
}

static void across(const mn_image *i, const uint8_t *row, uint8_t *out) {
    int c = mn_model.image.channels;
    for (int x = 0; x < mn_model.image.width; x++, out += c) {
        const int *k = i->coefficients + (size_t)x * (size_t)i->most_taps;
        const uint8_t *p = row + (size_t)c * (size_t)i->first[x];
        int r = HALF, g = HALF, b = HALF;
        if (c == 1) {
            for (int n = i->count[x]; n--; p++, k++) r += *p * *k;
            out[0] = clip(r);
            continue;
        }
        for (int n = i->count[x]; n--; p += 3, k++) r += p[0] * *k, g += p[1] * *k, b += p[2] * *k;
        out[0] = clip(r), out[1] = clip(g), out[2] = clip(b);
    }
}

/* A row of the image resized in height alone: the columns that `across` reads, into the line. */
static void down(const mn_image *i, const uint8_t *rgb, size_t stride, int first, int n) {
    int c = mn_model.image.channels, last = mn_model.image.width - 1, from = i->first[0];
    int to = i->first[last] + i->count[last];
    for (int x = from; x < to; x++) {
        const uint8_t *p = rgb + (size_t)first * stride + 3 * (size_t)x;
        int r = HALF, g = HALF, b = HALF;
        for (int t = 0; t < n; t++, p += stride) {
            int k = i->row_coefficients[t];
            if (c == 1) r += grey(p) * k;
            else r += p[0] * k, g += p[1] * k, b += p[2] * k;
        }
        uint8_t *out = i->line + (size_t)c * (size_t)x;
        out[0] = clip(r);
        if (c == 3) out[1] = clip(g), out[2] = clip(b);
    }
}

/* Row y of the network's image, each byte as its table says. */
static void store(const uint8_t *row, int y, const mn_pixels *to, void *out) {
    int w = mn_model.image.width, c = mn_model.image.channels;
    for (int k = 0; k < c; k++) {
        size_t at = (size_t)(mn_model.image.bgr ? c - 1 - k : k), begin = at * to->plane + (size_t)y * to->row;
        const uint8_t *p = row + k;
        if (to->bytes == 4) {
            const float *table = (const float *)to->table + 256 * at;
            for (float *o = (float *)out + begin, *end = o + (size_t)w * to->pixel; o < end; o += to->pixel, p += c) *o = table[*p];
        } else if (to->bytes == 2) {
            const uint16_t *table = (const uint16_t *)to->table + 256 * at;
            for (uint16_t *o = (uint16_t *)out + begin, *end = o + (size_t)w * to->pixel; o < end; o += to->pixel, p += c) *o = table[*p];
        } else {
            const uint8_t *table = (const uint8_t *)to->table + 256 * at;
            for (uint8_t *o = (uint8_t *)out + begin, *end = o + (size_t)w * to->pixel; o < end; o += to->pixel, p += c) *o = table[*p];
        }
    }
}

int mn_image_load(mn_image *i, const uint8_t *rgb, int width, int height, size_t stride, const mn_pixels *to, void *out) {
    int w = mn_model.image.width, h = mn_model.image.height, c = mn_model.image.channels;
    if (width < 1 || height < 1 || width > i->max_width || height > i->max_height || (stride && stride < 3 * (size_t)width))
        return mn_fail(MOBILENET_ARGUMENT, "an image of %d x %d: from 1 x 1 to %d x %d is taken; shrink it, or open "
                       "with a larger max_width and max_height", width, height, i->max_width, i->max_height);
    if (!stride) stride = 3 * (size_t)width;
    double sw = w / mn_model.image.crop, sh = h / mn_model.image.crop;
    if (!mn_model.image.squash) {
        double s = sh / height > sw / width ? sh / height : sw / width;
        sw = width * s, sh = height * s;
    }
    if (sw > LARGEST || sh > LARGEST)
        return mn_fail(MOBILENET_ARGUMENT, "an image of %d x %d is too narrow: cut it", width, height);
    side x = side_of(width, rounded(sw, w), w), y = side_of(height, rounded(sh, h), h);
    if ((int)(reach() * (x.wide > y.wide ? x.wide : y.wide) + 1) * 2 + 3 > i->most_taps)
        return mn_fail(MOBILENET_ARGUMENT, "an image of %d x %d is too large", width, height);
    for (int column = 0; column < w; column++)
        i->count[column] = taps(&x, column, &i->first[column], i->coefficients + (size_t)column * (size_t)i->most_taps);
    int next = 0, height_first = height > y.to && height - y.to > 2 * (width - x.to);
    size_t slot = (size_t)c * (size_t)w;
    for (int row = 0; row < h; row++) {
        int first, n = taps(&y, row, &first, i->row_coefficients);
        if (height_first) {
            down(i, rgb, stride, first, n);
            across(i, i->line, i->out);
            store(i->out, row, to, out);
            continue;
        }
        if (next < first) next = first;
        for (; next < first + n; next++)
            across(i, row_of(i, rgb + (size_t)next * stride, width), i->ring + (size_t)(next % i->most_taps) * slot);
        for (size_t p = 0; p < slot; p++) {
            int sum = HALF;
            for (int t = 0; t < n; t++)
                sum += i->ring[(size_t)((first + t) % i->most_taps) * slot + p] * i->row_coefficients[t];
            i->out[p] = clip(sum);
        }
        store(i->out, row, to, out);
    }
    size_t one = to->image * (size_t)to->bytes;
    for (int b = 1; b < mn_model.image.batch; b++) memcpy((char *)out + (size_t)b * one, out, one);
    return 0;
}
