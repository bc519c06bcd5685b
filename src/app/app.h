/* app.h - what a person touches: the command line.
 *
 * `main.c` finds the command and reports how it ended: results went to standard output, a failure is one line on standard
 * error that names the thing, exit status 2 for bad use and 1 for everything else. A command is a function over its own
 * arguments; its options are a table, read strictly by `options_parse`.
 *
 * Where a command needs all parties on this machine (`run`, `eval`, `demo`), `launch.c` starts the provider and the third as
 * processes of this same binary, with throw-away identities in a private folder, and is itself the client. Whatever ends the
 * command, a signal included, ends them and removes the folder. */
#ifndef MARILL_APP_H
#define MARILL_APP_H

#include <stdio.h>
#include <sys/types.h>
#include "model/json.h"
#include "serve/serve.h"
#include "tune/tune.h"

#define MARILL_VERSION "0.1.0"

// ---- commands --------------------------------------------------------------------------------------------------------

typedef struct Command {
    const char *name, *about;                  // one line
    const char *usage;                         // the options, a line each
    Result (*run)(int argc, char **argv);      // arguments after the name
} Command;

CHECKED Result demo_command(int argc, char **argv);
CHECKED Result run_command(int argc, char **argv);
CHECKED Result eval_command(int argc, char **argv);
CHECKED Result task_command(int argc, char **argv);
CHECKED Result train_command(int argc, char **argv);
CHECKED Result tune_command(int argc, char **argv);
CHECKED Result export_command(int argc, char **argv);
CHECKED Result calibrate_command(int argc, char **argv);
CHECKED Result quantise_command(int argc, char **argv);
CHECKED Result plan_command(int argc, char **argv);
CHECKED Result bench_command(int argc, char **argv);
CHECKED Result keygen_command(int argc, char **argv);
CHECKED Result serve_command(int argc, char **argv);
CHECKED Result third_command(int argc, char **argv);
CHECKED Result chat_command(int argc, char **argv);
CHECKED Result pool_command(int argc, char **argv);
extern const char demo_usage[], run_usage[], eval_usage[], task_usage[], train_usage[], tune_usage[], export_usage[], calibrate_usage[], plan_usage[],
                  bench_usage[];
extern const char quantise_usage[], keygen_usage[], serve_usage[], third_usage[], chat_usage[], pool_usage[];

// ---- options (options.c) -----------------------------------------------------------------------------------------------

typedef enum { OPT_FLAG, OPT_TEXT, OPT_UINT, OPT_REAL, OPT_CHOICE, OPT_ADDRESS, OPT_KEY, OPT_KEYS } OptionKind;

enum { MOST_KEYS = 256 };
typedef struct Keys { uint8_t key[MOST_KEYS][32]; size_t count; } Keys;

typedef struct Option {
    const char *name;                          // with its dashes; without them: an argument by place, in the order of the table
    OptionKind kind;
    void *to;                                  // bool, const char *, uint64_t, double, unsigned, Address, uint8_t[len], Keys
    bool required;
    double min, max;                           // numbers
    const char *const *choices;                // OPT_CHOICE: ends with NULL
    size_t len;                                // OPT_KEY: bytes; 0 means 32
    bool given;                                // set by the parser
} Option;
#define OPTION(option, type, target, ...) {.name = option, .kind = type, .to = target, __VA_ARGS__}
/* Reads "--name value" and "--name=value". Whatever is unknown, double, missing or malformed is named (FAIL_USE). */
CHECKED Result options_parse(Option *options, size_t count, int argc, char **argv);
#define OPTIONS_PARSE(options, argc, argv) options_parse(options, sizeof(options) / sizeof *(options), argc, argv)
bool option_given(const Option *options, const char *name);   // name must be in the table
CHECKED Result setting_choose(Setting *out, unsigned choice); // of setting_names; 2pc is not available yet
extern const char *const setting_choices[], *const prefer_names[], *const private_names[];

// ---- output (output.c) -------------------------------------------------------------------------------------------------

/* Text that came from elsewhere: on a terminal, control characters other than newline and tab become '?'. */
void print_text(FILE *out, const uint8_t *text, size_t len);
void print_json(Json *v);                      // on standard output, indented; frees it
Json *json_of_bytes(const LinkBytes *b);       // bytes{} of the six links
const char *bytes_text(char out[32], uint64_t bytes);         // "1.23 MB"
/* What a reply cost, a line each, aligned. */
void print_receipt(FILE *out, const Generated *g, Setting setting);
extern const Progress terminal_progress;       // lines on standard error, where that is a terminal
CHECKED Result output_flush(void);             // fails if standard output did not take everything

