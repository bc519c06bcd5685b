/* tools.h - private to crypto/: what its files need from OpenSSL and from the file system.
 *
 * evp.c is the only file that sees OpenSSL's cryptography, tls.c the only one that sees its TLS. */
#ifndef MARILL_CRYPTO_TOOLS_H
#define MARILL_CRYPTO_TOOLS_H

#include "crypto/crypto.h"

enum { SEAL_TAG = 16 };
/* AES-256-GCM with `number` as its nonce: a key seals one message of each number, ever. out: (len), tag: beside it. */
void seal(uint8_t *out, uint8_t tag[SEAL_TAG], const uint8_t key[KEY_BYTES], uint64_t number, const void *bound, size_t bound_len,
          const void *data, size_t len);
/* The inverse; false (out wiped) if anything was altered. */
bool unseal(uint8_t *out, const uint8_t tag[SEAL_TAG], const uint8_t key[KEY_BYTES], uint64_t number, const void *bound, size_t bound_len,
            const void *data, size_t len);

/* Creates a file of mode 0600 that appears whole and durable or not at all. Fails if the path is taken. */
CHECKED Result file_create(const char *path, const void *data, size_t len);
/* Opens a new file for writing in the folder of `path`, mode 0600; its name is left in *temporary (to free), NULL if it has none. */
CHECKED Result file_begin(int *fd, char **temporary, const char *path);
CHECKED Result file_put(int fd, const char *path, const void *data, size_t len);   // all of it
/* Syncs what file_begin opened and gives it the name `path`, durably; fails if that is taken. Closes fd, frees temporary. */
CHECKED Result file_place(int fd, char *temporary, const char *path);
void file_drop(int fd, char *temporary);                                 // the other way to end it
CHECKED Result folder_sync(const char *path);                            // the folder that holds `path`
/* Fails unless it is a regular file that others (group, world) may not read. */
CHECKED Result file_private(int fd, const char *path);
CHECKED Result file_open_private(int *fd, const char *path);            // for reading

#endif
