/* Requests at a constant rate, whatever becomes of them: what a client waits when others do not wait for it.
 *
 *   open_loop PORT REQUESTS RATE CONNECTIONS WARM_SECONDS SECONDS
 *
 * A request's time runs from the moment it was to be sent, also when no connection was free then (no coordinated omission). Prints
 * a line of JSON when the warm-up is over, one at the end of the schedule, and one with the times in microseconds of the requests
 * between; those unanswered two seconds later are `unfinished`, and count as having taken until then. `late` is how long after
 * its moment a request was sent: where it is large without a lack of connections, the client was short of CPU itself.
 */
#define _GNU_SOURCE
#include "client.h"

enum { MOST_EVENTS = 256, MOST_CONNECTIONS = 4096 };
static const int64_t GRACE = 2000000000;

typedef struct {
    int fd, busy;
    int64_t due;        /* when its request was to be sent */
    Message answer;
} Connection;

typedef struct {
    int epoll, port;
    double period;                 /* nanoseconds between two requests */
    int64_t begin, measured, stop; /* first moment, end of the warm-up, end of the schedule */
    int64_t scheduled, sent;       /* requests that were due so far, and those that were sent */
    int64_t failed, in_flight;
    int64_t *times, *late;
    size_t done, started;
    Connection *idle[MOST_CONNECTIONS];
    int idle_count;
    Requests requests;
    char buffer[READ_BYTES];
} Client;

static int64_t moment(const Client *c, int64_t number) { return c->begin + (int64_t)((double)number * c->period); }

static void ignore(void *owner, const char *bytes, size_t count) { (void)owner, (void)bytes, (void)count; }

static void free_up(Client *c, Connection *one) {
    if (one->busy) c->in_flight--;
    one->busy = 0;
    c->idle[c->idle_count++] = one;
}

static void give_up(Client *c, Connection *one) {
    c->failed++;
    if (one->fd >= 0) close(one->fd);
    one->fd = -1;
    free_up(c, one);
}

static void ask(Client *c, Connection *one) {
    one->due = moment(c, c->sent++);
    one->busy = 1;
    c->in_flight++;
    if (one->fd < 0 && (one->fd = dial(c->port)) >= 0) watch(c->epoll, one->fd, one);
    message_reset(&one->answer);
    if (one->due >= c->measured) c->late[c->started++] = now_ns() - one->due;
    if (one->fd < 0 || send_request(&c->requests, one->fd) < 0) give_up(c, one);
}

static void hear(Client *c, Connection *one) {
    if (one->fd < 0) return; /* given up in this same turn */
    ssize_t count = recv(one->fd, c->buffer, sizeof c->buffer, MSG_DONTWAIT);
    if (count < 0 && errno == EAGAIN) return;
    if (count <= 0 && !one->busy) {
        close(one->fd);
        one->fd = -1;
        return;
    }
    if (count <= 0 || message_feed(&one->answer, c->buffer, (size_t)count, ignore, one) != count) {
        if (one->busy) give_up(c, one);
    } else if (one->answer.state == COMPLETE && one->answer.status != 200) {
        give_up(c, one);
    } else if (one->answer.state == COMPLETE) {
        if (one->due >= c->measured) c->times[c->done++] = now_ns() - one->due;
        if (one->answer.closing) {
            close(one->fd);
            one->fd = -1;
        }
        free_up(c, one);
    }
}

/* Send what is due and hear answers, up to a moment; the schedule itself ends at `c->stop`. */
static void run_until(Client *c, int64_t until) {
    static struct epoll_event events[MOST_EVENTS];
    for (int64_t now; (now = now_ns()) < until;) {
        while (moment(c, c->scheduled) <= now && moment(c, c->scheduled) < c->stop) c->scheduled++;
        while (c->sent < c->scheduled && c->idle_count) ask(c, c->idle[--c->idle_count]);
        if (now >= c->stop && c->sent == c->scheduled && !c->in_flight) return;
        int64_t next = moment(c, c->scheduled);
        int ready = wait_until(c->epoll, events, MOST_EVENTS, next < until && next < c->stop ? next : until);
        for (int i = 0; i < ready; i++) hear(c, events[i].data.ptr);
    }
}

static int ascending(const void *one, const void *other) {
    int64_t a = *(const int64_t *)one, b = *(const int64_t *)other;
    return (a > b) - (a < b);
}

static double at(const int64_t *sorted, size_t count, double part) {
    return count ? (double)sorted[(size_t)((double)(count - 1) * part)] / 1e3 : 0;
}

static void mark(const char *name) { printf("{\"mark\": \"%s\", \"seconds\": %.6f}\n", name, (double)now_ns() / 1e9); }

static void report(Client *c, Connection *connections, int count) {
    int64_t unfinished = c->scheduled - c->sent, now = now_ns();
    for (int64_t number = c->sent; number < c->scheduled; number++) c->times[c->done++] = now - moment(c, number);
    for (int i = 0; i < count; i++)
        if (connections[i].busy) {
            unfinished++;
            if (connections[i].due >= c->measured) c->times[c->done++] = now - connections[i].due;
        }
    qsort(c->times, c->done, sizeof *c->times, ascending);
    qsort(c->late, c->started, sizeof *c->late, ascending);
    printf("{\"mark\": \"times\", \"requests\": %zu, \"failed\": %ld, \"unfinished\": %ld, \"p50_us\": %.1f, \"p90_us\": %.1f, "
           "\"p99_us\": %.1f, \"p999_us\": %.1f, \"most_us\": %.1f, \"late_p50_us\": %.1f, \"late_p99_us\": %.1f}\n",
           c->done, (long)c->failed, (long)unfinished, at(c->times, c->done, 0.5), at(c->times, c->done, 0.9),
           at(c->times, c->done, 0.99), at(c->times, c->done, 0.999), at(c->times, c->done, 1), at(c->late, c->started, 0.5),
           at(c->late, c->started, 0.99));
}

int main(int count, char **words) {
    static Client client;
    if (count != 7) return fprintf(stderr, "usage: open_loop PORT REQUESTS RATE CONNECTIONS WARM_SECONDS SECONDS\n"), 2;
    int number = atoi(words[4]);
    if (number > MOST_CONNECTIONS) number = MOST_CONNECTIONS;
    Connection *connections = calloc((size_t)number, sizeof *connections);
    be_punctual();
    client.epoll = epoll_create1(EPOLL_CLOEXEC);
    client.port = atoi(words[1]);
    load_requests(&client.requests, words[2], client.port);
    for (int i = number; i-- > 0;) {
        connections[i].fd = dial(client.port);
        if (connections[i].fd >= 0) watch(client.epoll, connections[i].fd, &connections[i]);
        free_up(&client, &connections[i]);
    }
    client.period = 1e9 / atof(words[3]);
    client.begin = now_ns() + 1000000;
    client.measured = client.begin + (int64_t)(atof(words[5]) * 1e9);
    client.stop = client.measured + (int64_t)(atof(words[6]) * 1e9);
    size_t most = (size_t)((double)(client.stop - client.begin) / client.period) + 2;
    client.times = calloc(most, sizeof *client.times);
    client.late = calloc(most, sizeof *client.late);
    run_until(&client, client.measured);
    mark("begin");
    run_until(&client, client.stop);
    mark("end");
    run_until(&client, client.stop + GRACE);
    report(&client, connections, number);
    return 0;
}
