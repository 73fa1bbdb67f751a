/* A libjpeg.so.8 for systems that have none: libjpeg.so.62 behind version 8 of the interface.
 *
 * As the library itself does, it takes its own version and size alone. REAL is the path of libjpeg.so.62. Sizes are
 * those of sizeof(struct jpeg_decompress_struct) with libjpeg-turbo's header, at JPEG_LIB_VERSION 80 and 62.
 */
#include <dlfcn.h>
#include <stdlib.h>

enum { VERSION = 80, SIZE = sizeof(void *) == 8 ? 656 : 488, REAL_SIZE = sizeof(void *) == 8 ? 632 : 464 };

static void *real(const char *name) {
    void *library = dlopen(REAL, RTLD_NOW), *function = library ? dlsym(library, name) : 0;
    return function ? function : (abort(), function);
}

void jpeg_CreateDecompress(void *jpeg, int version, size_t size) {
    if (version != VERSION || size != SIZE) abort();
    ((void (*)(void *, int, size_t))real("jpeg_CreateDecompress"))(jpeg, 62, REAL_SIZE);
}

#define ONE(result, name) result name(void *p) { return ((result(*)(void *))real(#name))(p); }
ONE(void *, jpeg_std_error)
ONE(int, jpeg_start_decompress)
ONE(int, jpeg_finish_decompress)
void jpeg_destroy_decompress(void *jpeg) { ((void (*)(void *))real("jpeg_destroy_decompress"))(jpeg); }
int jpeg_read_header(void *jpeg, int whole) { return ((int (*)(void *, int))real("jpeg_read_header"))(jpeg, whole); }
void jpeg_mem_src(void *jpeg, const void *data, unsigned long n) {
    ((void (*)(void *, const void *, unsigned long))real("jpeg_mem_src"))(jpeg, data, n);
}
unsigned jpeg_read_scanlines(void *jpeg, void *rows, unsigned n) {
    return ((unsigned (*)(void *, void *, unsigned))real("jpeg_read_scanlines"))(jpeg, rows, n);
}
