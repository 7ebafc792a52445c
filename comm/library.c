/* The MPI library's own collectives, for benchmarks to compare ours with. Nothing else calls them. */
#include <limits.h>

#include "comm/internal.h"

mw_status mw_comm_library_all_reduce_f32(mw_comm *c, float *buf, size_t n_elems) {
    if (!c->uses_mpi || n_elems > INT_MAX) return MW_FAIL(MW_ERR_USAGE, "no MPI, or %zu floats", n_elems);
    int rc = MPI_Allreduce(MPI_IN_PLACE, buf, (int)n_elems, MPI_FLOAT, MPI_SUM, c->world);
    return rc == MPI_SUCCESS ? MW_OK : mw_mpi_fail(rc, "MPI_Allreduce");
}
