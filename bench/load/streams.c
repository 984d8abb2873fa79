/* A number of streams at all times: each connection asks for the next one as soon as the last is over.
 *
 *   streams PORT REQUESTS STREAMS WARM_SECONDS SECONDS CHUNKS
 *
 * Prints a line of JSON when the warm-up is over and one at the end: chunks so far (events of content, without those of usage and
 * [DONE]), streams ended whole, streams failed, and in the second what of the time between two reads of a stream half and 99 of 100 did not
 * exceed. A stream fails unless it is 200, has CHUNKS + 2 events and ends with [DONE].
 */
#define _GNU_SOURCE
#include "client.h"

enum { MOST_EVENTS = 256, TAIL = 14, EXTRA_EVENTS = 2, GAP_NS = 20000, GAPS = 10000 };
static const int64_t SECOND = 1000000000, AGAIN = 50000000, LOOK = 1000000;

typedef struct {
    int fd;             /* -1 while there is no connection */
    int busy;
    int64_t start;      /* when to ask, unless busy */
    int events;
    int64_t heard;      /* when its last events came, 0 before */
    char last;          /* byte before, to see the blank line that ends an event */
    char tail[TAIL];
    Message answer;
} Stream;

typedef struct {
    int epoll, port, wanted_events;
    int64_t events, extra, whole, failed;
    int64_t gaps[GAPS]; /* how many of so many GAP_NS */
    Requests requests;
    char buffer[READ_BYTES];
} Client;

static void count_events(void *owner, const char *bytes, size_t count) {
    Stream *s = owner;
    for (const char *at = bytes, *end = bytes + count; at < end;) {
        const char *line = memchr(at, '\n', (size_t)(end - at));
        if (!line) break;
        s->events += (line > bytes ? line[-1] : s->last) == '\n';
        at = line + 1;
    }
    s->last = bytes[count - 1];
    size_t kept = count < TAIL ? count : TAIL;
    memmove(s->tail, s->tail + kept, TAIL - kept);
    memcpy(s->tail + TAIL - kept, bytes + count - kept, kept);
}

static void give_up(Client *c, Stream *s) {
    c->failed++;
    close(s->fd);
    s->fd = -1;
    s->busy = 0;
    s->start = now_ns() + AGAIN;
}

static void ask(Client *c, Stream *s) {
    if (s->fd < 0) {
        if ((s->fd = dial(c->port)) < 0) {
            c->failed++;
            s->start = now_ns() + AGAIN;
            return;
        }
        watch(c->epoll, s->fd, s);
    }
    message_reset(&s->answer);
    s->events = s->last = 0;
    s->heard = 0;
    s->busy = 1;
    if (send_request(&c->requests, s->fd) < 0) give_up(c, s);
}

static void end(Client *c, Stream *s) {
    if (s->answer.status != 200 || s->events != c->wanted_events || memcmp(s->tail, "data: [DONE]\n\n", TAIL) != 0) {
        fprintf(stderr, "streams: status %d, %d events, end %.*s\n", s->answer.status, s->events, TAIL, s->tail);
        give_up(c, s);
        return;
    }
    c->whole++;
    c->extra += EXTRA_EVENTS;
    if (s->answer.closing) {
        close(s->fd);
        s->fd = -1;
    }
    ask(c, s);
}

static void note_gap(Client *c, Stream *s) {
    int64_t now = now_ns(), gap = (now - s->heard) / GAP_NS;
    if (s->heard) c->gaps[gap < GAPS ? gap : GAPS - 1]++;
    s->heard = now;
}

/* The gap, in microseconds, that this share of them does not exceed; 0 when there was none. */
static long gap_us(const Client *c, double share) {
    int64_t all = 0, seen = 0;
    for (int i = 0; i < GAPS; i++) all += c->gaps[i];
    for (int i = 0; all && i < GAPS; i++)
        if ((double)(seen += c->gaps[i]) >= share * (double)all) return (long)(i + 1) * GAP_NS / 1000;
    return 0;
}

static void hear(Client *c, Stream *s) {
    ssize_t count = recv(s->fd, c->buffer, sizeof c->buffer, MSG_DONTWAIT);
    if (count < 0 && errno == EAGAIN) return;
    if (count <= 0 && !s->busy) { /* an idle connection may be closed */
        close(s->fd);
        s->fd = -1;
        return;
    }
    int before = s->events;
    ssize_t taken = count <= 0 ? -1 : message_feed(&s->answer, c->buffer, (size_t)count, count_events, s);
    c->events += s->events - before;
    if (s->events != before) note_gap(c, s);
    if (taken != count || !s->busy) give_up(c, s);
    else if (s->answer.state == COMPLETE) end(c, s);
}

static void report(Client *c, const char *mark) {
    printf("{\"mark\": \"%s\", \"seconds\": %.6f, \"chunks\": %ld, \"whole\": %ld, \"failed\": %ld, \"gap_p50_us\": %ld, "
           "\"gap_p99_us\": %ld}\n", mark, (double)now_ns() / 1e9, (long)(c->events - c->extra), (long)c->whole, (long)c->failed,
           gap_us(c, 0.5), gap_us(c, 0.99));
}

static void run_until(Client *c, Stream *streams, int count, int64_t stop) {
    static struct epoll_event events[MOST_EVENTS];
    for (int64_t now; (now = now_ns()) < stop;) {
        int waiting = 0;
        for (int i = 0; i < count; i++) {
            if (!streams[i].busy && streams[i].start <= now) ask(c, &streams[i]);
            waiting |= !streams[i].busy;
        }
        int ready = wait_until(c->epoll, events, MOST_EVENTS, waiting && now + LOOK < stop ? now + LOOK : stop);
        for (int i = 0; i < ready; i++) hear(c, events[i].data.ptr);
    }
}

int main(int count, char **words) {
    static Client client;
    if (count != 7) return fprintf(stderr, "usage: streams PORT REQUESTS STREAMS WARM_SECONDS SECONDS CHUNKS\n"), 2;
    int number = atoi(words[3]);
    int64_t begin = now_ns(), warm = (int64_t)(atof(words[4]) * 1e9), length = (int64_t)(atof(words[5]) * 1e9);
    Stream *streams = calloc((size_t)number, sizeof *streams);
    be_punctual();
    client.epoll = epoll_create1(EPOLL_CLOEXEC);
    client.port = atoi(words[1]);
    client.wanted_events = atoi(words[6]) + EXTRA_EVENTS;
    load_requests(&client.requests, words[2], client.port);
    for (int i = 0; i < number; i++) { /* spread over a second by the golden ratio, so that their chunks do not come together */
        double part = i * 0.6180339887498949;
        streams[i].fd = -1;
        streams[i].start = begin + (int64_t)((part - (int64_t)part) * (double)SECOND);
    }
    run_until(&client, streams, number, begin + warm);
    report(&client, "begin");
    memset(client.gaps, 0, sizeof client.gaps);
    run_until(&client, streams, number, begin + warm + length);
    report(&client, "end");
    return 0;
}
