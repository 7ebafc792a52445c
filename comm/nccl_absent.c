/* Device collectives of a build without NCCL: a group of one works, larger ones are refused. */
#include "comm/internal.h"

const char *mw_comm_device_library(void) {
    return "not in this build";
}

static mw_status absent(void) {
    return MW_FAIL(MW_ERR_UNAVAIL,
                   "several ranks on GPUs need NCCL, and this build has none: build with nccl.h at hand "
                   "(package libnccl-dev)");
}

mw_status mw_comm_device_open(mw_comm *c, int device, const unsigned char uuid[16], void *stream) {
    (void)device, (void)uuid, (void)stream;
    return c->size == 1 ? MW_OK : absent();
}

mw_status mw_comm_device_alloc(mw_comm *c, void **out, size_t bytes, const char *what) {
    (void)c, (void)out, (void)bytes, (void)what;
    return absent();
}

mw_status mw_comm_device_all_reduce(mw_comm *c, void *buf, size_t n_elems, mw_dtype dtype) {
    (void)c, (void)buf, (void)n_elems, (void)dtype;
    return absent();
}

mw_status mw_comm_device_gather_cols(mw_comm *c, const void *src, size_t rows, const size_t *cols, void *blocks,
                                     void *dst, mw_dtype dtype) {
    (void)c, (void)src, (void)rows, (void)cols, (void)blocks, (void)dst, (void)dtype;
    return absent();
}

mw_status mw_comm_device_all_gather(mw_comm *c, const void *src, size_t bytes, void *dst) {
    (void)c, (void)src, (void)bytes, (void)dst;
    return absent();
}

mw_status mw_comm_device_wait(mw_comm *c) {
    (void)c;
    return absent();
}

mw_status mw_comm_device_wait_for(mw_comm *c, mw_status (*done)(void *arg, bool *yes), void *arg) {
    (void)c, (void)done, (void)arg;
    return absent();
}

void mw_comm_device_close(mw_comm *c) {
    (void)c;
}
