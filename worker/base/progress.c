#include "worker/base/progress.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "worker/base/clock.h"
#include "worker/base/mem.h"

static void draw(mw_progress *p, double now) {
    char bar[31], done[16], total[16], rate[16];
    double part = p->total ? (double)p->done / (double)p->total : 1, dt = now - p->started;
    if (part > 1) part = 1;
    int full = (int)(part * 30);
    memset(bar, '#', (size_t)full);
    memset(bar + full, '.', (size_t)(30 - full));
    bar[30] = 0;
    uint64_t per_s = dt > 0.05 ? (uint64_t)((double)p->done / dt) : 0;
    fprintf(stderr, "\r%s [%s] %3.0f %%  %s of %s  %s/s\x1b[K", p->what, bar, part * 100, mw_human_bytes(p->done, done),
            mw_human_bytes(p->total, total), mw_human_bytes(per_s, rate));
    fflush(stderr);
    p->drawn = now;
}

void mw_progress_begin(mw_progress *p, const char *what, uint64_t total_bytes, int enabled) {
    *p = (mw_progress){.total = total_bytes, .started = mw_now_s(), .on = enabled && isatty(STDERR_FILENO)};
    snprintf(p->what, sizeof p->what, "%s", what);
    if (p->on) draw(p, p->started);
}

void mw_progress_add(mw_progress *p, uint64_t bytes) {
    p->done += bytes;
    if (!p->on) return;
    double now = mw_now_s();
    if (now - p->drawn > 0.1) draw(p, now);
}

void mw_progress_end(mw_progress *p) {
    if (p->on) fprintf(stderr, "\r\x1b[K");
    p->on = 0;
}
