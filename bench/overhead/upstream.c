// The scripted upstream of the overhead bench: an OpenAI-compatible server that answers at once, or streams at a fixed pace.
//
// usage: upstream PORTS CHUNKS GAP_US    listens on PORTS free ports of 127.0.0.1, prints them, serves until its parent ends.
//
// A POST, to whatever path, that asks for a stream gets a role chunk, CHUNKS text chunks GAP_US apart (the first at once), a chunk with the
// finish_reason, one with the usage if that is asked for, and [DONE]: the bytes that vLLM 0.33 sends, fields of its own included (as
// captured), one HTTP chunk and one send() for each event. Each text begins with "t"
// and the time of sending in ns (CLOCK_MONOTONIC), so that the load generator counts chunks by their content and knows how long
// each was on its way. Any other POST gets a whole answer. A GET is a health probe.
//
// There is no output buffer: an answer is at most 30 KB, which the kernel's takes. A short write ends the connection.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FDS = 4096, MAX_REQUEST = 131072, MAX_EVENTS = 512, NS_PER_US = 1000 };

struct conn {
  int fd, chunks_sent, wants_usage;
  int64_t due_ns;  // when the next chunk is due; 0: no stream is running
  size_t in_len;
  char in[MAX_REQUEST];
};

static struct conn *conns[MAX_FDS];       // by descriptor
static struct conn *streaming[MAX_FDS];   // those with a due_ns
static int streaming_count, is_listener[MAX_FDS];
static int epoll_fd, timer_fd, chunks;
static int64_t gap_ns;

// What follows the time in a text: plain words, and as often as in a chat of mixed languages an escape or a letter beyond ASCII.
static const char *const WORDS[] = {" the", " quick", " brown", " fox", " jumps", " over", " a", " lazy", " dog", ".\\n\\n",
                                    " Pack", " my", " box", " with", " five", " dozen", " jugs", " of", " caf\xc3\xa9", "."};
enum { WORD_COUNT = sizeof WORDS / sizeof *WORDS };

#define HEAD "HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 21:34:56 GMT\r\nserver: uvicorn\r\n"
#define CHUNK "data: {\"id\":\"chatcmpl-887eecb47c3ab00e\",\"object\":\"chat.completion.chunk\",\"created\":1795383297," \
              "\"model\":\"backends/own-name\",\"choices\":[{\"index\":0,\"delta\":"
static const char STREAM_HEAD[] = HEAD "content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
static const char ROLE[] = CHUNK "{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}],"
                                 "\"prompt_token_ids\":null,\"prompt_text\":null}\n\n";
static const char FINISH[] = CHUNK "{},\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":null,\"token_ids\":null,"
                                   "\"weight_versions\":null}],\"system_fingerprint\":\"vllm-0.33.0-b5e92032\",\"kv_transfer_params\":null}\n\n";
static const char USAGE[] =
    "data: {\"id\":\"chatcmpl-887eecb47c3ab00e\",\"object\":\"chat.completion.chunk\",\"created\":1795383297,\"model\":"
    "\"backends/own-name\",\"choices\":[],\"usage\":{\"prompt_tokens\":42,\"total_tokens\":142,\"completion_tokens\":100,"
    "\"completion_tokens_details\":{\"reasoning_tokens\":0}},\"system_fingerprint\":\"vllm-0.33.0-b5e92032\"}\n\n";
static const char ANSWER[] =
    "{\"id\":\"chatcmpl-b4f0355f61b357d3\",\"object\":\"chat.completion\",\"created\":1795383296,\"model\":\"backends/own-name\","
    "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"The capital of France is Paris.\",\"refusal\":null,"
    "\"annotations\":null,\"audio\":null,\"function_call\":null,\"reasoning\":null},\"logprobs\":null,\"finish_reason\":\"stop\","
    "\"stop_reason\":null,\"token_ids\":null,\"routed_experts\":null,\"weight_versions\":null}],\"service_tier\":null,"
    "\"system_fingerprint\":\"vllm-0.33.0-b5e92032\",\"usage\":{\"prompt_tokens\":42,\"total_tokens\":50,\"completion_tokens\":8,"
    "\"prompt_tokens_details\":null,\"completion_tokens_details\":{\"reasoning_tokens\":0}},\"prompt_logprobs\":null,"
    "\"prompt_token_ids\":null,\"prompt_text\":null,\"kv_transfer_params\":null,\"ec_transfer_params\":null,\"metrics\":null}";
static const char MODELS[] = "{\"object\":\"list\",\"data\":[{\"id\":\"backends/own-name\",\"object\":\"model\"}]}";

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void stop_stream(struct conn *c) {
  for (int i = 0; i < streaming_count; i++)
    if (streaming[i] == c) streaming[i--] = streaming[--streaming_count];
  c->due_ns = 0;
}

static void hang_up(struct conn *c) {
  stop_stream(c);
  conns[c->fd] = NULL;
  close(c->fd);
  free(c);
}

static int sent(struct conn *c, const char *bytes, size_t n) {  // 0: the connection is gone, and c with it
  if (send(c->fd, bytes, n, MSG_NOSIGNAL) == (ssize_t)n) return 1;
  hang_up(c);
  return 0;
}

