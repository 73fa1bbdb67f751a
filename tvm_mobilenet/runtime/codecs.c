/* JPEG and PNG, by the libraries that a board's system has: they are loaded when a picture needs them.
 *
 * Only functions are used, whose arguments are the same in every version; `libjpeg.c` alone shares a struct. libpng ends a
 * failed call with a jump out of it, back into `png_pixels`; libturbojpeg returns. Pixels are those that Pillow makes:
 * the accurate inverse DCT, smooth upsampling, no colour management, no gamma, of 16 bits the high byte.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "picture.h"

typedef struct {
    const char *name;
    size_t at; /* of the pointer in a table of functions */
} symbol;

/* Fills a table of functions from a library, up to a symbol without a name; it stays loaded until the program ends.
 * Missing symbols are written to `why`. */
static int load(const char *file, const symbol *symbols, void *table, char *why, size_t room) {
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    const char *missing = library ? NULL : dlerror();
    for (; library && !missing && symbols->name; symbols++) {
        void *function = dlsym(library, symbols->name);
        if (!function) missing = dlerror();
        memcpy((char *)table + symbols->at, &function, sizeof function);
    }
    if (missing) snprintf(why, room, "%s", missing);
    return missing != NULL;
}

static int lacks(picture *p, const char *kind, const char *file, const char *why, const char *package) {
    return picture_fail(p, PICTURE_NO_PACKAGE, "a %s picture needs %s (%.200s): apt-get install %s; or save it as .ppm, or use "
                        "mobilenet.py", kind, file, why, package);
}

/* ---- JPEG */

typedef struct {
    void *(*start)(void);
    int (*decompress)(void *, const unsigned char *, unsigned long, unsigned char *, int, int, int, int, int);
    int (*code)(void *);
    char *(*words)(void *);
    int (*end)(void *);
} turbojpeg;
enum { AS_RGB = 0, AS_CMYK = 11, ACCURATE_DCT = 4096, LIMIT_SCANS = 32768, ONLY_A_WARNING = 0 };
static const symbol turbojpeg_symbols[] = {
    {"tjInitDecompress", offsetof(turbojpeg, start)}, {"tjDecompress2", offsetof(turbojpeg, decompress)},
    {"tjGetErrorCode", offsetof(turbojpeg, code)},    {"tjGetErrorStr2", offsetof(turbojpeg, words)},
    {"tjDestroy", offsetof(turbojpeg, end)},          {0},
};

static const struct {
    const char *file;
    int version;
} libjpegs[] = {{"libjpeg.so.62", 62}, {"libjpeg.so.8", 80}}; /* Debian's, Ubuntu's */
static const symbol libjpeg_symbols[] = {
    {"jpeg_std_error", offsetof(libjpeg, errors)},        {"jpeg_CreateDecompress", offsetof(libjpeg, start)},
    {"jpeg_mem_src", offsetof(libjpeg, source)},          {"jpeg_read_header", offsetof(libjpeg, header)},
    {"jpeg_start_decompress", offsetof(libjpeg, begin)},  {"jpeg_read_scanlines", offsetof(libjpeg, rows)},
    {"jpeg_finish_decompress", offsetof(libjpeg, finish)}, {"jpeg_destroy_decompress", offsetof(libjpeg, end)},
    {0},
};

typedef struct {
    int width, height, components, scans, orientation; /* scans: 1, or 2 for more */
} jpeg_header;

/* The segments before the first scan; an error's text if they are damaged. */
static const char *jpeg_look(const unsigned char *d, size_t n, jpeg_header *h) {
    int exif = -1, xmp = -1; /* -1: there is none yet; the first counts, whatever it says */
    for (size_t at = 2; at + 4 <= n;) {
        int marker = d[at + 1];
        if (d[at] != 0xff || marker == 0xff) { at++; continue; }
        if (marker < 2 || (marker >= 0xd0 && marker <= 0xd8)) { at += 2; continue; }
        size_t length = d[at + 2] * 256u + d[at + 3];
        const unsigned char *s = d + at + 4;
        if (marker == 0xd9) break;
        if (length < 2 || length > n - at - 2) return "it is cut off before its pixels";
        length -= 2;
        if (marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc) {
            if (length < 6 || h->width) return "its header is damaged";
            h->height = s[1] * 256 + s[2], h->width = s[3] * 256 + s[4], h->components = s[5];
            h->scans = marker % 4 == 2 ? 2 : 1; /* progressive */
            if (!h->height || !h->width) return "it does not say how many pixels it has";
        } else if (marker == 0xe1 && length >= 6 && !memcmp(s, "Exif\0", 6)) {
            if (exif < 0) exif = picture_exif(s, length);
        } else if (marker == 0xe1 && length >= 29 && !memcmp(s, "http://ns.adobe.com/xap/1.0/", 29)) {
            if (xmp < 0) xmp = picture_xmp(s + 29, length - 29);
        } else if (marker == 0xda) {
            if (!h->width || !length) return "its header is damaged";
            if (*s < h->components) h->scans = 2;
            h->orientation = exif > 0 ? exif : xmp > 0 ? xmp : 0;
            return memmem(s, n - (size_t)(s - d), "\xff\xd9", 2) ? NULL : "it is cut off";
        }
        at += length + 4;
    }
    return "it holds no picture";
}

