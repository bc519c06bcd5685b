/* place.c - files that appear whole, private and durable, or not at all: keys, tapes and pools are made of them.
 *
 * base.h has file_write, which replaces; these refuse to. A file is written without a name where the file system knows such files, so
 * that a crash leaves nothing, else under one beside; its name is given with link(2), which fails if that is taken. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crypto/tools.h"

/* The folder of a path, ended by a 0. */
static void folder_of(Buffer *out, const char *path)
{
    const char *slash = strrchr(path, '/');
    if (slash) buffer_append(out, path, slash > path ? (size_t)(slash - path) : 1);
    else buffer_append(out, ".", 1);
    buffer_u8(out, 0);
}

Result folder_sync(const char *path)
{
    Buffer name = {0};
    folder_of(&name, path);
    int fd = open((const char *)name.data, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    buffer_free(&name);
    int bad = fd < 0 || fsync(fd) != 0 ? errno : 0;
    if (fd >= 0) close(fd);
    return bad ? fail(FAIL_SYSTEM, "%s: cannot sync its folder: %s", path, strerror(bad)) : OK;
}

/* How a file without a name is called until it has one. */
static const char *path_of(char out[32], int fd)
{
    snprintf(out, 32, "/proc/self/fd/%d", fd);
    return out;
}

Result file_begin(int *fd, char **temporary, const char *path)
{
    uint8_t random[8];
    char self[32];
    Buffer name = {0};
    folder_of(&name, path);
    *temporary = NULL;
    *fd = open((const char *)name.data, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    name.len = 0;
    if (*fd >= 0 && file_exists(path_of(self, *fd))) {
        buffer_free(&name);
        return OK;
    }
    if (*fd >= 0) close(*fd);
    random_bytes(random, sizeof random);
    char digits[2 * sizeof random + 1];
    hex_encode(digits, random, sizeof random);
    buffer_append(&name, path, strlen(path));
    buffer_append(&name, ".", 1);
    buffer_append(&name, digits, sizeof digits);                       // with its 0
    *fd = open((const char *)name.data, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    *temporary = *fd >= 0 ? strdup((const char *)name.data) : NULL;
    buffer_free(&name);
    if (*fd < 0) return fail(FAIL_SYSTEM, "%s: %s", path, strerror(errno));
    ASSERT(*temporary);
    return OK;
}

Result file_put(int fd, const char *path, const void *data, size_t len)
{
    const uint8_t *from = data;
    while (len > 0) {
        ssize_t n = write(fd, from, len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail(FAIL_SYSTEM, "%s: %s", path, strerror(errno));
        from += n;
        len -= (size_t)n;
    }
    return OK;
}

void file_drop(int fd, char *temporary)
{
    close(fd);
    if (temporary) unlink(temporary);
    free(temporary);
}

static bool file_name(int fd, const char *temporary, const char *path)
{
    char self[32];
    if (temporary) return link(temporary, path) == 0;
    return linkat(AT_FDCWD, path_of(self, fd), AT_FDCWD, path, AT_SYMLINK_FOLLOW) == 0;
}

Result file_place(int fd, char *temporary, const char *path)
{
    int bad = fsync(fd) != 0 ? errno : 0;
    if (!bad && !file_name(fd, temporary, path)) bad = errno;
    file_drop(fd, temporary);
    if (bad == EEXIST) return fail(FAIL_SYSTEM, "%s: exists already, and is not overwritten", path);
    if (bad) return fail(FAIL_SYSTEM, "%s: %s", path, strerror(bad));
    return folder_sync(path);
}

Result file_create(const char *path, const void *data, size_t len)
{
    int fd;
    char *temporary;
    GUARD(file_begin(&fd, &temporary, path));
    Result r = file_put(fd, path, data, len);
    if (!failed(r)) return file_place(fd, temporary, path);
    file_drop(fd, temporary);
    return r;
}

Result file_private(int fd, const char *path)
{
    struct stat s;
    if (fstat(fd, &s) == 0 && S_ISREG(s.st_mode) && (s.st_mode & 077) == 0) return OK;
    return fail(FAIL_DATA, "%s: must be a file that nobody else can read (chmod 600)", path);
}

Result file_open_private(int *fd, const char *path)
{
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);               // a pipe is refused, not waited for
    if (*fd < 0) return fail(FAIL_SYSTEM, "%s: %s", path, strerror(errno));
    Result r = file_private(*fd, path);
    if (failed(r)) close(*fd);
    return r;
}
