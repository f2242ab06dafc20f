/* A slow disk for one process, loaded with LD_PRELOAD: each call that makes something durable takes so much longer.
 *
 * SLOW_DISK names a file of four bytes, the delay in microseconds (in the machine's order), which may change at any time.
 * io_uring makes no such calls: falconer.walBackend=pwritev2 goes with it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

static volatile const uint32_t *delay;

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("SLOW_DISK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *map = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *delay, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        _exit(99);
    close(fd);
    delay = map;
}

static void wait_for_disk(void) {
    int kept = errno;
    if (*delay)
        usleep(*delay);
    errno = kept;
}

ssize_t pwritev2(int fd, const struct iovec *pieces, int count, off_t offset, int flags) {
    static ssize_t (*real)(int, const struct iovec *, int, off_t, int);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "pwritev2");
    ssize_t moved = real(fd, pieces, count, offset, flags);
    wait_for_disk();
    return moved;
}

int fdatasync(int fd) {
    static int (*real)(int);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "fdatasync");
    int status = real(fd);
    wait_for_disk();
    return status;
}

int fsync(int fd) {
    static int (*real)(int);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "fsync");
    int status = real(fd);
    wait_for_disk();
    return status;
}