/* Of inks as Adobe's programs store them, from white to full, to light. */
static void from_cmyk(unsigned char *d, size_t pixels) {
    for (size_t i = 0; i < pixels; i++) {
        const unsigned char *in = d + 4 * i;
        int light = in[3];
        for (int k = 0; k < 3; k++) {
            int dark = (255 - in[k]) * light + 128;
            d[3 * i + (size_t)k] = (unsigned char)(light - (((dark >> 8) + dark) >> 8));
        }
    }
}

/* By libturbojpeg, whose calls return. */
static int by_turbojpeg(picture *p, const turbojpeg *tj, const unsigned char *d, size_t n, int inks) {
    int code = 0, format = inks ? AS_CMYK : AS_RGB, pitch = (inks ? 4 : 3) * p->width;
    void *handle = tj->start();
    if (!handle) return picture_fail(p, PICTURE_FAILED, "no memory to read it");
    if (tj->decompress(handle, d, n, p->rgb, p->width, pitch, p->height, format, ACCURATE_DCT | LIMIT_SCANS)) {
        if (tj->code(handle) != ONLY_A_WARNING) code = picture_fail(p, PICTURE_FAILED, "damaged: %.200s", tj->words(handle));
        else snprintf(p->why, sizeof p->why, "a damaged picture: %.200s", tj->words(handle));
    }
    tj->end(handle);
    return code;
}

int picture_read_jpeg(picture *p, const unsigned char *d, size_t n) {
    turbojpeg tj;
    libjpeg lj;
    jpeg_header h = {0};
    char why[300], other[300];
    const char *damaged = jpeg_look(d, n, &h);
    if (damaged) return picture_fail(p, PICTURE_FAILED, "%s", damaged);
    /* A picture of several scans is kept whole as coefficients of two bytes; one is turned in a copy. */
    unsigned bytes = 4 + (h.scans > 1 ? 2u * (unsigned)h.components : 0), turned = h.orientation > 1 ? 7 : 0;
    int code = picture_room(p, (uint64_t)h.width, (uint64_t)h.height, bytes > turned ? bytes : turned), inks = h.components == 4;
    if (code) return code;
    if (!load("libturbojpeg.so.0", turbojpeg_symbols, &tj, why, sizeof why)) code = by_turbojpeg(p, &tj, d, n, inks);
    else code = -1;
    for (size_t i = 0; code < 0 && i < sizeof libjpegs / sizeof *libjpegs; i++)
        if (!load(libjpegs[i].file, libjpeg_symbols, &lj, other, sizeof other))
            code = picture_by_libjpeg(p, &lj, libjpegs[i].version, d, n, inks);
    if (code < 0) code = lacks(p, "JPEG", "libturbojpeg.so.0, libjpeg.so.62 or libjpeg.so.8", why, "libturbojpeg0 (on Ubuntu libturbojpeg)");
    if (code) return code;
    if (inks) from_cmyk(p->rgb, (size_t)h.width * (size_t)h.height);
    return picture_upright(p, h.orientation);
}

/* ---- PNG */

typedef struct {
    const char *(*version)(const void *);
    void *(*start)(const char *, void *, void (*)(void *, const char *), void (*)(void *, const char *));
    void *(*info)(const void *);
    void (*end)(void **, void **, void **);
    void *(*error_of)(const void *);
    void *(*source_of)(const void *);
    void (*source)(void *, void *, void (*)(void *, unsigned char *, size_t));
    void (*limits)(void *, uint32_t, uint32_t);
    void (*chunk_bytes)(void *, size_t);
    void (*skip)(void *, int, const unsigned char *, int);
    void (*header)(void *, void *);
    void (*high_byte)(void *), (*expand)(void *), (*no_alpha)(void *), (*colours)(void *);
    int (*passes)(void *);
    void (*update)(void *, void *);
    size_t (*row_bytes)(const void *, const void *);
    void (*row)(void *, unsigned char *, unsigned char *);
} libpng;
static const symbol libpng_symbols[] = {
    {"png_get_libpng_ver", offsetof(libpng, version)},
    {"png_create_read_struct", offsetof(libpng, start)},
    {"png_create_info_struct", offsetof(libpng, info)},
    {"png_destroy_read_struct", offsetof(libpng, end)},
    {"png_get_error_ptr", offsetof(libpng, error_of)},
    {"png_get_io_ptr", offsetof(libpng, source_of)},
    {"png_set_read_fn", offsetof(libpng, source)},
    {"png_set_user_limits", offsetof(libpng, limits)},
    {"png_set_chunk_malloc_max", offsetof(libpng, chunk_bytes)},
    {"png_set_keep_unknown_chunks", offsetof(libpng, skip)},
    {"png_read_info", offsetof(libpng, header)},
    {"png_set_strip_16", offsetof(libpng, high_byte)},
    {"png_set_expand", offsetof(libpng, expand)},
    {"png_set_strip_alpha", offsetof(libpng, no_alpha)},
    {"png_set_gray_to_rgb", offsetof(libpng, colours)},
    {"png_set_interlace_handling", offsetof(libpng, passes)},
    {"png_read_update_info", offsetof(libpng, update)},
    {"png_get_rowbytes", offsetof(libpng, row_bytes)},
    {"png_read_row", offsetof(libpng, row)},
    {0},
};

