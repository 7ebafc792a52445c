/* A program that owns MPI, and a group that lives in a thread which is not the program's first. */
#include <pthread.h>
#include <string.h>

#include "comm/internal.h"
#include "tests/comm/check.h"

int g_check_rank, g_check_failures;

/* Opens, works, closes: all in one thread, as the engine does. */
static void *engine(void *messages) {
    mw_comm *c = NULL;
    mw_status st = mw_comm_open_on(&c, 15, messages ? MW_TRANSPORT_MESSAGES : MW_TRANSPORT_AUTO);
    CHECK(st == MW_OK, "%s", mw_error_text());
    if (st != MW_OK) return NULL;
    float x[5000];
    for (int i = 0; i < 5000; i++) x[i] = (float)(c->rank + i);
    CHECK(mw_comm_all_reduce_f32(c, x, 5000) == MW_OK, "%s", mw_error_text());
    float sum = 0;
    for (int r = 0; r < c->size; r++) sum += (float)(r + 4999);
    CHECK(x[4999] == sum, "%g instead of %g", (double)x[4999], (double)sum);
    mw_comm_close(c);
    return NULL;
}

int main(int argc, char **argv) {
    int provided = 0, rank = -1;
    bool owns = argc > 1 && strcmp(argv[1], "owns") == 0;
    bool keeps = argc > 1 && strcmp(argv[1], "keeps") == 0;
    if (keeps) mw_comm_keep_mpi(); /* ours to start and to end, several groups in between */
    if (owns) {
        MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &provided);
        MPI_Comm_rank(MPI_COMM_WORLD, &g_check_rank);
        CHECK(provided >= MPI_THREAD_SERIALIZED, "this MPI provides thread level %d only", provided);
    }
    for (int i = 0; i < (owns || keeps ? 3 : 1); i++) {
        pthread_t t;
        if (pthread_create(&t, NULL, engine, i == 1 ? &provided : NULL) != 0) return 1;
        pthread_join(t, NULL);
    }
    if (owns) {
        MPI_Comm_rank(MPI_COMM_WORLD, &rank);
        CHECK(rank == g_check_rank, "MPI does not work any more");
        MPI_Finalize();
    }
    mw_comm_exit(NULL, g_check_failures ? 1 : 0);
}
