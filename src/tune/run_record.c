/* run_record.c - recipe.yaml and run.json of a run folder. */
#include "tune/run_record.h"

#include <string.h>

#include "model/json.h"
#include "tune/sha256.h"

Result record_begin(const Recipe *r, bool resumed)
{
    Arena a;
    Buffer old = {0};
    arena_init(&a, false);
    const char *path = arena_format(&a, "%s/recipe.yaml", r->out);
    Result result = OK;
    if (resumed) {
        result = file_read(&old, path, 1 << 20);
        if (!failed(result) && (old.len != r->text.len || memcmp(old.data, r->text.data, old.len)))
            result = fail(FAIL_USE, "the recipe is not the one that the run began with: compare %s", path);
    } else result = file_write(path, r->text.data, r->text.len, 0644);
    buffer_free(&old);
    arena_free(&a);
    return result;
}

static Result file_note(Json *list, const char *path)
{
    char hex[65];
    if (!file_exists(path)) return OK;
    GUARD(sha256_file(hex, path));
    Json *o = json_new_object();
    json_put(o, "path", json_of_text(path));
    json_put(o, "sha256", json_of_text(hex));
    json_add(list, o);
    return OK;
}

/* The files of a model or adapter folder that there are. */
static Result folder_note(Json *list, const char *folder)
{
    static const char *const names[] = {"config.json", "model.safetensors", "tokenizer.model", "adapter_config.json",
                                        "adapter_model.safetensors", "marill.json"};
    Arena a;
    Result r = OK;
    arena_init(&a, false);
    for (size_t i = 0; folder && i < sizeof names / sizeof *names && !failed(r); i++)
        r = file_note(list, arena_format(&a, "%s/%s", folder, names[i]));
    arena_free(&a);
    return r;
}

static Result files_note(Json *o, const Recipe *r)
{
    Json *base = json_new_array(), *data = json_new_array(), *result = json_new_array();
    json_put(o, "base", base);
    json_put(o, "data", data);
    json_put(o, "result", result);
    GUARD(folder_note(base, r->base ? r->base : r->init));
    GUARD(folder_note(base, r->distill.teacher));
    GUARD(folder_note(base, r->distill.teacher_adapter));
    for (size_t i = 0; i < r->source_count; i++) GUARD(file_note(data, r->sources[i].path));
    return folder_note(result, r->result);
}

Result record_end(const TrainJob *job, const TrainState *s, Division d)
{
    const Recipe *r = job->recipe;
    const TrainOptions *t = job->options;
    Arena a;
    arena_init(&a, false);
    Json *o = json_new_object();
    json_put(o, "version", json_of_text(t->version ? t->version : ""));
    if (t->commit && *t->commit) json_put(o, "commit", json_of_text(t->commit));
    json_put(o, "seed", json_of_uint(r->seed));
    json_put(o, "threads", json_of_uint(d.threads));
    json_put(o, "ranks", json_of_uint(d.ranks));
    json_put(o, "parameters", json_of_uint(s->total));
    json_put(o, "steps", json_of_uint(s->step));
    json_put(o, "tokens", json_of_uint(s->tokens));
    json_put(o, "seconds", json_of_real(s->seconds));
    if (s->best_step) {
        json_put(o, "best_step", json_of_uint(s->best_step));
        json_put(o, "best_loss", json_of_real(s->best_loss));
    }
    json_put(o, "kept", json_of_text(r->keep == KEEP_BEST && s->best_step ? "best" : "last"));
    Result result = files_note(o, r);
    if (!failed(result)) result = json_write(o, arena_format(&a, "%s/run.json", r->out));
    json_free(o);
    arena_free(&a);
    return result;
}
