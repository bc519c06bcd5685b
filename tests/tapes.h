/* tapes.h - what tests do to the state of a tape behind its back. */
#ifndef MARILL_TAPES_H
#define MARILL_TAPES_H

#include <fcntl.h>
#include <sys/stat.h>
#include "crypto/crypto.h"
#include "test.h"

enum { TAPE_PLACE = 16, TAPE_PLACE_BYTES = 24 };       // of its file, in the state: inode, seconds and nanoseconds of birth; its volume follows

/* A file in the test's folder; good for four calls. */
static inline char *path_of(const char *name)
{
    static char path[4][128];
    static const char *folder;
    static int next;
    char *p = path[next++ % 4];
    if (!folder) folder = test_folder();
    snprintf(p, sizeof path[0], "%s/%s", folder, name);
    return p;
}

/* Puts an older state back as an image of the whole disk would: the file is what the state says it is. */
static inline void tape_put_back(const char *path, const Buffer *state)
{
    Buffer b = {0};
    struct statx s;
    unlink(path);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK(fd >= 0 && statx(fd, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &s) == 0);
    bool born = s.stx_mask & STATX_BTIME;
    uint64_t place[3] = {s.stx_ino, born ? (uint64_t)s.stx_btime.tv_sec : 0, born ? s.stx_btime.tv_nsec : 0};
    buffer_append(&b, state->data, state->len);
    CHECK(b.len > TAPE_PLACE + TAPE_PLACE_BYTES + HASH_BYTES);
    memcpy(b.data + TAPE_PLACE, place, sizeof place);
    hash_bytes(b.data + b.len - HASH_BYTES, b.data, b.len - HASH_BYTES);
    CHECK(write(fd, b.data, b.len) == (ssize_t)b.len);
    close(fd);
    buffer_free(&b);
}

/* cp: a new file, or over the old one. */
static inline void tape_copy(const char *to, const char *from, bool over)
{
    Buffer b = {0};
    CHECK_OK(file_read(&b, from, 1 << 16));
    if (!over) unlink(to);
    int fd = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0 && write(fd, b.data, b.len) == (ssize_t)b.len);
    close(fd);
    buffer_free(&b);
}

#endif
