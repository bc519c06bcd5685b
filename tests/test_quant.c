/* test_quant.c - the quantised base: its integers against the floats that they come from, its forward pass, its file when it is
 * damaged, and synthetic weights. */
#include "models.h"
#include "model/layers.h"
#include "model/quant.h"
#include "model/secure.h"

static const ModelConfig odd = {.width = 30, .layers = 2, .heads = 6, .kv_heads = 2, .head_dim = 10, .ffn = 71, .vocab = 41, .context = 200,
                                .norm_eps = 1e-6f, .rope_theta = 500000, .rope = {.factor = 1}, .bos = 1, .eos = 2};
static const ModelConfig even = {.width = 128, .layers = 2, .heads = 4, .kv_heads = 4, .head_dim = 32, .ffn = 192, .vocab = 96, .context = 40,
                                 .norm_eps = 1e-5f, .rope_theta = 10000, .rope = {.factor = 1}, .tied = true, .bos = 1, .eos = 2};

static Model floats, quantised;

static void make(const ModelConfig *c)
{
    random_model(&floats, c, 1.2);
    CHECK_OK(model_quantise(&floats, test_folder(), NULL));
    CHECK_OK(model_open(&quantised, test_folder()));
    CHECK(quantised.quantised && quantised.config.width == c->width && !quantised.embed && !quantised.layer[0].mat[0]);
}

static const char *path_of(const char *name)
{
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", test_folder(), name);
    return path;
}

// ---- integers --------------------------------------------------------------------------------------------------------

static void check_matrix(const QuantMatrix *q, const float *w, const float *gain, double scale, size_t rows, size_t cols)
{
    CHECK((uintptr_t)q->w % 64 == 0 && (uintptr_t)q->scale % 64 == 0);
    for (size_t i = 0; i < rows; i++) {
        double step = ldexp(q->scale[i], -QUANT_F), most = 0;
        for (size_t j = 0; j < cols; j++) {
            double v = (double)w[i * cols + j] * (gain ? (double)gain[j] : 1) * scale;
            CHECK(fabs(q->w[i * cols + j] * step - v) <= step / 2 * (1 + 1e-12));
            most = fmax(most, fabs(v));
        }
        CHECK(most <= 127 * step && (q->scale[i] == 1 || most > 127 * ldexp(q->scale[i] - 1, -QUANT_F)));       // the least that reaches it
    }
}

TEST(integers_are_within_half_a_step)
{
    make(&odd);
    for (uint32_t l = 0; l < odd.layers; l++) {
        const LayerWeights *w = &floats.layer[l], *q = &quantised.layer[l];
        CHECK(memcmp(w->attn_norm, q->attn_norm, odd.width * 4) == 0 && memcmp(w->ffn_norm, q->ffn_norm, odd.width * 4) == 0);
        for (MatrixKind k = 0; k < MAT_COUNT; k++) {
            const float *gain = k <= MAT_V ? w->attn_norm : k == MAT_GATE || k == MAT_UP ? w->ffn_norm : NULL;
            check_matrix(&q->quant[k], w->mat[k], gain, k == MAT_Q ? 1 / sqrt(odd.head_dim) : 1, matrix_rows(&odd, k), matrix_cols(&odd, k));
        }
    }
    check_matrix(&quantised.quant_embed, floats.embed, NULL, 1, odd.vocab, odd.width);
    check_matrix(&quantised.quant_head, floats.head, floats.final_norm, 1, odd.vocab, odd.width);
}

// ---- the forward pass ------------------------------------------------------------------------------------------------

/* Floats that are exactly what the integers say. */
static float *widened(Arena *a, const QuantMatrix *q, const float *gain, double scale, size_t rows, size_t cols)
{
    float *w = arena_new(a, float, rows * cols);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++)
            w[i * cols + j] = (float)(q->w[i * cols + j] * ldexp(q->scale[i], -QUANT_F) / (gain ? (double)gain[j] : 1) / scale);
    return w;
}

