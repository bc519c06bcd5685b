/* unicode.c - where UTF-8 is whole and where it is not.
 *
 * Strict UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF (The Unicode Standard, table 3-7). */
#include "model/model.h"

/* Length of the character that `lead` begins, 0 for a byte that begins none; low and high bound its second byte. */
static unsigned utf8_length(uint8_t lead, uint8_t *low, uint8_t *high)
{
    *low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    *high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (lead < 0x80) return 1;
    if (lead >= 0xC2 && lead <= 0xDF) return 2;
    if (lead >= 0xE0 && lead <= 0xEF) return 3;
    return lead >= 0xF0 && lead <= 0xF4 ? 4 : 0;
}

/* How many bytes of the character at text[0] are there and right; *whole says whether that is all of it. */
static size_t utf8_match(const uint8_t *text, size_t len, bool *whole)
{
    uint8_t low, high;
    unsigned need = utf8_length(text[0], &low, &high);
    *whole = false;
    if (need == 0) return 0;
    for (unsigned i = 1; i < need; i++) {
        if (i >= len || text[i] < low || text[i] > high) return i;
        low = 0x80, high = 0xBF;
    }
    *whole = true;
    return need;
}

size_t utf8_invalid_at(const uint8_t *text, size_t len)
{
    bool whole;
    for (size_t at = 0; at < len;) {
        size_t n = utf8_match(text + at, len - at, &whole);
        if (!whole) return at;
        at += n;
    }
    return len;
}

/* Only a character that the end of the text cuts is held back: bytes that can never become one are let through. */
size_t utf8_complete(const uint8_t *text, size_t len)
{
    for (size_t back = 1; back <= 3 && back <= len; back++) {
        uint8_t b = text[len - back];
        if (b >= 0x80 && b <= 0xBF) continue;
        bool whole;
        size_t n = utf8_match(text + len - back, back, &whole);
        return !whole && n == back ? len - back : len;
    }
    return len;
}
