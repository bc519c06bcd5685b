/* file.c - files: read whole, mapped, or replaced in one step. */
#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* The failure of the system call just made, on `path`. */
static Result fail_errno(const char *what, const char *path)
{
    int code = errno;
    char text[128];
    return fail(FAIL_SYSTEM, "%s: cannot %s: %s", path, what, strerror_r(code, text, sizeof text));
}

static Result read_all(Buffer *out, int fd, const char *path, size_t limit)
{
    out->len = 0;
    for (;;) {
        buffer_reserve(out, 1 << 16);
        size_t room = out->cap - out->len - 1;                     // one byte is kept for the NUL
        ssize_t got = read(fd, out->data + out->len, room);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return fail_errno("read", path);
        if (got == 0) break;
        out->len += (size_t)got;
        if (out->len > limit) return fail(FAIL_DATA, "%s: larger than %zu bytes", path, limit);
    }
    out->data[out->len] = 0;
    return OK;
}

Result file_read(Buffer *out, const char *path, size_t limit)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return fail_errno("open", path);
    struct stat s;
    Result r = OK;
    if (fstat(fd, &s) != 0) r = fail_errno("read", path);
    else if (S_ISREG(s.st_mode) && (uint64_t)s.st_size > limit)
        r = fail(FAIL_DATA, "%s: %lld bytes, larger than %zu", path, (long long)s.st_size, limit);
    else r = read_all(out, fd, path, limit);
    close(fd);
    return r;
}

Result file_map(FileMap *out, const char *path)
{
    *out = (FileMap){(const uint8_t *)"", 0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);        // a pipe is refused below, not waited for
    if (fd < 0) return fail_errno("open", path);
    struct stat s;
    Result r = OK;
    if (fstat(fd, &s) != 0) r = fail_errno("read", path);
    else if (!S_ISREG(s.st_mode)) r = fail(FAIL_DATA, "%s: not a file", path);
    else if (s.st_size > 0) {
        void *data = mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (data == MAP_FAILED) r = fail_errno("map", path);
        else *out = (FileMap){data, (size_t)s.st_size};
    }
    close(fd);
    return r;
}

void file_unmap(FileMap *m)
{
    if (m->len) munmap((void *)(uintptr_t)m->data, m->len);
    *m = (FileMap){NULL, 0};
}

static Result write_all(int fd, const char *path, const uint8_t *data, size_t len)
{
    while (len) {
        ssize_t put = write(fd, data, len < 1u << 30 ? len : 1u << 30);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return fail_errno("write", path);
        data += put, len -= (size_t)put;
    }
    return OK;
}

/* A rename is only certain to outlast a power cut once its folder is on the disk too. */
static Result folder_sync(const char *path)
{
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    size_t len = slash ? (size_t)(slash - path) : 0;
    ASSERT(len < sizeof folder);
    if (!slash) strcpy(folder, ".");
    else if (len == 0) strcpy(folder, "/");
    else memcpy(folder, path, len), folder[len] = 0;
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return fail_errno("open", folder);
    Result r = fsync(fd) == 0 ? OK : fail_errno("sync", folder);
    close(fd);
    return r;
}

Result file_write(const char *path, const void *data, size_t len, unsigned mode)
{
    char temporary[PATH_MAX];
    if (snprintf(temporary, sizeof temporary, "%s.XXXXXX", path) >= (int)sizeof temporary)
        return fail(FAIL_SYSTEM, "%s: too long a path", path);
    int fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0) return fail_errno("write", path);
    Result r = write_all(fd, path, data, len);
    if (!failed(r) && fchmod(fd, (mode_t)mode) != 0) r = fail_errno("set the mode", path);
    if (!failed(r) && fsync(fd) != 0) r = fail_errno("sync", path);
    if (close(fd) != 0 && !failed(r)) r = fail_errno("write", path);
    if (!failed(r) && rename(temporary, path) != 0) r = fail_errno("replace", path);
    if (failed(r)) {
        unlink(temporary);
        return r;
    }
    return folder_sync(path);
}

bool file_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

Result folder_make(const char *path, unsigned mode)
{
    char at[PATH_MAX];
    size_t len = strlen(path);
    if (len == 0 || len >= sizeof at) return fail(FAIL_SYSTEM, "'%s': not a folder's path", path);
    memcpy(at, path, len + 1);
    for (char *c = at + 1;; c++) {
        if (*c && *c != '/') continue;
        char end = *c;
        *c = 0;
        struct stat s;
        if (mkdir(at, (mode_t)mode) != 0) {
            if (errno != EEXIST) return fail_errno("make the folder", at);
            if (stat(at, &s) != 0) return fail_errno("read", at);
            if (!S_ISDIR(s.st_mode)) return fail(FAIL_SYSTEM, "%s: not a folder", at);
        }
        *c = end;
        if (!end) return OK;
    }
}
