/* sha256.h - SHA-256 (FIPS 180-4) of files, to say which ones a run had (private to tune/). Nothing here is secret: what
 * protects secrets is in crypto/. */
#ifndef MARILL_SHA256_H
#define MARILL_SHA256_H

#include "base/base.h"

void sha256_hex(char out[65], const uint8_t *data, size_t len);
CHECKED Result sha256_file(char out[65], const char *path);

#endif
