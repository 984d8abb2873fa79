/* The engine behind every gateway: answers a chat completion at once, or streams it, a chunk every 20 ms.
 *
 *   engine CHUNKS MILLISECONDS PORT...
 *
 * It must never be what limits a gateway: one thread, one epoll, answers made in advance, and one read and one write a request.
 * A request streams when the first 16 KB of its body hold `"stream":true`; each stream keeps its own time, so that chunks of many
 * streams come one by one and no gateway gains by chance from two at once. What routers ask of an engine before they use it
 * is answered as vLLM and SGLang do; a path that it does not know is answered with 404, and the first few of those go to standard
 * error. vllm-router sends every prompt to /v1/chat/completions/render first, which an engine without that path refuses so.
 */
#define _GNU_SOURCE
#include "http.h"

#include <signal.h>

enum { MOST_EVENTS = 256, SNIFF_BYTES = 16384, FRAME_BYTES = 640, UNKNOWN_TOLD = 20 };

typedef struct Connection {
    int fd;                   /* -1 once closed; a stream that is still due keeps the rest alive until then */
    int is_listener;
    int streaming;
    int chunk;                /* the next one to send */
    int64_t due;              /* when to send it, nanoseconds */
    struct Connection *later; /* in the line of streams, which is in order of `due` since all wait equally long */
    size_t sniffed;
    Message request;
    char body[SNIFF_BYTES];
} Connection;

typedef struct {
    char bytes[4096];
    size_t length;
} Answer;

typedef struct {
    int epoll;
    int chunks, unknown;
    int64_t interval;
    Connection *first, *last;
    Answer unary, head, end, *frames;
    char buffer[READ_BYTES];
} Engine;

#define ID "chatcmpl-8f2c4e6a91d34b0fa7c5e2d1b3a49687"
#define COMMON "\"created\":1767225600,\"model\":\"bench\""
#define USAGE "\"usage\":{\"prompt_tokens\":312,\"total_tokens\":376,\"completion_tokens\":64,\"prompt_tokens_details\":null}"
#define DATE "date: Thu, 01 Jan 2026 00:00:00 GMT\r\nserver: uvicorn\r\n"

static const char UNARY[] =
    "{\"id\":\"" ID "\",\"object\":\"chat.completion\"," COMMON ",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","
    "\"content\":\"A penstock leads water from the reservoir down to the turbine. Its gate decides how much of it flows, and "
    "closes when the turbine cannot take more. What is upstream of the gate is under pressure at all times.\","
    "\"refusal\":null,\"annotations\":null,\"audio\":null,\"function_call\":null,\"tool_calls\":[],\"reasoning_content\":null},"
    "\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":null,\"token_ids\":null}],\"service_tier\":null,"
    "\"system_fingerprint\":null," USAGE ",\"prompt_logprobs\":null,\"kv_transfer_params\":null}";

static const char METRICS[] =
    "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{model_name=\"bench\"} 1\n"
    "# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{model_name=\"bench\"} 0\n"
    "# TYPE vllm:kv_cache_usage_perc gauge\nvllm:kv_cache_usage_perc{model_name=\"bench\"} 0.1\n"
    "# TYPE vllm:prefix_cache_queries_total counter\nvllm:prefix_cache_queries_total{model_name=\"bench\"} 1000\n"
    "# TYPE vllm:prefix_cache_hits_total counter\nvllm:prefix_cache_hits_total{model_name=\"bench\"} 500\n"
    "# TYPE vllm:prompt_tokens_total counter\nvllm:prompt_tokens_total{model_name=\"bench\"} 100000\n"
    "# TYPE vllm:generation_tokens_total counter\nvllm:generation_tokens_total{model_name=\"bench\"} 100000\n"
    "# TYPE vllm:cache_config_info gauge\nvllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"100000\"} 1\n";

