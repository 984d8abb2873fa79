/* What the two clients share: the requests to send, in turn, and the moments between which their caller looks at the CPU. */
#ifndef PENSTOCK_BENCH_CLIENT_H
#define PENSTOCK_BENCH_CLIENT_H

#include "http.h"

#include <signal.h>

typedef struct {
    char **texts;
    size_t *lengths, count, turn;
} Requests;

static inline void add_request(Requests *r, int port, const char *body, size_t length) {
    char *text = malloc(length + 256);
    int head = sprintf(text, "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-type: application/json\r\n"
                       "content-length: %zu\r\n\r\n", port, length);
    memcpy(text + head, body, length);
    r->texts = realloc(r->texts, (r->count + 1) * sizeof *r->texts);
    r->lengths = realloc(r->lengths, (r->count + 1) * sizeof *r->lengths);
    r->texts[r->count] = text;
    r->lengths[r->count++] = (size_t)head + length;
}

static inline void load_requests(Requests *r, const char *file, int port) {
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    FILE *in = fopen(file, "r");
    if (!in) fail(file);
    while ((length = getline(&line, &room, in)) > 0) add_request(r, port, line, (size_t)length - 1);
    free(line);
    fclose(in);
    if (!r->count) fail("no requests");
}

/* Send the next request, whole. -1 when the socket did not take it. */
static inline int send_request(Requests *r, int fd) {
    size_t i = r->turn;
    r->turn = (r->turn + 1) % r->count;
    return send(fd, r->texts[i], r->lengths[i], MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)r->lengths[i] ? 0 : -1;
}

static inline int dial(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = loopback(port);
    if (fd < 0) fail("socket");
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        close(fd);
        return -1;
    }
    no_delay(fd);
    return fd;
}

static inline void be_punctual(void) {
    prctl(PR_SET_TIMERSLACK, 1);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setvbuf(stdout, NULL, _IOLBF, 0);
}

#endif
