/* Masks against the truth: every token of a real vocabulary, tried byte by byte. */
#include "accepts.h"

#include "base/mem.h"
#include "grammar/grammars.h"
#include "grammar/read.h"

static struct tok *tok;

static int open_tok(void **state)
{
    struct gguf *g;
    struct err e;

    (void)state;
    OK(gguf_open(&g, smollm2_path(), &e), e);
    OK(tok_from_gguf(&tok, g, &e), e);
    gguf_close(g);
    return 0;
}

static int close_tok(void **state)
{
    (void)state;
    tok_free(tok);
    return 0;
}

/* Compares the mask with what each token's bytes do from here. */
static size_t check(struct guide *p, const int32_t *eos)
{
    const size_t words = guide_words(p);
    uint64_t *mask = xcalloc(words, sizeof(*mask));
    size_t n = 0;
    struct err e;

    OK(guide_mask(p, eos, 1, mask, &e), e);
    for (int32_t id = 0; id < tok_size(tok); id++) {
        const bool bit = mask[id / 64] >> (id % 64) & 1;
        const struct matcher here = p->at;
        bool may = id == *eos ? guide_accepts(p) : guide_take(p, id);

        if (may != bit)
            fail_msg("token %d: the mask says %d", id, bit);
        n += bit;
        p->at.state = here.state;
    }
    free(mask);
    return n;
}

static void masks_are_what_bytes_say(void **state)
{
    static const struct {
        enum grammar_kind kind;
        const char *grammar, *text;
    } t[] = {
        { GRAMMAR_JSON, "",
          "{\"a\": [1.5e3, \"\\u00e9\xc3\xa9\", {\"b\": null,\n  \"d\": 1}], \"c\": true}" },
        { GRAMMAR_REGEX, "(\xc3\xa9|[^a-z]{2,5})+\\d{3}", "\xc3\xa9--123" },
        { GRAMMAR_CHOICE, "[\"yes\", \"no\", \"yesterday\"]", "yesterday" },
    };
    const int32_t eos = tok_eos(tok);
    struct grammars *gs = grammars_new(tok, (size_t)tok_size(tok) + 7);
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(t); i++) {
        struct guide p;
        struct grammar *g;

        OK(grammars_get(gs, t[i].kind, t[i].grammar, strlen(t[i].grammar), &g, &e), e);
        guide_begin(&p, g);
        grammar_unref(g);
        for (const char *c = t[i].text;; c++) {
            if ((c - t[i].text) % 3 == 0 || !*c)
                assert_true(check(&p, &eos) > 0);
            if (!*c)
                break;
            if (!guide_take_bytes(&p, c, 1))
                fail_msg("grammar %zu refuses '%s'", i, c);
        }
        assert_true(guide_accepts(&p));
        guide_end(&p);
    }
    grammars_free(gs);
}

/* However little may be remembered, the same masks come out. */
static void forgetting_changes_nothing(void **state)
{
    const char *text = "{\"a\": [[[{\"b\": [0, \"x\"]}]]], \"cde\": -0.25}";
    struct exprs x[2];
    struct states *s[2];
    struct matcher m[2];

    (void)state;
    for (int i = 0; i < 2; i++) {
        struct automaton a;
        struct err e;

        exprs_init(&x[i]);
        read_json(&x[i]);
        OK(automaton_new(&a, &x[i], &e), e);
        s[i] = states_new(&a, i ? 1 << 26 : 0);
        exprs_release(&x[i]);
        matcher_begin(&m[i], s[i]);
    }
    for (const char *c = text; *c; c++) {
        for (int i = 0; i < 2; i++) {
            states_trim(s[i]);
            m[i].state = states_step(s[i], m[i].state, (uint8_t)*c);
            assert_int_not_equal(m[i].state, STATE_DEAD);
        }
        assert_int_equal(states_width(s[0], m[0].state), states_width(s[1], m[1].state));
        assert_int_equal(states_forced(s[0], m[0].state), states_forced(s[1], m[1].state));
        for (int b = 0; b < 256; b++)
            assert_int_equal(states_step(s[0], m[0].state, (uint8_t)b) == STATE_DEAD,
                             states_step(s[1], m[1].state, (uint8_t)b) == STATE_DEAD);
    }
    for (int i = 0; i < 2; i++) {
        assert_true(states_accepts(s[i], m[i].state) && states_final(s[i], m[i].state));
        matcher_end(&m[i]);
        states_free(s[i]);
    }
}

