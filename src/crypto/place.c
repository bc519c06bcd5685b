/* place.c - files that appear whole, private and durable, or not at all: keys, tapes and pools are made of them.
 *
 * base.h has file_write, which replaces; these refuse to. The new name is given with link(2), which fails if it is taken. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crypto/tools.h"

Result folder_sync(const char *path)
{
    const char *slash = strrchr(path, '/');
    Buffer name = {0};
    if (slash) buffer_append(&name, path, slash > path ? (size_t)(slash - path) : 1);
    else buffer_append(&name, ".", 1);
    buffer_u8(&name, 0);
    int fd = open((const char *)name.data, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    buffer_free(&name);
    int bad = fd < 0 || fsync(fd) != 0 ? errno : 0;
    if (fd >= 0) close(fd);
    return bad ? fail(FAIL_SYSTEM, "%s: cannot sync its folder: %s", path, strerror(bad)) : OK;
}

Result file_begin(int *fd, char **temporary, const char *path)
{
    uint8_t random[8];
    Buffer name = {0};
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
    unlink(temporary);
    free(temporary);
}

Result file_place(int fd, char *temporary, const char *path)
{
    int bad = fsync(fd) != 0 ? errno : 0;
    if (!bad && link(temporary, path) != 0) bad = errno;
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