TEST(products_of_any_shape)
{
    Arena a;
    arena_init(&a, false);
    const size_t shapes[][3] = {{1, 1, 1}, {1, 5, 63}, {1, 7, 64}, {2, 8, 65}, {3, 9, 200}, {5, 33, 130}, {6, 33, 130}, {40, 17, 96}, {1, 300, 1500}, {7, 900, 700}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        size_t rows = shapes[s][0], n = shapes[s][1], k = shapes[s][2];
        int8_t *w = arena_new(&a, int8_t, n * k);
        int32_t *scale = arena_new(&a, int32_t, n);
        float *in = random_weights(&a, rows * k, 1), *out = random_weights(&a, rows * n, 1), *before = arena_new(&a, float, rows * n);
        for (size_t i = 0; i < n * k; i++) w[i] = (int8_t)(test_random() * 255 - 127);
        w[0] = -127, w[n * k - 1] = 127;
        for (size_t i = 0; i < n; i++) scale[i] = 1 + (int32_t)(test_random() * 3000);
        memcpy(before, out, rows * n * sizeof *out);
        for (int add = 0; add < 2; add++) {
            quant_linear(out, in, &(QuantMatrix){w, scale}, 0.5f, rows, n, k, add);
            for (size_t r = 0; r < rows; r++) {
                for (size_t j = 0; j < n; j++) {
                    double sum = 0, size = 0;
                    for (size_t i = 0; i < k; i++) {
                        double v = (double)in[r * k + i] * w[j * k + i] * ldexp(scale[j], -QUANT_F - 1);
                        sum += v, size += fabs(v);
                    }
                    CHECK_NEAR(add ? 2 * sum : sum, (double)out[r * n + j], 1e-5 * size + 1e-6);
                }
            }
        }
    }
    arena_free(&a);
}

/* With an adapter, whose factors must see the gain that the integers have in them. */
TEST(forward_is_that_of_the_integers)
{
    const ModelConfig *const configs[] = {&odd, &even};
    for (int i = 0; i < 2; i++) {
        const ModelConfig *c = configs[i];
        Arena a;
        Adapter lora;
        make(c);
        arena_init(&a, false);
        random_adapter(&lora, c, 0, 3, (1 << MAT_COUNT) - 1, 0.5);
        Model same = floats;
        same.config.tied = false;
        same.embed = widened(&a, &quantised.quant_embed, NULL, 1, c->vocab, c->width);
        same.head = widened(&a, &quantised.quant_head, floats.final_norm, 1, c->vocab, c->width);
        for (uint32_t l = 0; l < c->layers; l++) {
            for (MatrixKind k = 0; k < MAT_COUNT; k++) {
                const LayerWeights *w = &floats.layer[l];
                const float *gain = k <= MAT_V ? w->attn_norm : k == MAT_GATE || k == MAT_UP ? w->ffn_norm : NULL;
                same.layer[l].mat[k] = widened(&a, &quantised.layer[l].quant[k], gain, k == MAT_Q ? 1 / sqrt(c->head_dim) : 1,
                                               matrix_rows(c, k), matrix_cols(c, k));
            }
        }
        enum { ROWS = 20 };
        int32_t tokens[ROWS];
        for (int r = 0; r < ROWS; r++) tokens[r] = (int32_t)(test_random() * c->vocab);
        float *want = arena_new(&a, float, ROWS * c->vocab), *got = arena_new(&a, float, ROWS * c->vocab);
        CHECK_OK(plain_forward(plain_new(&same, &lora, 40, &a), want, tokens, ROWS));
        PlainState *s = plain_new(&quantised, &lora, 40, &a);
        CHECK_OK(plain_forward(s, got, tokens, ROWS - 2));
        for (int r = ROWS - 2; r < ROWS; r++) CHECK_OK(plain_forward(s, got + (size_t)r * c->vocab, tokens + r, 1));
        for (size_t r = 0; r < ROWS * c->vocab; r++) CHECK_NEAR((double)want[r], (double)got[r], 2e-3);
        arena_free(&a), arena_free(&lora.arena);
    }
}

/* What 8 bits cost on a trained checkpoint: its loss on text. */
TEST(loss_of_a_real_checkpoint)
{
    Model real;
    Tokenizer *t;
    Buffer text = {0};
    Arena a;
    int32_t *ids;
    size_t count;
    arena_init(&a, false);
    CHECK_OK(model_load(&real, test_data("weights/stories260K")));
    CHECK_OK(tokenizer_load(&t, test_data("weights/stories260K/tokenizer.model")));
    CHECK_OK(file_read(&text, test_data("text/tinystories_sample_2MiB.txt"), 1 << 22));
    CHECK_OK(tokenizer_encode(t, (const char *)text.data, utf8_complete(text.data, 20000), &ids, &count, &a));
    CHECK_OK(model_quantise(&real, test_folder(), NULL));
    CHECK_OK(model_open(&quantised, test_folder()));
    size_t vocab = real.config.vocab, positions = 0;
    double loss[2] = {0};
    float *logits = arena_new(&a, float, 256 * vocab);
    for (size_t at = 0; at + 256 < count && at < 8 * 256; at += 256, positions += 255) {
        for (int q = 0; q < 2; q++) {
            CHECK_OK(plain_forward(plain_new(q ? &quantised : &real, NULL, 256, &a), logits, ids + at, 256));
            for (size_t r = 0; r < 255; r++) loss[q] += cross_entropy(logits + r * vocab, (uint32_t)vocab, ids[at + r + 1]);
        }
    }
    printf("    %zu positions: loss %.4f in float, %.4f in 8 bits\n", positions, loss[0] / (double)positions, loss[1] / (double)positions);
    CHECK(positions > 1000 && fabs(loss[0] - loss[1]) < 0.01 * (double)positions);
    buffer_free(&text), arena_free(&a);
    tokenizer_free(t), model_free(&real);
}