static const struct { const char *path, *type, *body; } PROBES[] = {
    {"/health", "text/plain", ""},
    {"/metrics", "text/plain; version=0.0.4; charset=utf-8", METRICS},
    {"/v1/models", "application/json",
     "{\"object\":\"list\",\"data\":[{\"id\":\"bench\",\"object\":\"model\",\"created\":1767225600,\"owned_by\":\"vllm\","
     "\"root\":\"bench\",\"parent\":null,\"max_model_len\":131072}]}"},
    {"/version", "application/json", "{\"version\":\"0.11.0\"}"},
    {"/get_model_info", "application/json", "{\"model_path\":\"bench\",\"tokenizer_path\":\"bench\",\"is_generation\":true}"},
    {"/model_info", "application/json", "{\"model_path\":\"bench\",\"tokenizer_path\":\"bench\",\"is_generation\":true}"},
    {"/get_server_info", "application/json", "{\"model_path\":\"bench\",\"served_model_name\":\"bench\",\"tp_size\":1,\"dp_size\":1}"},
    {"/server_info", "application/json", "{\"model_path\":\"bench\",\"served_model_name\":\"bench\",\"tp_size\":1,\"dp_size\":1}"},
};

static void append_frame(Answer *a, const char *payload) {
    a->length += (size_t)snprintf(a->bytes + a->length, sizeof a->bytes - a->length, "%zx\r\n%s\r\n", strlen(payload), payload);
}

static void make_frames(Engine *e) {
    char payload[FRAME_BYTES];
    e->frames = calloc((size_t)e->chunks, sizeof *e->frames);
    for (int i = 0; i < e->chunks; i++) {
        snprintf(payload, sizeof payload,
                 "data: {\"id\":\"" ID "\",\"object\":\"chat.completion.chunk\"," COMMON ",\"choices\":[{\"index\":0,"
                 "\"delta\":{%s\"content\":\"%s\",\"reasoning_content\":null},\"logprobs\":null,\"finish_reason\":%s,\"token_ids\":null}]}\n\n",
                 i == 0 ? "\"role\":\"assistant\"," : "", i == 0 ? "" : i % 3 ? " water" : " gate",
                 i == e->chunks - 1 ? "\"stop\",\"stop_reason\":null" : "null");
        append_frame(&e->frames[i], payload);
    }
    append_frame(&e->end, "data: {\"id\":\"" ID "\",\"object\":\"chat.completion.chunk\"," COMMON ",\"choices\":[]," USAGE "}\n\n");
    append_frame(&e->end, "data: [DONE]\n\n");
    e->end.length += (size_t)sprintf(e->end.bytes + e->end.length, "0\r\n\r\n");
}

static void make_answers(Engine *e) {
    e->unary.length = (size_t)sprintf(e->unary.bytes, "HTTP/1.1 200 OK\r\n" DATE "content-length: %zu\r\n"
                                      "content-type: application/json\r\n\r\n%s", sizeof UNARY - 1, UNARY);
    e->head.length = (size_t)sprintf(e->head.bytes, "HTTP/1.1 200 OK\r\n" DATE "content-type: text/event-stream; charset=utf-8\r\n"
                                     "transfer-encoding: chunked\r\n\r\n");
    make_frames(e);
}

static void drop(Connection *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    if (!c->streaming) free(c);
}

/* -1 when the socket did not take all of it: its reader is lost or stuck, and no measurement counts any more. */
static int put(Connection *c, const char *bytes, size_t length) {
    if (send(c->fd, bytes, length, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)length) return 0;
    if (errno == EAGAIN) fprintf(stderr, "engine: a reader is stuck\n");
    return -1;
}

static void line_up(Engine *e, Connection *c) {
    c->later = NULL;
    *(e->first ? &e->last->later : &e->first) = c;
    e->last = c;
}

static void send_due(Engine *e) {
    int64_t now = now_ns();
    while (e->first && e->first->due <= now) {
        Connection *c = e->first;
        e->first = c->later;
        Answer *frame = &e->frames[c->chunk];
        if (c->fd < 0 || put(c, frame->bytes, frame->length) < 0) {
            c->streaming = 0;
            drop(c);
        } else if (++c->chunk < e->chunks) {
            c->due += e->interval;
            line_up(e, c);
        } else {
            c->streaming = 0;
            if (put(c, e->end.bytes, e->end.length) < 0) drop(c);
        }
    }
}

