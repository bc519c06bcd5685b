/* bench_profile.c - where a party's time goes: its main thread's program counter, sampled by a timer of CPU time, and the program's own
 * symbol table to tell which function that was. Sampling costs nothing where nothing is sampled, needs no counter in the
 * engine, and misses no work: what belongs to no kind is counted as such. Of the libraries, TLS and system calls are transfer,
 * the rest of the C library is memory: copies and zeros. */
#include "app/bench_block.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <time.h>
#include <ucontext.h>

const char *const kind_names[KIND_COUNT] = {"prg", "packing", "masking", "products", "lookups", "shares", "memory", "transfer", "other"};

enum { MOST_SAMPLES = 1 << 16, NANOSECONDS = 1000000 };
static uintptr_t sample[MOST_SAMPLES];
static volatile sig_atomic_t samples;

static void on_tick(int number, siginfo_t *info, void *context)
{
    const ucontext_t *u = context;
    (void)number, (void)info;
#if defined(__x86_64__)
    uintptr_t at = (uintptr_t)u->uc_mcontext.gregs[16];        // the instruction pointer
#elif defined(__aarch64__)
    uintptr_t at = (uintptr_t)u->uc_mcontext.pc;
#else
    uintptr_t at = 0;
    (void)u;
#endif
    if (samples < MOST_SAMPLES) sample[samples++] = at;
}

/* The timer is the calling thread's, which works as much as any other of its party. While a timer of the whole process runs (ITIMER_PROF),
 * the kernel counts the process's time by ticks of milliseconds, and traces read that clock at every frame. */
static timer_t timer;

void profile_start(void)
{
    struct sigaction act = {.sa_sigaction = on_tick, .sa_flags = SA_SIGINFO | SA_RESTART};
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGPROF};
    const struct itimerspec every = {{0, NANOSECONDS}, {0, NANOSECONDS}};
    sigaction(SIGPROF, &act, NULL);
    if (timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer) != 0) bug("no timer to sample with: %s", strerror(errno));
    timer_settime(timer, 0, &every, NULL);
}

void profile_stop(void) { timer_delete(timer); }

// ---- from addresses to kinds -----------------------------------------------------------------------------------------

/* By parts of names: the first that occurs decides. */
static const struct { const char *part; Kind kind; } parts[] = {
    {"(TLS)", KIND_TRANSFER}, {"(system", KIND_TRANSFER}, {"(libc)", KIND_MEMORY},
    {"prg_", KIND_PRG}, {"_counter", KIND_PRG}, {"_widen", KIND_PRG}, {"streams_", KIND_PRG},
    {"source_mask", KIND_PRG}, {"_expand", KIND_PRG},
    {"unpack", KIND_PACK}, {"pack", KIND_PACK}, {"words_travel", KIND_PACK},
    {"open_", KIND_MASK}, {"opened_complete", KIND_MASK}, {"pending", KIND_MASK}, {"exchange", KIND_MASK},
    {"linear", KIND_PRODUCT}, {"matmul", KIND_PRODUCT}, {"vecmat", KIND_PRODUCT}, {"_dot", KIND_PRODUCT}, {"attend", KIND_PRODUCT},
    {"ifma", KIND_PRODUCT}, {"limb", KIND_PRODUCT}, {"tile", KIND_PRODUCT}, {"pinned", KIND_PRODUCT},
    {"vnni", KIND_PRODUCT}, {"amx", KIND_PRODUCT},
    {"select", KIND_LOOKUP}, {"onehot", KIND_LOOKUP}, {"look", KIND_LOOKUP}, {"table", KIND_LOOKUP}, {"rowmax", KIND_LOOKUP},
    {"popcount", KIND_LOOKUP}, {"count", KIND_LOOKUP}, {"cell", KIND_LOOKUP}, {"zero", KIND_LOOKUP},
    {"wipe", KIND_MEMORY}, {"arena", KIND_MEMORY}, {"buffer", KIND_MEMORY}, {"words_new", KIND_MEMORY},
    {"channel", KIND_TRANSFER}, {"tls", KIND_TRANSFER}, {"feed", KIND_TRANSFER}, {"fifo", KIND_TRANSFER}, {"live_", KIND_TRANSFER},
    {"ring_", KIND_SHARES}, {"avx", KIND_SHARES}, {"portable", KIND_SHARES}, {"factor", KIND_SHARES}, {"term", KIND_SHARES},
    {"wire", KIND_SHARES}, {"open", KIND_SHARES}, {"turn", KIND_SHARES}, {"rope", KIND_SHARES},
    {"source_deal", KIND_SHARES}, {"sum", KIND_SHARES}, {"row", KIND_SHARES}, {"bilinear", KIND_SHARES}, {"mul", KIND_SHARES}};

