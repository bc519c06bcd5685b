/* teacher.h - what distillation needs between the network and its teacher (private to tune/). */
#ifndef MARILL_TEACHER_H
#define MARILL_TEACHER_H

#include "tune/train.h"

enum { HEAD_ROWS = 256 };                      // rows whose logits are held at a time

/* Runs the teacher on a pack. cut (rows, width): the student's residual stream at the cut, read where that is the teacher's. */
void teacher_run(Teacher *t, const Pack *p, const float *cut);
/* The logits (count, vocab) of learned rows begin.. of the pack that ran last, to be overwritten at will. */
float *teacher_logits(Teacher *t, size_t begin, size_t count);

/* Returns temperature^2 KL(teacher || student) in nats and adds weight times its gradient to d_logits; student, teacher and
 * work (vocab) are overwritten. */
double divergence_row(float *d_logits, float *student, float *teacher, float *work, uint32_t vocab, float temperature, float weight);
/* The sum over rows of |x - teacher's|^2 / |teacher's|^2 after `layer`, divided by the number of upper layers; adds weight times
 * its gradient to d_x (may be NULL). */
double hidden_error(const Teacher *t, float *d_x, const float *x, uint32_t layer, size_t rows, float weight);

// ---- of train_net.c --------------------------------------------------------------------------------------------------

void net_embed(const Model *m, float *x, const int32_t *tokens, size_t rows);
/* One layer over in (rows, width), without a way back: out may be in. */
void net_forward(const Net *n, NetScratch *s, uint32_t layer, float *out, const float *in, const Pack *p);
size_t rows_learned(float *out, const float *x, const Pack *p, size_t width);        // gathers the learned rows; how many

#endif