// ---- the file --------------------------------------------------------------------------------------------------------

static void bend(size_t at, uint8_t by)
{
    FILE *f = fopen(path_of(quant_file), "r+b");
    CHECK(f && fseek(f, (long)at, SEEK_SET) == 0);
    int v = fgetc(f);
    CHECK(v >= 0 && fseek(f, (long)at, SEEK_SET) == 0);
    fputc(v ^ by, f);
    CHECK(fclose(f) == 0);
}

static Result open_again(void)
{
    model_free(&quantised);
    return model_open(&quantised, test_folder());
}

/* Writes a file whose header and checksums are right and whose content is not. */
typedef struct Bad { const char *tensor; int32_t scale; float gain; } Bad;

static Result bad_row(const void *ctx, const QuantTensor *t, size_t row, int32_t *scale, int8_t *steps, float *gain)
{
    const Bad *b = ctx;
    bool here = strcmp(t->name, b->tensor) == 0 && row == 0;
    for (size_t j = 0; gain && j < t->cols; j++) gain[j] = here ? b->gain : 1;
    if (gain) return OK;
    *scale = here ? b->scale : 7;
    memset(steps, 1, t->cols);
    return OK;
}

TEST(a_damaged_file_is_refused)
{
    make(&odd);
    Arena a;
    QuantTensor *t;
    arena_init(&a, false);
    size_t size, count = quant_tensors(&t, &size, &odd, &a);
    CHECK_OK(open_again());
    for (size_t i = 0; i < count; i++) {
        size_t spots[] = {t[i].at, t[i].steps - 1, t[i].end - 1, (t[i].at + t[i].end) / 2};
        for (size_t s = 0; s < 4; s++) {
            bend(spots[s], 0x10);
            CHECK_FAILS(open_again(), t[i].name);
            bend(spots[s], 0x10);
        }
    }
    for (size_t at = 0; at < t[0].at; at++) {
        bend(at, 0x01);
        CHECK_FAILS(open_again(), quant_file);
        bend(at, 0x01);
    }
    CHECK_OK(open_again());
    model_free(&quantised);
    const size_t lengths[] = {0, 1, 15, 16, 127, 128, t[0].at, size - 64, size - 1};
    for (size_t i = sizeof lengths / sizeof *lengths; i-- > 0;) {
        CHECK(truncate(path_of(quant_file), (off_t)lengths[i]) == 0);
        CHECK_FAILS(open_again(), quant_file);
    }
    arena_free(&a);
}

TEST(content_that_cannot_be_is_refused)
{
    const Bad bad[] = {{"mlp.up_proj", 0, 1}, {"lm_head", -1, 1}, {"embed_tokens", QUANT_SCALE_MOST + 1, 1}, {"norm", 1, NAN},
                       {"post_attention_layernorm", 1, INFINITY}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_OK(quant_write(test_folder(), &odd, &(QuantSource){.row = bad_row, .ctx = &bad[i]}, NULL));
        CHECK_FAILS(open_again(), bad[i].tensor);
    }
    CHECK_OK(quant_write(test_folder(), &odd, &(QuantSource){.row = bad_row, .ctx = &(Bad){"none", 1, 1}}, NULL));
    CHECK_OK(open_again());
    ModelConfig other = odd;
    other.ffn++;
    CHECK_OK(config_write(&other, path_of("config.json")));
    CHECK_FAILS(open_again(), "another shape");
    CHECK_OK(config_write(&odd, path_of("config.json")));
    CHECK_FAILS(model_load(&floats, test_folder()), "quantised base");
    random_model(&floats, &odd, 1);
    ((float *)(uintptr_t)floats.layer[1].mat[MAT_O])[3] = 1e6f;
    CHECK_FAILS(model_quantise(&floats, test_folder(), NULL), "self_attn.o_proj");
    CHECK_OK(open_again());                    // the file that was there is whole
    CHECK_FAILS(model_quantise(&quantised, test_folder(), NULL), "already");
    floats.config.arch = ARCH_GPT2;
    CHECK_FAILS(model_quantise(&floats, test_folder(), NULL), "Llama");
}

