/* The program's contents of a file: a picture's pixels, or the numbers of an input. The library takes either. */
#ifndef MOBILENET_PICTURE_H
#define MOBILENET_PICTURE_H

#include <stddef.h>
#include <stdint.h>

#include "mobilenet.h"

enum { PICTURE_FAILED = 1, PICTURE_NO_PACKAGE = 3 }; /* exit codes of the program, too */
enum { PICTURE_MOST_PIXELS = 1 << 26 };              /* as models/preprocess.py has it */

typedef struct {
    size_t most_bytes;     /* given: memory that pixels may take, that of a decoder included */
    unsigned char *rgb;    /* height x width x 3, from malloc; NULL: the file is an input */
    int width, height;
    char why[512];         /* an error, or after success a note */
} picture;

/* All return 0, or one of the codes above with `why` set; then `rgb` is NULL. */
int picture_fail(picture *p, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
int picture_room(picture *p, uint64_t width, uint64_t height, unsigned bytes); /* rgb, of `bytes` a pixel at the peak */
int picture_upright(picture *p, int orientation);                              /* EXIF's, 1 to 8: turned and mirrored */

/* A file of a known kind; -1: it is of none. An array that is no picture goes to `input`, of the port's shape. */
int picture_read(picture *p, const unsigned char *data, size_t n, const mobilenet_info *info, void *input);
int picture_read_array(picture *p, const unsigned char *data, size_t n, const mobilenet_info *info, void *input);
int picture_read_jpeg(picture *p, const unsigned char *data, size_t n);
int picture_read_png(picture *p, const unsigned char *data, size_t n);

/* Functions of libjpeg, and JPEG by them: `inks` as CMYK, else as RGB. -1: the library is not of the version, 62 or 80. */
typedef struct {
    void *(*errors)(void *);
    void (*start)(void *, int, size_t);
    void (*source)(void *, const unsigned char *, unsigned long);
    int (*header)(void *, int), (*begin)(void *), (*finish)(void *);
    unsigned (*rows)(void *, unsigned char **, unsigned);
    void (*end)(void *);
} libjpeg;
int picture_by_libjpeg(picture *p, const libjpeg *lib, int version, const unsigned char *data, size_t n, int inks);

/* The orientation in EXIF's bytes, in XMP's; 0: none. */
int picture_exif(const unsigned char *data, size_t n);
int picture_xmp(const unsigned char *data, size_t n);

#endif