static int sent_chunk(struct conn *c, const char *event, size_t n) {
  char framed[1024];
  return sent(c, framed, (size_t)snprintf(framed, sizeof framed, "%zx\r\n%.*s\r\n", n, (int)n, event));
}

static int sent_whole(struct conn *c, const char *body) {
  char answer[2048];
  int n = snprintf(answer, sizeof answer, HEAD "content-length: %zu\r\ncontent-type: application/json\r\n\r\n%s", strlen(body), body);
  return sent(c, answer, (size_t)n);
}

static int sent_text(struct conn *c) {
  char event[512];
  int n = snprintf(event, sizeof event, CHUNK "{\"content\":\"t%lld%s\"},\"logprobs\":null,\"finish_reason\":null,\"token_ids\":null}],"
                   "\"kv_transfer_params\":null}\n\n",
                   (long long)now_ns(), WORDS[c->chunks_sent % WORD_COUNT]);
  c->chunks_sent++;
  return sent_chunk(c, event, (size_t)n);
}

static int sent_due(struct conn *c) {  // the text that is due and, after the last one, what ends the stream
  if (!sent_text(c)) return 0;
  c->due_ns += gap_ns;
  if (c->chunks_sent < chunks) return 1;
  stop_stream(c);
  if (!sent_chunk(c, FINISH, sizeof FINISH - 1)) return 0;
  if (c->wants_usage && !sent_chunk(c, USAGE, sizeof USAGE - 1)) return 0;
  return sent_chunk(c, "data: [DONE]\n\n", 14) && sent(c, "0\r\n\r\n", 5);
}

static int started_stream(struct conn *c) {
  if (!sent(c, STREAM_HEAD, sizeof STREAM_HEAD - 1) || !sent_chunk(c, ROLE, sizeof ROLE - 1)) return 0;
  c->chunks_sent = 0;
  c->due_ns = now_ns();
  streaming[streaming_count++] = c;
  return sent_due(c);
}

static int answered(struct conn *c, const char *body, size_t n) {
  if (c->in[0] == 'G') return sent_whole(c, strncmp(c->in, "GET /health ", 12) ? MODELS : "");
  c->wants_usage = memmem(body, n, "\"include_usage\":true", 20) != NULL;
  if (memmem(body, n, "\"stream\":true", 13) || memmem(body, n, "\"stream\": true", 14)) return started_stream(c);
  return sent_whole(c, ANSWER);
}

static int answered_all(struct conn *c) {  // every whole request in the buffer; bodies are sent with a content-length here
  for (;;) {
    char *end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
    if (!end) return 1;
    *end = 0;
    char *length = strcasestr(c->in, "\r\ncontent-length:");
    size_t head = (size_t)(end - c->in) + 4, body = length ? strtoul(length + 17, NULL, 10) : 0;
    *end = '\r';
    if (c->in_len < head + body) return 1;
    if (!answered(c, c->in + head, body)) return 0;
    c->in_len -= head + body;
    memmove(c->in, c->in + head + body, c->in_len);
  }
}

static void take_in(struct conn *c) {
  ssize_t n = recv(c->fd, c->in + c->in_len, MAX_REQUEST - c->in_len, MSG_DONTWAIT);
  if (n < 0 && errno == EAGAIN) return;
  if (n <= 0) {
    hang_up(c);
    return;
  }
  c->in_len += (size_t)n;
  answered_all(c);
}

static void watch(int fd) {
  struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
  if (fd < 0 || fd >= MAX_FDS || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event)) exit(1);
}

static void let_in(int listener) {
  int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK), one = 1;
  if (fd < 0) return;
  watch(fd);
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  conns[fd] = calloc(1, sizeof **conns);
  conns[fd]->fd = fd;
}

static int listen_on_a_free_port(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (bind(fd, (void *)&address, size) || listen(fd, 4096) || getsockname(fd, (void *)&address, &size)) exit(1);
  watch(fd);
  is_listener[fd] = 1;
  return ntohs(address.sin_port);
}

static void send_what_is_due(void) {
  int64_t now = now_ns(), next = 0;
  for (int i = streaming_count - 1; i >= 0; i--)
    if (streaming[i]->due_ns <= now) sent_due(streaming[i]);
  for (int i = 0; i < streaming_count; i++)
    if (!next || streaming[i]->due_ns < next) next = streaming[i]->due_ns;
  struct itimerspec at = {.it_value = {next / 1000000000, next % 1000000000}};  // zero disarms; setting it clears what it said
  timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
}

int main(int argc, char **argv) {
  if (argc != 4) return fprintf(stderr, "usage: upstream PORTS CHUNKS GAP_US\n"), 2;
  chunks = atoi(argv[2]);
  gap_ns = atoll(argv[3]) * NS_PER_US;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  epoll_fd = epoll_create1(0);
  watch(timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
  for (int i = 0; i < atoi(argv[1]); i++) printf("%d ", listen_on_a_free_port());
  printf("\n");
  fflush(stdout);
  struct epoll_event events[MAX_EVENTS];
  for (;;) {
    int n = epoll_wait(epoll_fd, events, MAX_EVENTS, -1);
    for (int i = 0; i < n; i++) {
      int fd = events[i].data.fd;
      if (is_listener[fd]) let_in(fd);
      else if (fd != timer_fd && conns[fd]) take_in(conns[fd]);
    }
    send_what_is_due();
  }
}
