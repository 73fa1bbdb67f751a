/* From the bytes of a file to pixels, within limits: .ppm and .pgm here, other kinds by their own files.
 *
 * No file is trusted. Its sizes are compared with its length and the memory before pixels are read.
 */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "picture.h"

int picture_fail(picture *p, int code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(p->why, sizeof p->why, format, arguments);
    va_end(arguments);
    free(p->rgb);
    p->rgb = NULL;
    return code;
}

int picture_room(picture *p, uint64_t width, uint64_t height, unsigned bytes) {
    if (!width || !height || width > PICTURE_MOST_PIXELS || height > PICTURE_MOST_PIXELS || width * height > PICTURE_MOST_PIXELS)
        return picture_fail(p, PICTURE_FAILED, "it has %llu x %llu pixels, from 1 to %d in all are read",
                            (unsigned long long)width, (unsigned long long)height, PICTURE_MOST_PIXELS);
    if (width * height > p->most_bytes / bytes)
        return picture_fail(p, PICTURE_FAILED, "its %llu x %llu pixels take %llu MB of memory to read, %llu MB may be used: "
                            "make it smaller", (unsigned long long)width, (unsigned long long)height,
                            (unsigned long long)(width * height * bytes >> 20), (unsigned long long)p->most_bytes >> 20);
    p->width = (int)width;
    p->height = (int)height;
    /* A CMYK picture is decoded here too, with four bytes a pixel; zeros, since a damaged one may not fill all. */
    return (p->rgb = calloc((size_t)(width * height), 4)) ? 0 : picture_fail(p, PICTURE_FAILED, "no memory for its pixels");
}

int picture_upright(picture *p, int orientation) {
    int swapped = orientation >= 5, w = p->width, h = p->height;
    int mirrored = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8; /* columns, of the source */
    int upended = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;  /* rows */
    if (orientation < 2 || orientation > 8) return 0;
    unsigned char *out = malloc(3 * (size_t)w * (size_t)h), *to = out;
    if (!out) return picture_fail(p, PICTURE_FAILED, "no memory to turn it");
    for (int row = 0; row < (swapped ? w : h); row++)
        for (int column = 0; column < (swapped ? h : w); column++, to += 3) {
            int y = swapped ? column : row, x = swapped ? row : column;
            if (upended) y = h - 1 - y;
            if (mirrored) x = w - 1 - x;
            memcpy(to, p->rgb + 3 * ((size_t)y * (size_t)w + (size_t)x), 3);
        }
    free(p->rgb);
    p->rgb = out;
    if (swapped) p->width = h, p->height = w;
    return 0;
}

/* ---- .ppm and .pgm */

