/* What the strict eye on a connection makes of its bytes, however they arrive. */
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <sys/socket.h>
#include <unistd.h>

#include "support.h"

#include "server/wire.h"

/* `want` NULL: unchanged. A NUL is written as \377 here, and a control character that stands for
 * what is refused as \001. */
static const struct {
    const char *in, *want;
} cases[] = {
    { "GET / HTTP/1.1\r\nHost: a\r\n\r\n", NULL },
    { "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n" },
    { "GET / HTTP/1.1\nHost: a\n\n", "GET / HTTP/1.\001\nHost: \001\n\001" },
    { "GET / HTTP/1.1\r\nA: b\n\r\n", "GET / HTTP/1.1\r\nA: \001\n\r\n" },
    { "GET / HTTP/1.1\r\nA: b\r\n\n", "GET / HTTP/1.1\r\nA: b\r\n\001" },
    { "GET / HTTP/1.1\r\nA: b\377c\r\n\r\n", "GET / HTTP/1.1\r\nA: b\001c\r\n\r\n" },
    { "GET /\377 HTTP/1.1\r\n\r\n", "GET /\001 HTTP/1.1\r\n\r\n" },
    /* a body is the client's own affair */
    { "POST / HTTP/1.1\r\nContent-Length: 7\r\n\r\n{\n\377;\n}\nGET / HTTP/1.1\r\n\r\n", NULL },
    { "POST / HTTP/1.1\r\ncONTENT-lENGTH:12\r\n\r\n0123456789\n\nGET / HTTP/1.1\n\r\n",
      "POST / HTTP/1.1\r\ncONTENT-lENGTH:12\r\n\r\n0123456789\n\nGET / HTTP/1.\001\n\r\n" },
    { "POST / HTTP/1.1\r\nContent-Lengthy: 9\r\n\r\nGET / HTTP/1.1\r\nA: \377\r\n\r\n",
      "POST / HTTP/1.1\r\nContent-Lengthy: 9\r\n\r\nGET / HTTP/1.1\r\nA: \001\r\n\r\n" },
    { "POST / HTTP/1.1\r\nX-Content-Length: 9\r\nTransfer: chunked\r\n\r\n\r\nGET / "
      "HTTP/1.1\r\n\r\n",
      NULL },
    /* chunks: extensions go; what is in them stays; trailers are lines again */
    { "POST / HTTP/1.1\r\nTransfer-Encoding: "
      "chunked\r\n\r\n5;a=b;c\r\n;\n\377;\n\r\nA\r\n0123456789\r\n0\r\n\r\n"
      "GET / HTTP/1.1\r\nA: \377\r\n\r\n",
      "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5 "
      "a=b;c\r\n;\n\377;\n\r\nA\r\n0123456789\r\n0\r\n\r\n"
      "GET / HTTP/1.1\r\nA: \001\r\n\r\n" },
    { "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: "
      "3\r\n\r\n1\r\n\n\r\n0;x\r\nA: b\nC: d\r\n\r\n",
      "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n1\r\n\n\r\n0 "
      "x\r\nA: \001\nC: d\r\n\r\n" },
};

/* in, cut into pieces of `first` bytes and then of `then`, as the parser would find it. */
static void feed(const char *in, const char *want, size_t first, size_t then)
{
    struct event_base *base = event_base_new();
    const size_t n = strlen(in);
    char sent[400], got[400];
    int fd[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd), 0);
    struct bufferevent *b = bufferevent_socket_new(base, fd[1], BEV_OPT_CLOSE_ON_FREE);

    wire_watch(b);
    bufferevent_enable(b, EV_READ);
    for (size_t i = 0; i < n; i++)
        sent[i] = in[i] == '\377' ? 0 : in[i];
    for (size_t i = 0, k = first; i < n; i += k, k = then) {
        if (k > n - i)
            k = n - i;
        assert_int_equal(write(fd[0], sent + i, k), k);
        event_base_loop(base, EVLOOP_ONCE);
    }
    const size_t have = evbuffer_get_length(bufferevent_get_input(b));

    assert_int_equal(evbuffer_copyout(bufferevent_get_input(b), got, sizeof(got)), have);
    for (size_t i = 0; i < have; i++)
        if (!got[i])
            got[i] = '\377';
    if (have != strlen(want) || memcmp(got, want, have) != 0)
        fail_msg("cut after %zu, then every %zu: %.*s", first, then, (int)have, got);
    bufferevent_free(b);
    event_base_free(base);
    close(fd[0]);
}

static void the_same_however_it_is_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const char *in = cases[i].in, *want = cases[i].want ? cases[i].want : in;
        const size_t n = strlen(in);

        for (size_t k = 1; k <= n; k++)
            feed(in, want, k, n);
        feed(in, want, 1, 1);
        feed(in, want, 3, 2);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(the_same_however_it_is_cut) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
