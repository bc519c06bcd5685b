/* output.c - what commands print: text, JSON, receipts. */
#include "app/app.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

void print_text(FILE *out, const uint8_t *text, size_t len)
{
    bool clean = isatty(fileno(out));          // whoever wrote the text must not steer the terminal
    for (size_t i = 0; i < len; i++) {
        bool control = (text[i] < 0x20 && text[i] != '\n' && text[i] != '\t') || text[i] == 0x7F;
        bool latin = text[i] == 0xC2 && i + 1 < len && text[i + 1] >= 0x80 && text[i + 1] < 0xA0;
        if (clean && latin) i++;
        fputc(clean && (control || latin) ? '?' : text[i], out);
    }
    fflush(out);
}

void print_json(Json *v)
{
    Buffer text = {0};
    json_print(&text, v, 2, 9);
    json_free(v);
    fwrite(text.data, 1, text.len, stdout);
    fputc('\n', stdout);
    buffer_free(&text);
}

Json *json_of_bytes(const LinkBytes *b)
{
    Json *o = json_new_object();
    json_put(o, "client_to_server", json_of_uint(b->client_to_server));
    json_put(o, "server_to_client", json_of_uint(b->server_to_client));
    json_put(o, "third_to_client", json_of_uint(b->third_to_client));
    json_put(o, "third_to_server", json_of_uint(b->third_to_server));
    json_put(o, "client_to_third", json_of_uint(b->client_to_third));
    json_put(o, "server_to_third", json_of_uint(b->server_to_third));
    return o;
}

const char *bytes_text(char out[32], uint64_t bytes)
{
    double v = (double)bytes;
    if (bytes < 10000) snprintf(out, 32, "%llu B", (unsigned long long)bytes);
    else if (v < 1e6) snprintf(out, 32, "%.1f kB", v / 1e3);
    else if (v < 1e9) snprintf(out, 32, "%.2f MB", v / 1e6);
    else snprintf(out, 32, "%.2f GB", v / 1e9);
    return out;
}

static void print_link(FILE *out, const char *from, const char *to, uint64_t setup, uint64_t prefill, uint64_t decode)
{
    char text[3][32];
    fprintf(out, "    %-8s > %-8s %12s %12s %12s\n", from, to, bytes_text(text[0], setup), bytes_text(text[1], prefill),
            bytes_text(text[2], decode));
}

void print_receipt(FILE *out, const Generated *g, Setting setting)
{
    const Receipt *r = &g->receipt;
    const PhaseCost *s = &r->setup, *p = &r->prefill, *d = &r->decode;
    if (setting == SETTING_PLAIN || setting == SETTING_CLEAR) {
        fprintf(out, "    %u + %u tokens, %.3f s to the first, %.3f s for the rest\n", r->prompt_tokens, r->tokens, p->seconds, d->seconds);
        return;
    }
    fprintf(out, "    %-19s %12s %12s %12s\n", "", "set-up, once", "your text", "the reply");
    fprintf(out, "    %-19s %12s %12u %12u\n", "tokens", "", r->prompt_tokens, r->tokens);
    fprintf(out, "    %-19s %10.2f s %10.2f s %10.2f s\n", "time", s->seconds, p->seconds, d->seconds);
    fprintf(out, "    %-19s %12s %12llu %12llu\n", "exchanges", "", (unsigned long long)p->exchanges, (unsigned long long)d->exchanges);
    const LinkBytes *a = &s->bytes, *b = &p->bytes, *c = &d->bytes;
    print_link(out, "client", "provider", a->client_to_server, b->client_to_server, c->client_to_server);
    print_link(out, "provider", "client", a->server_to_client, b->server_to_client, c->server_to_client);
    print_link(out, "third", "provider", a->third_to_server, b->third_to_server, c->third_to_server);
    print_link(out, "provider", "third", a->server_to_third, b->server_to_third, c->server_to_third);
    print_link(out, "client", "third", a->client_to_third, b->client_to_third, c->client_to_third);
    print_link(out, "third", "client", a->third_to_client, b->third_to_client, c->third_to_client);
}

static void say_on_terminal(void *ctx, const char *line)
{
    (void)ctx;
    if (isatty(STDERR_FILENO)) fprintf(stderr, "%s\n", line);
}

const Progress terminal_progress = {say_on_terminal, NULL};

Result output_flush(void)
{
    errno = 0;
    bool bad = fflush(stdout) != 0;            // errno before ferror: it says what went wrong last
    if (bad || ferror(stdout))
        return fail(FAIL_SYSTEM, "standard output: cannot write%s%s", errno ? ": " : "", errno ? strerror(errno) : "");
    return OK;
}
