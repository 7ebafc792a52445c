#include "worker/phases.h"

#include <stdio.h>

const char *mw_phases_text(const mw_phases *p, char *buf, int cap) {
    int at = 0;
    buf[0] = 0;
    for (int i = 0; i < p->n && at < cap; i++)
        at += snprintf(buf + at, (size_t)(cap - at), "%s%s %.3f", i ? ", " : "", p->name[i], p->seconds[i]);
    return buf;
}