static libpng lib; /* calls back with nothing but pointers of its own, so that it is found here */

typedef struct {
    void *png, *info;
    jmp_buf back;
    char words[200];
    const unsigned char *data;
    size_t left;
} png_reader;

static void png_failed(void *png, const char *words) {
    png_reader *r = lib.error_of(png);
    snprintf(r->words, sizeof r->words, "%.190s", words);
    longjmp(r->back, 1);
}

static void png_warned(void *png, const char *words) { (void)png, (void)words; }

static void png_next(void *png, unsigned char *to, size_t n) {
    png_reader *r = lib.source_of(png);
    if (n > r->left) png_failed(png, "it is cut off");
    memcpy(to, r->data, n);
    r->data += n;
    r->left -= n;
}

/* All rows as 8 bits of R, G and B; not 0: libpng failed, and jumped. No local variable's value is needed after a jump. */
static int png_pixels(png_reader *r, picture *p) {
    if (setjmp(r->back)) return 1;
    snprintf(r->words, sizeof r->words, "no memory");
    if (!(r->png = lib.start(lib.version(NULL), r, png_failed, png_warned)) || !(r->info = lib.info(r->png))) return 1;
    lib.source(r->png, r, png_next);
    lib.limits(r->png, (uint32_t)p->width, (uint32_t)p->height);
    lib.chunk_bytes(r->png, 8 << 20);
    lib.skip(r->png, 1, NULL, -1); /* texts, colour profiles and the like are not looked at */
    lib.header(r->png, r->info);
    lib.high_byte(r->png);
    lib.expand(r->png);
    lib.no_alpha(r->png);
    lib.colours(r->png);
    int passes = lib.passes(r->png);
    lib.update(r->png, r->info);
    if (lib.row_bytes(r->png, r->info) != 3 * (size_t)p->width) png_failed(r->png, "its header is damaged");
    for (; passes; passes--)
        for (int y = 0; y < p->height; y++) lib.row(r->png, p->rgb + 3 * (size_t)y * (size_t)p->width, NULL);
    return 0;
}

static uint32_t four(const unsigned char *d) { return (uint32_t)d[0] << 24 | (uint32_t)d[1] << 16 | (uint32_t)d[2] << 8 | d[3]; }

/* EXIF's orientation, or else XMP's, wherever their chunks lie before IEND. */
static int png_orientation(const unsigned char *d, size_t n) {
    static const char xmp_name[] = "XML:com.adobe.xmp\0"; /* and then: not compressed */
    int exif = -1, xmp = -1; /* -1: there is none yet; the first counts, whatever it says */
    for (size_t at = 8; n - at >= 12;) {
        size_t length = four(d + at);
        const unsigned char *chunk = d + at + 8;
        if (length > n - at - 12) break;
        if (!memcmp(d + at + 4, "IEND", 4)) break;
        if (!memcmp(d + at + 4, "eXIf", 4) && exif < 0) exif = picture_exif(chunk, length);
        if (!memcmp(d + at + 4, "iTXt", 4) && xmp < 0 && length >= sizeof xmp_name && !memcmp(chunk, xmp_name, sizeof xmp_name))
            xmp = picture_xmp(chunk + sizeof xmp_name, length - sizeof xmp_name);
        at += length + 12;
    }
    return exif > 0 ? exif : xmp > 0 ? xmp : 0;
}

int picture_read_png(picture *p, const unsigned char *d, size_t n) {
    png_reader r = {.data = d, .left = n};
    if (n < 33 || four(d + 8) != 13 || memcmp(d + 12, "IHDR", 4)) return picture_fail(p, PICTURE_FAILED, "its header is damaged");
    int orientation = png_orientation(d, n);
    int code = picture_room(p, four(d + 16), four(d + 20), orientation > 1 ? 7 : 4);
    if (code) return code;
    char why[300];
    if (load("libpng16.so.16", libpng_symbols, &lib, why, sizeof why))
        return lacks(p, "PNG", "libpng16.so.16", why, "libpng16-16 (from Debian 13 on libpng16-16t64)");
    int failed = png_pixels(&r, p);
    if (r.png) lib.end(&r.png, &r.info, NULL);
    return failed ? picture_fail(p, PICTURE_FAILED, "damaged: %s", r.words) : picture_upright(p, orientation);
}
