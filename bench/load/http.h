/* One HTTP/1.1 message read as it comes, and the few socket calls that the engine and the clients share.
 *
 * Made for programs of one machine that mean each other well: it is quick to give up, and closes what it does not understand.
 */
#ifndef PENSTOCK_BENCH_HTTP_H
#define PENSTOCK_BENCH_HTTP_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_BYTES = 16384, READ_BYTES = 262144 };

typedef enum { IN_HEAD, IN_BODY, IN_SIZE, IN_CHUNK, AFTER_CHUNK, IN_TRAILER, COMPLETE } State;

typedef struct {
    State state;
    size_t head_length;
    int64_t left;      /* bytes of the body or of the chunk that are still to come */
    int status;        /* of a response, 0 for a request */
    int chunked;
    int closing;       /* the sender said `connection: close` */
    size_t line;       /* characters of the chunk-size or trailer line so far */
    char head[HEAD_BYTES + 1];
} Message;

typedef void (*Sink)(void *owner, const char *bytes, size_t count);

static inline void message_reset(Message *m) {
    m->state = IN_HEAD;
    m->head_length = m->line = 0;
    m->left = 0;
    m->status = m->chunked = m->closing = 0;
}

/* What follows `name:` in the head, or NULL. `name` is in lower case with its colon. */
static inline const char *message_header(const Message *m, const char *name) {
    size_t length = strlen(name);
    for (const char *line = strstr(m->head, "\r\n"); line && line[2] != '\r'; line = strstr(line + 2, "\r\n"))
        if (strncasecmp(line + 2, name, length) == 0) {
            const char *value = line + 2 + length;
            while (*value == ' ') value++;
            return value;
        }
    return NULL;
}

/* The head is whole: find out how the body ends. -1 when that cannot be told. */
static inline int message_begin_body(Message *m) {
    const char *value;
    if (strncmp(m->head, "HTTP/1.", 7) == 0) m->status = atoi(m->head + 9);
    if (m->status >= 100 && m->status < 200) {
        message_reset(m);
        return 0;
    }
    if ((value = message_header(m, "connection:"))) m->closing = strncasecmp(value, "close", 5) == 0;
    if ((value = message_header(m, "transfer-encoding:"))) {
        if (strncasecmp(value, "chunked", 7) != 0) return -1;
        m->chunked = 1;
        m->state = IN_SIZE;
        return 0;
    }
    if ((value = message_header(m, "content-length:")))
        m->left = atoll(value);
    else if (m->status)
        return -1; /* a body until the end of the connection is nothing to keep alive */
    m->state = m->left ? IN_BODY : COMPLETE;
    return m->left < 0 ? -1 : 0;
}

static inline size_t message_feed_head(Message *m, const char *bytes, size_t count, int *broken) {
    size_t before = m->head_length, room = HEAD_BYTES - before, taken = count < room ? count : room;
    memcpy(m->head + before, bytes, taken);
    size_t from = before < 3 ? 0 : before - 3;
    char *end = memmem(m->head + from, before + taken - from, "\r\n\r\n", 4);
    if (!end) {
        m->head_length += taken;
        *broken = taken < count;
        return taken;
    }
    m->head_length = (size_t)(end - m->head) + 4;
    m->head[m->head_length] = 0;
    taken = m->head_length - before;
    *broken = message_begin_body(m) < 0;
    return taken;
}

static inline int message_feed_size(Message *m, char c) {
    if (c == '\n') {
        m->state = m->left ? IN_CHUNK : IN_TRAILER;
        m->line = 0;
        return 0;
    }
    if (c == '\r') return 0;
    int digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
    if (digit < 0 || m->line++ > 8) return -1;
    m->left = m->left * 16 + digit;
    return 0;
}

/* Take bytes of the message; the body goes to `sink`. How many were taken (all, unless the message is complete), -1 when broken. */
static inline ssize_t message_feed(Message *m, const char *bytes, size_t count, Sink sink, void *owner) {
    size_t at = 0;
    while (at < count && m->state != COMPLETE) {
        int broken = 0;
        if (m->state == IN_HEAD) {
            at += message_feed_head(m, bytes + at, count - at, &broken);
        } else if (m->state == IN_BODY || m->state == IN_CHUNK) {
            size_t taken = (int64_t)(count - at) < m->left ? count - at : (size_t)m->left;
            sink(owner, bytes + at, taken);
            at += taken;
            if (!(m->left -= (int64_t)taken)) m->state = m->state == IN_BODY ? COMPLETE : AFTER_CHUNK;
        } else if (m->state == IN_SIZE) {
            broken = message_feed_size(m, bytes[at++]) < 0;
        } else if (m->state == AFTER_CHUNK) {
            char c = bytes[at++];
            broken = c != '\r' && c != '\n';
            if (c == '\n') m->state = IN_SIZE;
        } else { /* IN_TRAILER: lines up to an empty one */
            char c = bytes[at++];
            if (c == '\n' && m->line == 0) m->state = COMPLETE;
            m->line = c == '\n' ? 0 : m->line + (c != '\r');
        }
        if (broken) return -1;
    }
    return (ssize_t)at;
}

static inline int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static inline void fail(const char *what) {
    perror(what);
    exit(2);
}

static inline struct sockaddr_in loopback(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static inline void no_delay(int fd) {
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static inline void watch(int epoll, int fd, void *owner) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = owner};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0) fail("epoll_ctl");
}

/* Wait for events until `due` (CLOCK_MONOTONIC, nanoseconds), to the microsecond; needs a kernel from 5.11 on. */
static inline int wait_until(int epoll, struct epoll_event *events, int most, int64_t due) {
    int64_t left = due - now_ns();
    if (left < 0) left = 0;
    struct timespec t = {.tv_sec = left / 1000000000LL, .tv_nsec = left % 1000000000LL};
    int ready = epoll_pwait2(epoll, events, most, &t, NULL);
    if (ready < 0 && errno != EINTR) fail("epoll_pwait2");
    return ready < 0 ? 0 : ready;
}

#endif
