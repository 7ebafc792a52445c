#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "worker/server/http.h"

#define BACKLOG 1024

/* "host:port", "[v6]:port" or "port" into its parts. */
static mw_status split(const char *address, char *host, size_t room, char *port, size_t port_room) {
    const char *colon = strrchr(address, ':'), *p = colon ? colon + 1 : address;
    size_t n = colon ? (size_t)(colon - address) : 0;
    char *end;
    errno = 0;
    long number = strtol(p, &end, 10);
    if (end == p || *end || errno || number < 0 || number > 65535)
        return MW_FAIL(MW_ERR_USAGE, "--listen %s: expected HOST:PORT such as 127.0.0.1:8000", address);
    if (colon && n == 0)
        return MW_FAIL(MW_ERR_USAGE, "--listen %s: name the address: 127.0.0.1%s for this machine, 0.0.0.0%s for all",
                       address, address, address);
    snprintf(port, port_room, "%ld", number);
    if (!colon) {
        snprintf(host, room, "127.0.0.1");
        return MW_OK;
    }
    const char *h = address;
    if (n >= 2 && h[0] == '[' && h[n - 1] == ']') {
        h++;
        n -= 2;
    } else if (memchr(h, ':', n)) {
        return MW_FAIL(MW_ERR_USAGE, "--listen %s: an IPv6 address goes into brackets, [::1]:8000", address);
    }
    if (n >= room) return MW_FAIL(MW_ERR_USAGE, "--listen: the host name is too long");
    memcpy(host, h, n);
    host[n] = 0;
    return MW_OK;
}

static mw_status bind_one(const struct addrinfo *a, const char *address, int *out) {
    int on = 1, fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return MW_FAIL(MW_ERR_UNAVAIL, "--listen %s: %s", address, strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, a->ai_addr, a->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0) {
        mw_status st = MW_FAIL(MW_ERR_UNAVAIL, "--listen %s: %s", address, strerror(errno));
        close(fd);
        return st;
    }
    *out = fd;
    return MW_OK;
}

static bool is_loopback(const struct sockaddr *a) {
    if (a->sa_family == AF_INET) {
        struct sockaddr_in v4;
        memcpy(&v4, a, sizeof v4);
        return (ntohl(v4.sin_addr.s_addr) >> 24) == 127;
    }
    struct sockaddr_in6 v6;
    memcpy(&v6, a, sizeof v6);
    return a->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr);
}

mw_status mw_listen(const char *address, int *fd, char *where, size_t room, bool *loopback) {
    char host[256], port[16];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *list = NULL;
    mw_status st = split(address, host, sizeof host, port, sizeof port);
    if (st != MW_OK) return st;
    int rc = getaddrinfo(host, port, &hints, &list);
    if (rc != 0) return MW_FAIL(MW_ERR_UNAVAIL, "--listen %s: %s", address, gai_strerror(rc));
    st = bind_one(list, address, fd);
    *loopback = is_loopback(list->ai_addr);
    freeaddrinfo(list);
    if (st != MW_OK) return st;
    struct sockaddr_storage bound = {0};
    socklen_t len = sizeof bound;
    if (getsockname(*fd, (struct sockaddr *)&bound, &len) == 0) /* port 0: which one it is */
        getnameinfo((struct sockaddr *)&bound, len, NULL, 0, port, sizeof port, NI_NUMERICSERV);
    snprintf(where, room, strchr(host, ':') ? "http://[%s]:%s" : "http://%s:%s", host, port);
    return MW_OK;
}
