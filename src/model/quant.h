/* quant.h - the quantised base: public weights of 8 bits in one mapped file (private to model/).
 *
 * A row of a matrix is 127 steps either way times a scale of its own: an integer with QUANT_F fraction bits, chosen first, as
 * the least that reaches the row's largest weight, and then rounded against; so what the integers say is exact, w * scale /
 * 2^QUANT_F, in float and on shares alike. The norm's gain, and the queries' 1 / sqrt(head_dim), are in the integers already.
 *
 * FOLDER/marill-base.q8 stands in the place of model.safetensors beside config.json. It has a header (the shape, where the
 * numbers come from, a checksum of every tensor) and then the tensors in a fixed order, each from a multiple of 64 bytes on:
 *
 *     embedding | of each layer: attention gain, ffn gain, the seven matrices in the order of MatrixKind | final gain | head
 *
 * A matrix is its scales (rows, int32) and, from the next multiple of 64 on, its steps (rows, cols; int8). Gains (float32)
 * serve an adapter's factors, which see x before the gain. Every offset follows from the shape that config.json gives:
 * none is read from the file. Checksums find damage, not malice; what parties agree on is public_hash's. */
#ifndef MARILL_QUANT_H
#define MARILL_QUANT_H

#include "model/model.h"

extern const char quant_file[];                // "marill-base.q8"
enum { QUANT_SCALE_MOST = 1 << 24 };           // a scale of 2^8 a step: more is damage

typedef struct QuantTensor {
    const char *name;                          // "mlp.up_proj"; of a layer where in_layer
    bool in_layer, matrix;                     // else a gain: cols floats
    uint32_t layer;
    MatrixKind kind;                           // of a layer's matrix
    size_t rows, cols, at, steps, end;         // bytes from the file's start: of the scales or the gain, the steps, the end
} QuantTensor;

/* The tensors of a shape, in the order of the file: arena memory. *size: of the whole file. */
size_t quant_tensors(QuantTensor **out, size_t *size, const ModelConfig *c, Arena *a);
/* Points m (its config set) into the bytes of a file that is checked: lengths, shape, checksums, scales, gains. `data` is
 * 64-byte aligned and outlives m. */
CHECKED Result quant_bind(Model *m, const uint8_t *data, size_t len);

/* Fills row `row` of a matrix: its scale and its steps; or a gain (steps NULL, gain (cols)). Called from many threads. */
typedef struct QuantSource {
    CHECKED Result (*row)(const void *ctx, const QuantTensor *t, size_t row, int32_t *scale, int8_t *steps, float *gain);
    const void *ctx;
    bool synthetic;
    uint64_t seed;
} QuantSource;
/* Writes DIR/marill-base.q8, row by row, and DIR/config.json. */
CHECKED Result quant_write(const char *dir, const ModelConfig *c, const QuantSource *s, const Progress *p);
uint64_t quant_checksum(const void *data, size_t len /* a multiple of 64 */);

/* out (rows, n) = or += in (rows, k) W^T * times, W (n, k) quantised. Reads W once for few rows; many go through BLAS in
 * blocks of W made float. */
void quant_linear(float *out, const float *in, const QuantMatrix *w, float times, size_t rows, size_t n, size_t k, bool accumulate);
/* out (cols) = row `row` of W. */
void quant_row(float *out, const QuantMatrix *w, size_t row, size_t cols);

#endif
