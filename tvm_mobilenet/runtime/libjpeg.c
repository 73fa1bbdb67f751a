/* JPEG by libjpeg, where a system has no libturbojpeg: the other face of the same libjpeg-turbo.
 *
 * Its functions share a struct with their caller. Debian's libjpeg.so.62 has the one of version 6.2 of the interface,
 * Ubuntu's libjpeg.so.8 the one of version 8; the fields used here have the same place in both. The library itself compares
 * version and size before it touches it, and calls `failed` where they differ. Of the struct of errors only its five
 * callbacks are ours; behind them is room for whatever it keeps.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include "picture.h"

enum { RGB = 2, CMYK = 4, ACCURATE = 0, MOST_SCANS = 500, WARNING = -1, WORDS = 200 };

typedef struct {
    void (*error_exit)(void *), (*emit_message)(void *, int), (*output_message)(void *);
    void (*format_message)(void *, char *), (*reset)(void *);
    char rest[1024]; /* as the library has it: some 130 bytes */
} errors;

typedef struct {
    void (*monitor)(void *);
    long counter, limit;
    int done, total;
} progress;

/* jpeg_decompress_struct; fields that are not read here only have their room. */
#define DECOMPRESSOR(since_8) { \
    errors *err; \
    void *mem; \
    progress *progress; \
    void *client; \
    int is_decompressor, state; \
    void *src; \
    unsigned width, height; \
    int components, colours, out_colours; \
    unsigned scale[2]; \
    double gamma; \
    int buffered, raw, dct, fancy, smooth, quantize, dither, two_pass, wanted_colours, enabled[3]; \
    unsigned out_width, out_height; \
    int out_components[2], rows, actual_colours; \
    void *map; \
    unsigned scanline; \
    int input_scan; \
    unsigned input_row; \
    int output_scan; \
    unsigned output_row; \
    void *coef_bits, *tables[12]; \
    int precision; \
    void *component; \
    since_8(int baseline;) \
    int progressive, arithmetic; \
    unsigned char conditioning[48]; \
    unsigned restart; \
    int jfif; \
    unsigned char jfif_version[2], unit; \
    uint16_t density[2]; \
    int adobe; \
    unsigned char transform; \
    int ccir601; \
    void *markers; \
    int sampling[2], dct_size; \
    since_8(int dct_width;) \
    unsigned rows_of_units; \
    void *range; \
    int in_scan; \
    void *scan_components[4]; \
    unsigned mcus[2]; \
    int blocks, membership[10], spectral[4]; \
    since_8(int block; const int *order; int last;) \
    int unread; \
    void *parts[11]; \
}
#define KEPT(...) __VA_ARGS__
#define LEFT_OUT(...)
typedef struct DECOMPRESSOR(LEFT_OUT) decompressor;
typedef struct DECOMPRESSOR(KEPT) decompressor_8;

typedef struct {
    union {
        decompressor jpeg;
        decompressor_8 room;
    };
    errors err;
    progress watch;
    jmp_buf back;
    int warned, accepted;
    char words[WORDS];
    const libjpeg *lib;
} reader;

static void failed(void *jpeg) {
    reader *r = jpeg;
    r->err.format_message(jpeg, r->words);
    longjmp(r->back, 1);
}

static void told(void *jpeg, int level) {
    reader *r = jpeg;
    if (level == WARNING && !r->warned++) r->err.format_message(jpeg, r->words);
}

static void printed(void *jpeg) { (void)jpeg; }

static void watched(void *jpeg) {
    reader *r = jpeg;
    if (r->jpeg.input_scan <= MOST_SCANS) return;
    snprintf(r->words, sizeof r->words, "it has more than %d scans", MOST_SCANS);
    longjmp(r->back, 1);
}

/* No local variable's value is needed after a jump. */
static int pixels(reader *r, picture *p, const unsigned char *d, size_t n, int inks, int version) {
    if (setjmp(r->back)) return 1;
    r->lib->start(&r->jpeg, version, version == 62 ? sizeof r->jpeg : sizeof r->room);
    r->accepted = 1;
    r->jpeg.progress = &r->watch;
    r->lib->source(&r->jpeg, d, (unsigned long)n);
    r->lib->header(&r->jpeg, 1);
    r->jpeg.out_colours = inks ? CMYK : RGB;
    r->jpeg.dct = ACCURATE;
    r->lib->begin(&r->jpeg);
    if ((int)r->jpeg.out_width != p->width || (int)r->jpeg.out_height != p->height || r->jpeg.out_components[1] != (inks ? 4 : 3)) {
        snprintf(r->words, sizeof r->words, "its header is damaged");
        return 1;
    }
    while (r->jpeg.scanline < r->jpeg.out_height) {
        unsigned char *row = p->rgb + (size_t)(inks ? 4 : 3) * (size_t)p->width * r->jpeg.scanline;
        r->lib->rows(&r->jpeg, &row, 1);
    }
    r->lib->finish(&r->jpeg);
    return 0;
}

int picture_by_libjpeg(picture *p, const libjpeg *lib, int version, const unsigned char *d, size_t n, int inks) {
    reader r;
    memset(&r, 0, sizeof r);
    r.lib = lib;
    r.jpeg.err = lib->errors(&r.err);
    r.err.error_exit = failed, r.err.emit_message = told, r.err.output_message = printed, r.watch.monitor = watched;
    int code = pixels(&r, p, d, n, inks, version);
    lib->end(&r.jpeg);
    if (!r.accepted) return -1;
    if (code) return picture_fail(p, PICTURE_FAILED, "damaged: %.190s", r.words);
    if (r.warned) snprintf(p->why, sizeof p->why, "a damaged picture: %.190s", r.words);
    return 0;
}