// ---- synthetic weights -----------------------------------------------------------------------------------------------

TEST(synthetic_weights_follow_the_seed)
{
    CHECK(!model_is_synthetic(&even, 5, test_folder()));
    CHECK_OK(model_synthesise(&even, 5, test_folder(), NULL));
    CHECK(model_is_synthetic(&even, 5, test_folder()));
    CHECK(!model_is_synthetic(&even, 6, test_folder()) && !model_is_synthetic(&odd, 5, test_folder()));
    CHECK_OK(open_again());
    uint64_t first = quant_checksum(quantised.file.data, quantised.file.len), other;
    for (uint32_t l = 0; l < even.layers; l++) {
        for (MatrixKind k = 0; k < MAT_COUNT; k++) {
            size_t rows = matrix_rows(&even, k), cols = matrix_cols(&even, k);
            const QuantMatrix *q = &quantised.layer[l].quant[k];
            double sum = 0, squares = 0;
            for (size_t i = 0; i < rows * cols; i++) {
                double v = q->w[i] * ldexp(q->scale[i / cols], -QUANT_F);
                sum += v, squares += v * v;
            }
            double size = sqrt(squares / (double)rows), want = k == MAT_Q ? 1 / sqrt(even.head_dim) : k == MAT_O || k == MAT_DOWN ? 0.5 : 1;
            CHECK_NEAR(want, size, 0.15 * want);
            CHECK(fabs(sum / (double)(rows * cols)) < 0.05 * size / sqrt((double)cols));
        }
    }
    CHECK(memcmp(quantised.layer[0].quant[MAT_K].w, quantised.layer[1].quant[MAT_K].w, 1024) != 0);
    CHECK_OK(model_synthesise(&even, 6, test_folder(), NULL));
    CHECK_OK(open_again());
    other = quant_checksum(quantised.file.data, quantised.file.len);
    CHECK(first != other);
    CHECK_OK(model_synthesise(&even, 5, test_folder(), NULL));
    CHECK_OK(open_again());
    CHECK(first == quant_checksum(quantised.file.data, quantised.file.len));
    CHECK(truncate(path_of(quant_file), 1000) == 0);
    CHECK(!model_is_synthetic(&even, 5, test_folder()));
}

/* The hash that parties agree on sees every integer and every scale of the secure layers. */
TEST(the_public_hash_covers_integers_and_scales)
{
    make(&odd);
    Plan p;
    int32_t tokens[300];
    uint8_t before[HASH_BYTES], after[HASH_BYTES];
    for (size_t i = 0; i < 300; i++) tokens[i] = 3 + (int32_t)(test_random() * 38);
    CHECK_OK(plan_make(&p, &quantised, NULL, &(PlanOptions){.context = 30, .frozen = 1, .private_part = PRIVATE_LORA}, tokens, 300));
    CHECK_EQUAL(8, p.weight_bits);
    CHECK_OK(public_hash(&p, &quantised, before));
    CHECK(memcmp(before, p.model_hash, HASH_BYTES) == 0);
    for (int what = 0; what < 4; what++) {
        QuantMatrix *q = what < 2 ? &quantised.layer[1].quant[MAT_DOWN] : &quantised.quant_head, old = *q;
        int8_t w[41 * 128];
        int32_t scale[64];
        size_t rows = what < 2 ? odd.width : odd.vocab, cols = what < 2 ? odd.ffn : odd.width;
        memcpy(w, q->w, rows * cols), memcpy(scale, q->scale, rows * 4);
        if (what % 2) w[rows * cols - 1] ^= 1;
        else scale[rows - 1] ^= 1;
        *q = (QuantMatrix){w, scale};
        CHECK_OK(public_hash(&p, &quantised, after));
        CHECK(memcmp(before, after, HASH_BYTES) != 0);
        *q = old;
    }
    CHECK_FAILS(public_hash(&p, &floats, after), "8 bits");
    p.weight_bits = 16;
    CHECK_FAILS(public_hash(&p, &quantised, after), "16 bits");
    CHECK_FAILS(plan_check(&p, &odd), "fraction bits");
    plan_free(&p);
}

int main(int argc, char **argv) { num_init(NUM_BEST); crypto_init(false); return test_main(argc, argv); }
