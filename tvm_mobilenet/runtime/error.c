/* The last error of this thread, and memory with the alignment of tensors. */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "internal.h"

static __thread char last_error[384];

int mn_fail(int code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(last_error, sizeof last_error, format, arguments);
    va_end(arguments);
    return code;
}

const char *mobilenet_last_error(void) { return last_error; }

void *mn_allocate(size_t n) {
    void *at = NULL;
    return posix_memalign(&at, MN_ALIGNMENT, n ? n : 1) ? NULL : at;
}
