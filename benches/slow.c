/* Makes reads of 4 KiB and more take as long as on storage that is reached through a network: SLOW_US microseconds and
 * half a nanosecond for each byte (2 GB/s), each for itself, however many are under way. For LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

ssize_t pread64(int fd, void *bytes, size_t len, off64_t offset)
{
    static ssize_t (*real)(int, void *, size_t, off64_t);
    if (!real)
        real = (ssize_t (*)(int, void *, size_t, off64_t))dlsym(RTLD_NEXT, "pread64");
    const char *us = getenv("SLOW_US");
    if (us && len >= 4096) {
        long ns = atol(us) * 1000 + (long)(len / 2);
        struct timespec wait = { ns / 1000000000, ns % 1000000000 };
        nanosleep(&wait, NULL);
    }
    return real(fd, bytes, len, offset);
}

ssize_t pread(int fd, void *bytes, size_t len, off_t offset)
{
    return pread64(fd, bytes, len, offset);
}
