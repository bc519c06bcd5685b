/* safetensors.h - the files that hold tensors (private to model/).
 *
 * A file is: u64 length of the header, the header (JSON: name -> dtype, shape, data_offsets), the data. The tensors must
 * tile the data exactly, as the format asks: no byte is described twice, none is left out. So a file has one reading. */
#ifndef MARILL_SAFETENSORS_H
#define MARILL_SAFETENSORS_H

#include "base/base.h"

typedef enum { TENSOR_F32, TENSOR_BF16 } TensorType;

typedef struct Tensor {
    const char *name;
    const uint8_t *data;                       // in the file's bytes, count elements, perhaps not aligned
    TensorType type;
    uint64_t count;                            // elements, never 0
    uint64_t shape[2];                         // (rows, columns); a vector has one row
    unsigned dims;                             // of the file; above 2 the shape is not kept
    bool taken;
} Tensor;
typedef struct TensorFile { Tensor *tensor; size_t count; } TensorFile;      // sorted by name

/* Reads the header of a file in memory. The tensors point into `data`; their names are arena memory. */
CHECKED Result tensors_parse(TensorFile *out, const uint8_t *data, size_t len, Arena *a);
/* The tensor as floats: (rows, cols), or a vector (cols) if rows is 0. Fails if it is missing, has another shape, or holds
 * a NaN or an infinity. bf16 is expanded into the arena; f32 is used where it lies, if that is aligned and !copy. */
CHECKED Result tensors_take(const float **out, TensorFile *f, const char *name, uint64_t rows, uint64_t cols, bool copy, Arena *a);
bool tensors_have(const TensorFile *f, const char *name);
/* Fails on a tensor that nobody took, unless its name ends in `spare` (may be NULL). */
CHECKED Result tensors_finish(const TensorFile *f, const char *spare);

typedef struct TensorOut { const char *name; const float *data; uint64_t rows, cols; } TensorOut;   // rows 0: a vector (cols)
/* Writes a file in the given order; dtype "F32" or "BF16", which rounds to nearest even. */
CHECKED Result tensors_write(const char *path, const TensorOut *t, size_t count, const char *dtype);

#endif