static int answer_probe(Engine *e, Connection *c) {
    char answer[4096];
    char *path = strchr(c->request.head, ' ');
    size_t length = path ? strcspn(path + 1, " ?") : 0;
    for (size_t i = 0; length && i < sizeof PROBES / sizeof *PROBES; i++)
        if (strlen(PROBES[i].path) == length && strncmp(PROBES[i].path, path + 1, length) == 0) {
            int size = snprintf(answer, sizeof answer, "HTTP/1.1 200 OK\r\n" DATE "content-length: %zu\r\ncontent-type: %s\r\n\r\n%s",
                                strlen(PROBES[i].body), PROBES[i].type, PROBES[i].body);
            return put(c, answer, (size_t)size);
        }
    if (e->unknown++ < UNKNOWN_TOLD)
        fprintf(stderr, "engine: unknown: %.*s\n", (int)strcspn(c->request.head, "\r"), c->request.head);
    int size = snprintf(answer, sizeof answer, "HTTP/1.1 404 Not Found\r\n" DATE "content-length: 22\r\n"
                        "content-type: application/json\r\n\r\n{\"detail\":\"Not Found\"}");
    return put(c, answer, (size_t)size);
}

static int answer(Engine *e, Connection *c) {
    if (strncmp(c->request.head, "POST /v1/chat/completions ", 26) != 0) return answer_probe(e, c);
    if (!memmem(c->body, c->sniffed, "\"stream\":true", 13) && !memmem(c->body, c->sniffed, "\"stream\": true", 14))
        return put(c, e->unary.bytes, e->unary.length);
    c->streaming = 1;
    c->chunk = 0;
    c->due = now_ns() + e->interval;
    line_up(e, c);
    return put(c, e->head.bytes, e->head.length);
}

static void sniff(void *owner, const char *bytes, size_t count) {
    Connection *c = owner;
    size_t room = SNIFF_BYTES - c->sniffed;
    if (count > room) count = room;
    memcpy(c->body + c->sniffed, bytes, count);
    c->sniffed += count;
}

static void serve(Engine *e, Connection *c) {
    ssize_t count = recv(c->fd, e->buffer, sizeof e->buffer, MSG_DONTWAIT), at = 0;
    if (count < 0 && errno == EAGAIN) return;
    if (count <= 0 || c->streaming) { /* nobody sends a second request into his own stream */
        drop(c);
        return;
    }
    while (at < count) {
        ssize_t taken = message_feed(&c->request, e->buffer + at, (size_t)(count - at), sniff, c);
        if (taken < 0) break;
        at += taken;
        if (c->request.state != COMPLETE) continue;
        if (answer(e, c) < 0) break;
        message_reset(&c->request);
        c->sniffed = 0;
    }
    if (at < count) drop(c);
}

static void greet(Engine *e, Connection *listener) {
    int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    no_delay(fd);
    Connection *c = calloc(1, sizeof *c);
    c->fd = fd;
    message_reset(&c->request);
    watch(e->epoll, fd, c);
}

static void listen_on(Engine *e, int port) {
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = loopback(port);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 1024) < 0) fail("engine: bind");
    Connection *c = calloc(1, sizeof *c);
    c->fd = fd;
    c->is_listener = 1;
    watch(e->epoll, fd, c);
}

int main(int count, char **words) {
    static Engine engine;
    static struct epoll_event events[MOST_EVENTS];
    if (count < 4) return fprintf(stderr, "usage: engine CHUNKS MILLISECONDS PORT...\n"), 2;
    engine.epoll = epoll_create1(EPOLL_CLOEXEC);
    engine.chunks = atoi(words[1]);
    engine.interval = atoll(words[2]) * 1000000;
    prctl(PR_SET_TIMERSLACK, 1);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    make_answers(&engine);
    for (int i = 3; i < count; i++) listen_on(&engine, atoi(words[i]));
    for (;;) {
        int64_t due = engine.first ? engine.first->due : now_ns() + 1000000000;
        int ready = wait_until(engine.epoll, events, MOST_EVENTS, due);
        for (int i = 0; i < ready; i++) {
            Connection *c = events[i].data.ptr;
            if (c->is_listener) greet(&engine, c);
            else serve(&engine, c);
        }
        send_due(&engine);
    }
}
