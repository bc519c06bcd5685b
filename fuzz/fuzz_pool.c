/* fuzz_pool.c - a pool's file and a tape's state, whatever is in them: lengths are believed only as far as the file goes. */
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crypto/crypto.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    crypto_init(false);
    return 0;
}

static void opened(const Buffer *b)
{
    static const uint8_t third[32] = {1};
    char path[32];
    Pool *p;
    TapeAbout t;
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    ASSERT(fd >= 0 && fchmod(fd, 0600) == 0 && write(fd, b->data, b->len) == (ssize_t)b->len);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (!failed(pool_open(&p, path, third))) pool_close(p);
    if (!failed(tape_about(&t, path))) ASSERT(t.mark <= t.segments && t.header_len <= TAPE_HEADER);
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Buffer b = {0};
    uint8_t hash[HASH_BYTES];
    buffer_append(&b, data, size);
    opened(&b);
    hash_bytes(hash, b.data, b.len);                                   // a state whose checksum is right
    buffer_append(&b, hash, sizeof hash);
    opened(&b);
    buffer_free(&b);
    return 0;
}
