/* worker/phases.h - how long the phases of opening took: a list of names and seconds, for one line of text. */
#ifndef MW_WORKER_PHASES_H
#define MW_WORKER_PHASES_H
#include "worker/base/clock.h"

enum { MW_PHASES_MAX = 16 };

typedef struct mw_phases {
    double began, last;
    int n;
    const char *name[MW_PHASES_MAX]; /* static texts */
    double seconds[MW_PHASES_MAX];
} mw_phases;

static inline void mw_phases_begin(mw_phases *p) {
    *p = (mw_phases){.began = mw_now_s()};
    p->last = p->began;
}

/* What was done since the last call (or the beginning) was `name`. The same name again adds up. */
static inline void mw_phases_end(mw_phases *p, const char *name) {
    double now = mw_now_s();
    int i = 0;
    while (i < p->n && p->name[i] != name) i++;
    if (i == MW_PHASES_MAX) return;
    if (i == p->n) p->name[p->n++] = name;
    p->seconds[i] += now - p->last;
    p->last = now;
}

/* "group 0.001, file 0.031, ..." into buf of `cap` bytes; returns it. */
const char *mw_phases_text(const mw_phases *p, char *buf, int cap);

#endif
