/* ranks.c - see ranks.h: MPI, where the build found it.
 *
 * MPI moves messages only while somebody calls it, so a thread that has finished a layer's gradients looks in (ranks_sum_move), and
 * waiting is a loop of looks with short sleeps: ranks may share a processor. One lock keeps calls apart, as MPI_THREAD_SERIALIZED asks. */
#include "tune/ranks.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static struct {
    unsigned index, count;
    bool (*gives_up)(void *ctx);
    void *ctx;
} world = {.count = 1};

unsigned ranks_count(void) { return world.count; }
unsigned ranks_index(void) { return world.index; }

void ranks_patience(bool (*gives_up)(void *ctx), void *ctx)
{
    world.gives_up = gives_up, world.ctx = ctx;
}

/* How many processes the launcher says it started; 0: there is none. */
static unsigned launched(void)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (getenv(names[i])) return (unsigned)strtoul(getenv(names[i]), NULL, 10);
    return getenv("PMIX_RANK") ? 1 : 0;
}

#ifdef MARILL_MPI
#include <mpi.h>
#include <pthread.h>

enum { MOST_SUMS = 4096, PIECE = 1 << 27, LOOKS = 200, NAP_NS = 50000 };       // PIECE: floats or bytes of one call

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct { MPI_Request request[MOST_SUMS]; int count, broken; } sums;

bool ranks_built(void) { return true; }

Result ranks_start(void)
{
    int given = 0, count = 1, index = 0;
    unsigned want = launched();
    if (!want) return OK;
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &given) != MPI_SUCCESS) return fail(FAIL_SYSTEM, "MPI does not start");
    if (given < MPI_THREAD_SERIALIZED) return fail(FAIL_SYSTEM, "this MPI is for processes of one thread");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_size(MPI_COMM_WORLD, &count);
    MPI_Comm_rank(MPI_COMM_WORLD, &index);
    if (want > 1 && count == 1)
        return fail(FAIL_SYSTEM, "one of %u processes, but MPI sees this one alone: the launcher belongs to another MPI", want);
    world.count = (unsigned)count, world.index = (unsigned)index;
    return OK;
}

void ranks_end(void)
{
    int started = 0;
    if (MPI_Initialized(&started) == MPI_SUCCESS && started) MPI_Finalize();
    world.count = 1, world.index = 0;
}

static Result broken(int code)
{
    char text[MPI_MAX_ERROR_STRING];
    int len = 0;
    if (MPI_Error_string(code, text, &len) != MPI_SUCCESS) len = 0;
    return fail(FAIL_PEER, "the ranks cannot reach each other: %.*s", len, text);
}

static Result requests_wait(MPI_Request *request, int count)
{
    for (int look = 0, done = 0;; look++) {
        pthread_mutex_lock(&lock);
        int code = MPI_Testall(count, request, &done, MPI_STATUSES_IGNORE);
        pthread_mutex_unlock(&lock);
        if (code != MPI_SUCCESS) return broken(code);
        if (done) return OK;
        if (world.gives_up && world.gives_up(world.ctx)) return fail(FAIL_PEER, "the other ranks do not answer");
        if (look > LOOKS) nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
    }
}

void ranks_sum_begin(float *x, size_t len)
{
    if (world.count == 1) return;
    pthread_mutex_lock(&lock);
    for (size_t at = 0; at < len && !sums.broken; at += PIECE) {
        ASSERT(sums.count < MOST_SUMS);
        size_t piece = len - at < PIECE ? len - at : PIECE;
        sums.broken = MPI_Iallreduce(MPI_IN_PLACE, x + at, (int)piece, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD, &sums.request[sums.count]);
        sums.count += !sums.broken;
    }
    pthread_mutex_unlock(&lock);
}

void ranks_sum_move(void)
{
    int done;
    if (world.count == 1 || pthread_mutex_trylock(&lock) != 0) return;
    if (!sums.broken && sums.count) sums.broken = MPI_Testall(sums.count, sums.request, &done, MPI_STATUSES_IGNORE);
    pthread_mutex_unlock(&lock);
}

Result ranks_sum_wait(void)
{
    if (world.count == 1) return OK;
    if (sums.broken) return broken(sums.broken);
    Result r = requests_wait(sums.request, sums.count);
    sums.count = 0;
    return r;
}

static Result reduce(void *x, size_t len, MPI_Datatype type, MPI_Op op)
{
    MPI_Request request;
    pthread_mutex_lock(&lock);
    int code = MPI_Iallreduce(MPI_IN_PLACE, x, (int)len, type, op, MPI_COMM_WORLD, &request);
    pthread_mutex_unlock(&lock);
    return code == MPI_SUCCESS ? requests_wait(&request, 1) : broken(code);
}

Result ranks_add(double *x, size_t len)
{
    return world.count == 1 ? OK : reduce(x, len, MPI_DOUBLE, MPI_SUM);
}

static Result largest(uint64_t *x, size_t len)
{
    return reduce(x, len, MPI_UINT64_T, MPI_MAX);
}

Result ranks_copy(void *x, size_t bytes)
{
    for (size_t at = 0; world.count > 1 && at < bytes; at += PIECE) {
        size_t piece = bytes - at < PIECE ? bytes - at : PIECE;
        MPI_Request request;
        pthread_mutex_lock(&lock);
        int code = MPI_Ibcast((char *)x + at, (int)piece, MPI_BYTE, 0, MPI_COMM_WORLD, &request);
        pthread_mutex_unlock(&lock);
        if (code != MPI_SUCCESS) return broken(code);
        GUARD(requests_wait(&request, 1));
    }
    return OK;
}
#else
bool ranks_built(void) { return false; }

Result ranks_start(void)
{
    unsigned count = launched();
    if (count <= 1) return OK;
    return fail(FAIL_USE, "one of %u processes of mpirun, but this marill was built without MPI: install it (tools/setup mpi) and build again", count);
}

void ranks_end(void) {}
void ranks_sum_begin(float *x, size_t len) { (void)x, (void)len; }
void ranks_sum_move(void) {}
Result ranks_sum_wait(void) { return OK; }
Result ranks_add(double *x, size_t len) { return (void)x, (void)len, OK; }
Result ranks_copy(void *x, size_t bytes) { return (void)x, (void)bytes, OK; }
static Result largest(uint64_t *x, size_t len) { return (void)x, (void)len, OK; }
#endif

/* By a sum over the bytes: ranks mean each other well. */
Result ranks_same(const void *x, size_t bytes, const char *what)
{
    uint64_t sum = 0xCBF29CE484222325u;        // FNV-1a
    for (size_t i = 0; i < bytes; i++) sum = (sum ^ ((const uint8_t *)x)[i]) * 0x100000001B3u;
    uint64_t both[2] = {sum, ~sum};            // the largest, and the complement of the least
    if (world.count == 1) return OK;
    GUARD(largest(both, 2));
    return both[0] == ~both[1] ? OK : fail(FAIL_DATA, "the ranks differ in %s", what);
}