static Kind kind_of(const char *name)
{
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (strstr(name, parts[i].part)) return parts[i].kind;
    return KIND_OTHER;
}

typedef struct Symbols {
    FileMap file;
    const Elf64_Sym *sym;
    size_t count;
    const char *names;
    uintptr_t bias, low, high;                 // where the program lies; its code
} Symbols;

/* A program without a symbol table has no kinds: all of its samples count as other. */
static bool symbols_open(Symbols *s)
{
    *s = (Symbols){0};
    if (failed(file_map(&s->file, "/proc/self/exe")) || s->file.len < sizeof(Elf64_Ehdr)) return false;
    const Elf64_Ehdr *h = (const Elf64_Ehdr *)(const void *)s->file.data;
    if (memcmp(h->e_ident, ELFMAG, SELFMAG) != 0 || h->e_ident[EI_CLASS] != ELFCLASS64) return false;
    s->bias = (uintptr_t)getauxval(AT_PHDR) - h->e_phoff;      // the program's first page is where its headers are
    const Elf64_Phdr *p = (const Elf64_Phdr *)(const void *)(s->file.data + h->e_phoff);
    for (unsigned i = 0; i < h->e_phnum; i++) {
        if (p[i].p_type != PT_LOAD) continue;
        if (p[i].p_offset == 0) s->bias -= p[i].p_vaddr;
        if (p[i].p_flags & PF_X) s->low = s->bias + p[i].p_vaddr, s->high = s->low + p[i].p_memsz;
    }
    const Elf64_Shdr *sec = (const Elf64_Shdr *)(const void *)(s->file.data + h->e_shoff);
    for (unsigned i = 0; i < h->e_shnum; i++) {
        if (sec[i].sh_type != SHT_SYMTAB) continue;
        s->sym = (const Elf64_Sym *)(const void *)(s->file.data + sec[i].sh_offset);
        s->count = sec[i].sh_size / sizeof(Elf64_Sym);
        s->names = (const char *)s->file.data + sec[sec[i].sh_link].sh_offset;
    }
    return s->sym != NULL;
}

static const char *symbol_at(const Symbols *s, uintptr_t at)
{
    for (size_t i = 0; i < s->count; i++) {
        const Elf64_Sym *y = &s->sym[i];
        uintptr_t from = s->bias + y->st_value;
        if (ELF64_ST_TYPE(y->st_info) == STT_FUNC && at >= from && at < from + y->st_size) return s->names + y->st_name;
    }
    return "";
}

/* Code outside of the program. In a system call, which is the last instruction before the address, the kernel works for it. */
static const char *name_outside(uintptr_t at)
{
    Dl_info of;
    static const uint8_t syscall_x86[] = {0x0F, 0x05};
    if (!dladdr((void *)at, &of) || !of.dli_fname) return "";
    if (!strstr(of.dli_fname, "libc.so")) return "(TLS)";
    return memcmp((const uint8_t *)at - 2, syscall_x86, 2) == 0 ? "(system calls)" : "(libc)";
}

enum { MOST_NAMES = 512 };
typedef struct Tally { const char *name; uint32_t count; } Tally;

static int busier(const void *a, const void *b)
{
    const Tally *x = a, *y = b;
    return (x->count < y->count) - (x->count > y->count);
}

static void tally_note(Tally *t, size_t *count, const char *name)
{
    size_t i = 0;
    while (i < *count && strcmp(t[i].name, name) != 0) i++;
    if (i == MOST_NAMES) return;               // more names than a party has functions
    if (i == *count) t[(*count)++] = (Tally){name, 0};
    t[i].count++;
}

void profile_read(Profile *p)
{
    Symbols s;
    Tally tally[MOST_NAMES];
    size_t names = 0;
    bool good = symbols_open(&s);
    *p = (Profile){.all = (uint32_t)samples};
    for (int i = 0; i < samples; i++) {
        bool inside = sample[i] >= s.low && sample[i] < s.high;
        const char *name = !good ? "" : inside ? symbol_at(&s, sample[i]) : name_outside(sample[i]);
        p->kind[kind_of(name)]++;
        tally_note(tally, &names, name);
    }
    qsort(tally, names, sizeof *tally, busier);
    for (size_t i = 0; i < BUSIEST && i < names; i++) {
        snprintf(p->busiest[i].name, sizeof p->busiest[i].name, "%s", tally[i].name);
        p->busiest[i].count = tally[i].count;
    }
    samples = 0;
    file_unmap(&s.file);
}