static int is_blank(unsigned char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/* A number of the header behind blanks and comments, with the blank behind it; a comment may stand there, too, but
 * behind the last one. -1: there is none. */
static int number(const unsigned char *d, size_t n, size_t *at, int last) {
    int value = 0, digits = 0;
    for (; *at < n && (is_blank(d[*at]) || d[*at] == '#'); ++*at)
        if (d[*at] == '#') while (*at + 1 < n && d[*at] != '\n' && d[*at] != '\r') ++*at;
    for (; *at < n && d[*at] >= '0' && d[*at] <= '9' && digits < 9; ++*at, digits++) value = value * 10 + d[*at] - '0';
    if (digits && *at < n && d[*at] == '#' && !last) return value;
    return digits && *at < n && is_blank(d[(*at)++]) ? value : -1;
}

/* value / most * full, rounded half to even, in float64 as Pillow does. */
static unsigned scaled(unsigned value, unsigned most, unsigned full) {
    double x = (double)value / most * full;
    unsigned whole = (unsigned)x;
    double rest = x - whole;
    whole += rest > 0.5 || (rest == 0.5 && whole % 2);
    return whole > full ? full : whole;
}

static int read_pnm(picture *p, const unsigned char *d, size_t n) {
    int grey = d[1] == '5', width, height, most;
    size_t at = 2, channels = grey ? 1 : 3;
    if ((width = number(d, n, &at, 0)) < 0 || (height = number(d, n, &at, 0)) < 0 || (most = number(d, n, &at, 1)) < 1 || most > 65535)
        return picture_fail(p, PICTURE_FAILED, "P%c is followed by width, height and the largest value, at most 65535", d[1]);
    int code = picture_room(p, (uint64_t)width, (uint64_t)height, 4);
    if (code) return code;
    size_t wide = most > 255 ? 2 : 1, values = channels * (size_t)width * (size_t)height, left = n - at;
    if (d[at - 1] == '\r' && left > values * wide && d[at] == '\n') at++, left--; /* lines that end in CR LF */
    if (left < values * wide)
        return picture_fail(p, PICTURE_FAILED, "it is cut off: %zu bytes of pixels, %d x %d have %zu", left, width, height,
                            values * wide);
    const unsigned char *from = d + at;
    for (size_t i = 0; i < values; i++, from += wide) {
        unsigned value = wide == 2 ? from[0] * 256u + from[1] : from[0];
        if (most != 255) value = grey && wide == 2 ? scaled(value, (unsigned)most, 65535) >> 8 : scaled(value, (unsigned)most, 255);
        if (grey) memset(p->rgb + 3 * i, (int)value, 3);
        else p->rgb[i] = (unsigned char)value;
    }
    return 0;
}

int picture_read(picture *p, const unsigned char *d, size_t n, const mobilenet_info *info, void *input) {
    p->rgb = NULL;
    *p->why = 0;
    if (n > 6 && !memcmp(d, "\x93NUMPY", 6)) return picture_read_array(p, d, n, info, input);
    int pnm = n > 2 && d[0] == 'P' && d[1] >= '1' && d[1] <= '7' && is_blank(d[2]);
    int code = pnm && (d[1] == '5' || d[1] == '6')             ? read_pnm(p, d, n)
               : n > 3 && !memcmp(d, "\xff\xd8\xff", 3)        ? picture_read_jpeg(p, d, n)
               : n > 8 && !memcmp(d, "\x89PNG\r\n\x1a\n", 8)   ? picture_read_png(p, d, n)
               : pnm ? picture_fail(p, PICTURE_FAILED, "a P%c picture: of .ppm and .pgm P6 and P5 are read", d[1])
                     : -1;
    if (!code && !info->takes_images)
        code = picture_fail(p, PICTURE_FAILED, "this model takes no images: give its input as a .npy of its dtype");
    return code;
}

/* ---- orientation */

static unsigned field(const unsigned char *d, int bytes, int little) {
    unsigned value = 0;
    for (int i = 0; i < bytes; i++) value = value << 8 | d[little ? bytes - 1 - i : i];
    return value;
}

int picture_exif(const unsigned char *d, size_t n) {
    static const unsigned char size_of[] = {0, 1, 0, 2, 4}; /* of EXIF's types that hold whole numbers */
    while (n >= 6 && !memcmp(d, "Exif\0", 6)) d += 6, n -= 6;
    if (n < 8 || (memcmp(d, "II*\0", 4) && memcmp(d, "MM\0*", 4))) return 0;
    int little = *d == 'I';
    size_t at = field(d + 4, 4, little);
    if (at > n - 2) return 0;
    for (unsigned left = field(d + at, 2, little); left && at + 14 <= n; left--, at += 12) {
        const unsigned char *entry = d + at + 2;
        unsigned type = field(entry + 2, 2, little);
        if (field(entry, 2, little) != 0x0112) continue;
        int one = type < sizeof size_of && size_of[type] && field(entry + 4, 4, little) == 1;
        unsigned value = one ? field(entry + 8, size_of[type], little) : 0;
        return value <= 8 ? (int)value : 0;
    }
    return 0;
}

int picture_xmp(const unsigned char *d, size_t n) {
    static const char name[] = "tiff:Orientation";
    for (const unsigned char *end = d + n, *p = d; (p = memmem(p, (size_t)(end - p), name, sizeof name - 1));) {
        p += sizeof name - 1;
        size_t sign = end - p > 2 && !memcmp(p, "=\"", 2) ? 2 : end - p > 1 && *p == '>' ? 1 : 0;
        const unsigned char *digit = p + sign;
        int alone = end - digit < 2 || digit[1] < '0' || digit[1] > '9';
        if (sign && digit < end && *digit >= '1' && *digit <= '8' && alone) return *digit - '0';
    }
    return 0;
}