static void forced_text_is_all_that_may_come(void **state)
{
    struct grammars *gs = grammars_new(tok, (size_t)tok_size(tok));
    const char *regex = "(alpha-beta|alpha-gamma)";
    struct grammar *g;
    struct guide p;
    struct err e;
    char out[32];

    (void)state;
    OK(grammars_get(gs, GRAMMAR_REGEX, regex, strlen(regex), &g, &e), e);
    guide_begin(&p, g);
    grammar_unref(g);
    assert_int_equal(guide_forced(&p, out, sizeof(out)), 6);
    assert_memory_equal(out, "alpha-", 6);
    assert_int_equal(guide_forced(&p, out, 3), 3);
    assert_true(guide_take_bytes(&p, "alpha-g", 7));
    assert_int_equal(guide_forced(&p, out, sizeof(out)), 4);
    assert_memory_equal(out, "amma", 4);
    assert_false(guide_take_bytes(&p, "ammo", 4));
    assert_true(guide_take_bytes(&p, "amma", 4));
    assert_true(guide_final(&p));
    assert_int_equal(guide_forced(&p, out, sizeof(out)), 0);
    guide_end(&p);
    grammars_free(gs);
}

static void the_same_text_is_compiled_once(void **state)
{
    struct grammars *gs = grammars_new(tok, (size_t)tok_size(tok));
    struct grammar *a, *b, *other;
    char regex[16];
    struct err e;

    (void)state;
    OK(grammars_get(gs, GRAMMAR_REGEX, "x+", 2, &a, &e), e);
    OK(grammars_get(gs, GRAMMAR_REGEX, "x+", 2, &b, &e), e);
    assert_ptr_equal(a, b);
    for (int i = 0; i < 40; i++) { /* more than are kept */
        snprintf(regex, sizeof(regex), "y%d", i);
        OK(grammars_get(gs, GRAMMAR_REGEX, regex, strlen(regex), &other, &e), e);
        grammar_unref(other);
    }
    grammar_unref(b);
    grammar_unref(a);
    assert_int_equal(grammars_get(gs, GRAMMAR_REGEX, "(", 1, &a, &e), -1);
    grammars_free(gs);
}

/* A choice among many, alternatives in each of many members, and a pattern that backtracking would
 * take for ever over: places stay narrow, and masks exact. */
static void large_and_nested_schemas_stay_narrow(void **state)
{
    struct buf json[3];
    const char *const fits[] = { "\"v4999\"", "{\"p0\": 1, \"p1\": \"x", "\"aaaaaaaaaaaaaaaaaaaa" };
    const char *const not [] = { "\"v5000", "{\"p0\": t", "\"aaaaaaaaaaaaaaaaaaaab" };
    struct grammars *gs = grammars_new(tok, (size_t)tok_size(tok));
    const int32_t eos = tok_eos(tok);
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(json); i++)
        buf_init(&json[i], 1 << 20);
    buf_adds(&json[0], "{\"enum\":[\"v0\"");
    for (int i = 1; i < 5000; i++)
        buf_addf(&json[0], ",\"v%d\"", i);
    buf_adds(&json[0], "]}");
    buf_adds(&json[1], "{\"type\":\"object\",\"properties\":{");
    for (int i = 0; i < 512; i++)
        buf_addf(&json[1], "%s\"p%d\":{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"number\"}]}",
                 i ? "," : "", i);
    buf_adds(&json[1], "}}");
    buf_adds(&json[2], "{\"type\":\"string\",\"pattern\":\"^(a+)+$\"}");
    for (size_t i = 0; i < ARRAY_LEN(json); i++) {
        struct grammar *g;
        struct guide p;

        OK(grammars_get(gs, GRAMMAR_SCHEMA, json[i].p, json[i].len, &g, &e), e);
        guide_begin(&p, g);
        grammar_unref(g);
        check(&p, &eos);
        assert_false(guide_take_bytes(&p, not [i], strlen(not [i])));
        assert_true(guide_take_bytes(&p, fits[i], strlen(fits[i])));
        check(&p, &eos);
        guide_end(&p);
        buf_release(&json[i]);
    }
    grammars_free(gs);
}

static void what_holds_nothing_is_refused(void **state)
{
    static const struct {
        enum grammar_kind kind;
        const char *grammar;
    } t[] = { { GRAMMAR_GBNF, "root ::= ((\"\")*)*" }, { GRAMMAR_REGEX, "()*" } };
    struct grammars *gs = grammars_new(tok, (size_t)tok_size(tok));
    struct grammar *g;
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(t); i++) {
        assert_int_equal(grammars_get(gs, t[i].kind, t[i].grammar, strlen(t[i].grammar), &g, &e),
                         -1);
        if (!strstr(e.msg, "only the empty text"))
            fail_msg("%s: %s", t[i].grammar, e.msg);
    }
    grammars_free(gs);
}

TEST_MAIN(cmocka_unit_test_setup(masks_are_what_bytes_say, open_tok),
          cmocka_unit_test(forgetting_changes_nothing),
          cmocka_unit_test(forced_text_is_all_that_may_come),
          cmocka_unit_test(large_and_nested_schemas_stay_narrow),
          cmocka_unit_test(what_holds_nothing_is_refused),
          cmocka_unit_test_teardown(the_same_text_is_compiled_once, close_tok))