// ---- folders and plans (calibrate.c) -------------------------------------------------------------------------------------

extern const char calibration_text[];          // small, built in
/* What a command line says about a plan; a NULL or negative field takes what the plan has. */
typedef struct PlanWish {
    const char *model, *adapter, *plan;
    double frozen;
    int private_part, prefer;
    size_t positions;                          // that a plan made now should have room for
} PlanWish;
/* The values that were given of --frozen, --private and --prefer. */
void wish_read(PlanWish *w, const Option *options, double frozen, unsigned private_part, unsigned prefer);
/* The plan to run with: the wished file, the folder's own, or, where there is none or it differs from the wish, one made now
 * in a process of its own from the built-in text, which is said on standard error. */
CHECKED Result plan_settle(const char **out, const PlanWish *w);
CHECKED Result frozen_count(uint32_t *out, double frozen, uint32_t layers);   // a number, or a fraction if below 1
CHECKED Result config_read(ModelConfig *out, const char *model_dir);
/* A folder for the plain setting, which needs no plan: with the adapter's weights, and one known position. */
CHECKED Result bundle_load_plain(Bundle *b, const char *model_dir, const char *adapter_dir);
/* Positions that the plan (NULL: the folder's, if there is one) says are known come before every text in the plain setting as well. */
CHECKED Result known_adopt(Bundle *plain, const char *model_dir, const char *adapter_dir, const char *plan);
/* The template of marill.json, {"template": "..{}.."}, in the first of these folders that has one; "{}" otherwise. */
CHECKED Result template_load(const char **out, const char *const *folders, size_t count, Arena *a);
const char *template_fill(const char *form, const char *text, size_t len, size_t *out_len, Arena *a);

// ---- processes (launch.c) ------------------------------------------------------------------------------------------------

/* Once at start: SIGINT, SIGTERM and SIGHUP end the children and remove the private folder before they end this process. */
void launch_begin(void);
void launch_end(void);                         // the same, at an orderly end
CHECKED Result scratch_folder(const char **out);              // of this process, mode 0700, made when first asked for

typedef struct Child {
    pid_t pid;                                 // 0: not running
    int out, err;                              // what it prints: a pipe, and a file in memory
    const char *who;                           // "provider"
    int status;                                // as wait gives it
    double peak_rss_mb;
    bool stopped;                              // by us: how it ended says nothing
} Child;
CHECKED Result child_start(Child *c, const char *who, const char *const *argv);
/* Reads the line "listening on HOST:PORT" that serve and third print. */
CHECKED Result child_port(Child *c, uint16_t *port);
/* Waits; after `patience` seconds it is made to end. Fails with the child's own words if it failed. */
CHECKED Result child_end(Child *c, double patience);

typedef struct Parties {
    Setting setting;                           // dealer or 3pc; with plain and clear everything below does nothing
    const char *model, *adapter, *plan;
    const char *net;                           // --net of every party; NULL: loopback
    const char *synthetic;                     // benchmarks: the seed of synthetic factors, and whether
    bool synthetic_past;                       // the known positions are synthetic too; see synthetic.h
    bool scores;                               // client_score is used: the provider reveals the logits of every position
    bool traced;                               // the parties note what they do, for network_time
    Trace trace;                               // of the client
    unsigned threads;                          // of each party
    Identity me;
    char key[3][65];                           // public, in hex: of client, provider, third
    uint8_t provider_key[32], third_key[32];
    Child provider, third;
    char provider_at[32], third_at[32];        // host:port
    ClientOptions options;
    Client *client;
    double setup_seconds;                      // dealer: making the pool
    unsigned pools;                            // dealer: made so far
    char tape[4096];
} Parties;
/* Starts what can start before the client's folder is loaded. */
CHECKED Result parties_start(Parties *p);
unsigned party_threads(uint64_t asked, Setting setting);      // asked 0: a fair share of the cores
/* Connects the client: a session. dealer: makes a pool of `positions` first; one conversation a session. */
CHECKED Result parties_open(Parties *p, const Bundle *b, size_t positions);
/* Ends the session and the processes. r: how the work in between went; a failure comes back with what the others said. */
CHECKED Result parties_end(Parties *p, Result r);
CHECKED Result parties_close_session(Parties *p);             // dealer: before the next parties_open
/* The traces of the last session, of those that have ended: network_time's. To be freed, each. */
CHECKED Result parties_traces(Parties *p, Trace trace[PARTIES_COUNT]);

#endif
