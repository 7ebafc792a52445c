/* What waiting costs: test_idle [messages]. Followers wait for rank 0 in an idle broadcast; their own CPU time is a
 * small part of the time that passes, and they answer soon after it ends. Prints the figures. And that such a wait has
 * no deadline, whoever is waited for. */
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "comm/internal.h"
#include "tests/comm/check.h"

int g_check_rank, g_check_failures;

static double cpu_s(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + 1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

/* Share of a core that this rank used while rank 0 slept for `seconds`. */
static double idle_share(mw_comm *c, double seconds) {
    double cpu = cpu_s(), wall = mw_now_s();
    char byte = 0;
    if (c->rank == 0) usleep((useconds_t)(seconds * 1e6));
    CHECK(mw_comm_bcast(c, &byte, 1, 0, true) == MW_OK, "%s", mw_error_text());
    return (cpu_s() - cpu) / (mw_now_s() - wall);
}

/* Milliseconds from rank 0's sending to this rank's having it, the best of some: other programs run here too. */
static double reaction_ms(mw_comm *c, int pause_us, int times) {
    double best = 1e9;
    for (int i = 0; i < times; i++) {
        if (c->rank == 0) usleep((useconds_t)pause_us);
        int64_t sent = mw_now_ns(); /* one clock for all processes of the host */
        CHECK(mw_comm_bcast(c, &sent, sizeof sent, 0, true) == MW_OK, "%s", mw_error_text());
        double ms = (double)(mw_now_ns() - sent) * 1e-6;
        if (ms < best) best = ms;
    }
    return best;
}

/* As after loading: everybody sends in turn, and who comes later than the timeout is waited for. */
static void wait_for_late(mw_comm *c, int late) {
    char byte = 0;
    int64_t timeout = c->timeout_ns;
    c->timeout_ns = 500000000;
    if (c->rank == late) usleep(1200000);
    for (int r = 0; r < c->size; r++)
        CHECK(mw_comm_bcast(c, &byte, 1, r, true) == MW_OK, "rank %d comes late, rank %d sends: %s", late, r,
              mw_error_text());
    c->timeout_ns = timeout;
}

int main(int argc, char **argv) {
    mw_comm *c = NULL;
    bool messages = argc > 1 && strcmp(argv[1], "messages") == 0;
    if (mw_comm_open_on(&c, 20, messages ? MW_TRANSPORT_MESSAGES : MW_TRANSPORT_AUTO) != MW_OK) {
        fprintf(stderr, "open: %s\n", mw_error_text());
        return 1;
    }
    g_check_rank = c->rank;
    double share = idle_share(c, 3);
    double after_pause = reaction_ms(c, 300000, 8), in_traffic = reaction_ms(c, 1000, 100);
    /* Messages are polled, and on virtual machines each wake-up for that is dear. */
    double most = messages ? 0.06 : 0.005;
    CHECK(c->rank == 0 || share < most, "an idle rank used %.2f %% of a core", share * 100);
    CHECK(c->rank == 0 || after_pause < 2.5, "%.2f ms to notice after a pause", after_pause);
    CHECK(c->rank == 0 || in_traffic < 1, "%.2f ms to notice in traffic", in_traffic);
    double mine[3] = {share, after_pause, in_traffic}, all[64 * 3];
    CHECK(mw_comm_all_gather_bytes(c, mine, sizeof mine, all) == MW_OK, "%s", mw_error_text());
    for (int r = 1; c->rank == 0 && r < c->size; r++)
        printf("rank %d: idle %.2f %% of a core, notices after %.3f ms (0.3 s pause), %.3f ms (1 ms pause)\n", r,
               all[3 * r] * 100, all[3 * r + 1], all[3 * r + 2]);
    for (int r = 0; r < c->size; r++) wait_for_late(c, r);
    mw_comm_exit(c, g_check_failures ? 1 : 0);
}
