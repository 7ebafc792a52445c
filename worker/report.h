/* worker/report.h - the plan and the memory of a job as text for people. */
#ifndef MW_WORKER_REPORT_H
#define MW_WORKER_REPORT_H
#include "worker/engine_internal.h"

/* Fill e->report on rank 0. Collective: every rank tells its memory. */
MW_MUST_CHECK mw_status mw_report_make(mw_engine *e);

#endif
