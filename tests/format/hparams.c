/* Model sizes from config.json (both spellings), params.json, generation_config.json and GGUF. */
#include "format/hparams.h"

#include "base/json.h"
#include "build.h"
#include "support.h"

static const char config_8b[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":4096,"
    "\"intermediate_size\":14336,\"num_hidden_layers\":32,\"num_attention_heads\":32,"
    "\"num_key_value_heads\":8,\"vocab_size\":128256,\"max_position_embeddings\":131072,"
    "\"rms_norm_eps\":1e-05,\"hidden_act\":\"silu\",\"attention_bias\":false,\"mlp_bias\":false,"
    "\"tie_word_embeddings\":false,\"bos_token_id\":128000,\"eos_token_id\":[128001,128008,128009]"
    "}";

static json_t *parse(const char *text)
{
    struct err e = { 0 };
    json_t *j = NULL;

    OK(json_parse(&j, text, strlen(text), "t", &e), e);
    return j;
}

/* The 8B config with one key set to JSON text (NULL removes it). */
static json_t *with(const char *key, const char *value)
{
    json_t *j = parse(config_8b);

    if (value)
        json_object_set_new(j, key, parse(value));
    else
        json_object_del(j, key);
    return j;
}

static void both_spellings_agree(void **state)
{
    static const char scaling[] =
        "{\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
        "\"original_max_position_embeddings\":8192,\"rope_type\":\"llama3\"}";
    struct err e = { 0 };
    struct hparams a, b;
    json_t *four = with("rope_theta", "500000.0"), *five = parse(config_8b), *rope = parse(scaling);

    (void)state;
    json_object_set_new(four, "rope_scaling", parse(scaling));
    json_object_set_new(four, "torch_dtype", json_string("float16"));
    json_object_set_new(rope, "rope_theta", json_real(500000));
    json_object_set_new(five, "rope_parameters", rope);
    json_object_set_new(five, "dtype", json_string("float16"));
    OK(hparams_from_config(&a, four, "four", &e), e);
    OK(hparams_from_config(&b, five, "five", &e), e);
    assert_true(a.rope.type == b.rope.type && a.rope.theta == b.rope.theta &&
                a.rope.factor == b.rope.factor && a.rope.original_ctx == b.rope.original_ctx &&
                a.rope.low_freq_factor == b.rope.low_freq_factor &&
                a.rope.high_freq_factor == b.rope.high_freq_factor && a.dtype == b.dtype);
    assert_int_equal(a.dim, 4096);
    assert_int_equal(a.head_dim, 128);
    assert_int_equal(a.kv_heads, 8);
    assert_int_equal(a.rope.type, ROPE_LLAMA3);
    assert_true(a.rope.theta == 500000 && a.rope.factor == 8 && a.rope.original_ctx == 8192);
    assert_false(a.rope.interleaved);
    assert_int_equal(a.dtype, ENC_F16);
    assert_int_equal(a.n_eos, 3);
    assert_int_equal(a.eos[2], 128009);
    assert_int_equal(a.bos, 128000);
    json_decref(four);
    json_decref(five);

    /* "type" is the older name of rope_type, and of two the newer counts */
    four = with("rope_scaling", "{\"type\":\"linear\",\"factor\":2}");
    OK(hparams_from_config(&a, four, "four", &e), e);
    assert_int_equal(a.rope.type, ROPE_LINEAR);
    json_decref(four);
}

static void defaults(void **state)
{
    struct err e = { 0 };
    struct hparams h;
    json_t *j = with("num_key_value_heads", NULL);

    (void)state;
    json_object_del(j, "eos_token_id");
    json_object_del(j, "bos_token_id");
    json_object_set_new(j, "rope_scaling", json_null());
    OK(hparams_from_config(&h, j, "t", &e), e);
    assert_int_equal(h.kv_heads, 32);
    assert_int_equal(h.n_eos, 0);
    assert_int_equal(h.bos, -1);
    assert_int_equal(h.dtype, ENC_BF16);
    assert_true(h.rope.type == ROPE_PLAIN && h.rope.theta == 10000);
    json_decref(j);
    j = with("head_dim", "64"); /* heads * head_dim need not be the hidden size */
    OK(hparams_from_config(&h, j, "t", &e), e);
    assert_int_equal(h.head_dim, 64);
    json_decref(j);
}

static void one_wrong_field(void **state)
{
    static const struct {
        const char *key, *value, *says;
    } row[] = {
        { "model_type", "\"mistral\"", "mistral" },
        { "model_type", NULL, "missing" },
        { "architectures", "[\"LlamaForSequenceClassification\"]", "SequenceClassification" },
        { "hidden_act", "\"gelu\"", "gelu" },
        { "attention_bias", "true", "attention_bias" },
        { "mlp_bias", "1", "mlp_bias" },
        { "quantization_config", "{\"quant_method\":\"aqlm\"}", "aqlm" },
        { "hidden_size", NULL, "hidden_size" },
        { "hidden_size", "4095", "no multiple" },
        { "hidden_size", "2147483648", "outside" },
        { "num_hidden_layers", "513", "513" },
        { "num_key_value_heads", "5", "no multiple" },
        { "num_key_value_heads", "64", "no multiple" },
        { "head_dim", "127", "pairs" },
        { "vocab_size", "0", "outside" },
        { "rms_norm_eps", "0", "epsilon" },
        { "rms_norm_eps", "-1e-5", "rms_norm_eps" },
        { "rope_theta", "0", "rope_theta" },
        { "rope_scaling", "{\"rope_type\":\"yarn\",\"factor\":8}", "yarn" },
        { "rope_scaling", "{\"rope_type\":\"dynamic\",\"factor\":8}", "dynamic" },
        { "rope_scaling", "{\"rope_type\":\"linear\"}", "factor" },
        { "rope_scaling", "{\"rope_type\":\"linear\",\"factor\":0.5}", "factor" },
        { "rope_scaling",
          "{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,"
          "\"high_freq_factor\":4,\"original_max_position_embeddings\":8192}",
          "low" },
        { "rope_scaling",
          "{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,"
          "\"high_freq_factor\":4}",
          "original_max_position_embeddings" },
        { "tie_word_embeddings", "\"false\"", "tie_word_embeddings" },
        { "torch_dtype", "\"float8\"", "float8" },
        { "bos_token_id", "128256", "bos_token_id" },
        { "eos_token_id", "128256", "128256" },
        { "eos_token_id", "[1,\"2\"]", "eos_token_id" },
        { "eos_token_id", "[1,2,3,4,5,6,7,8,9]", "at most" },
    };
    struct err e = { 0 };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct hparams h = { .dim = -5 };
        json_t *j = with(row[i].key, row[i].value);

        if (!hparams_from_config(&h, j, "file", &e))
            fail_msg("accepted: %s %s", row[i].key, row[i].value ? row[i].value : "removed");
        if (!strstr(e.msg, row[i].says) || strncmp(e.msg, "file: ", 6))
            fail_msg("%s: \"%s\" does not say \"%s\"", row[i].key, e.msg, row[i].says);
        assert_int_equal(h.dim, -5); /* untouched */
        json_decref(j);
    }
}

static void meta_params(void **state)
{
    static const struct {
        const char *text;
        int64_t ffn;
    } row[] = {
        { "{\"dim\":4096,\"n_layers\":32,\"n_heads\":32,\"n_kv_heads\":8,\"ffn_dim_multiplier\":1."
          "3,"
          "\"multiple_of\":1024,\"vocab_size\":128256,\"norm_eps\":1e-05,\"rope_theta\":500000.0,"
          "\"use_scaled_rope\":true}",
          14336 },
        { "{\"dim\":8192,\"n_layers\":80,\"n_heads\":64,\"n_kv_heads\":8,\"ffn_dim_multiplier\":1."
          "3,"
          "\"multiple_of\":4096,\"vocab_size\":128256,\"use_scaled_rope\":true,"
          "\"rope_theta\":500000.0}",
          28672 },
        { "{\"model\":{\"dim\":16384,\"n_layers\":126,\"n_heads\":128,\"n_kv_heads\":8,"
          "\"ffn_dim_multiplier\":1.2,\"multiple_of\":4096,\"vocab_size\":128256,"
          "\"use_scaled_rope\":true,\"rope_theta\":500000.0}}",
          53248 },
    };
    struct err e = { 0 };
    struct hparams h;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        json_t *j = parse(row[i].text);

        OK(hparams_from_params(&h, j, "t", &e), e);
        assert_int_equal(h.ffn, row[i].ffn);
        assert_int_equal(h.head_dim, 128);
        assert_true(h.rope.interleaved && h.rope.type == ROPE_LLAMA3 && h.ctx == 131072);
        json_decref(j);
    }
    json_t *j = parse("{\"dim\":8,\"n_layers\":1,\"n_heads\":2,\"vocab_size\":-1}");

    assert_int_equal(hparams_from_params(&h, j, "t", &e), -1);
    assert_non_null(strstr(e.msg, "vocab_size"));
    json_decref(j);
}

static void generation(void **state)
{
    static const char *const bad[] = {
        "{\"temperature\":-1}",     "{\"top_p\":2}",
        "{\"top_k\":-1}",           "{\"min_p\":1.5}",
        "{\"top_k\":1.5}",          "{\"do_sample\":1}",
        "{\"max_length\":0}",       "{\"eos_token_id\":\"x\"}",
        "{\"eos_token_id\":-1}",    "{\"repetition_penalty\":0}",
        "{\"max_new_tokens\":1e3}", "[]",
    };
    struct err e = { 0 };
    struct gen_defaults d;
    json_t *j =
        parse("{\"do_sample\":true,\"temperature\":0.6,\"top_p\":0.9,\"eos_token_id\":128001,"
              "\"max_length\":4096,\"transformers_version\":\"4.42.3\"}");

    (void)state;
    OK(gen_defaults_read(&d, j, "t", &e), e);
    assert_true(d.has_sample && d.sample && d.has_temperature && d.temperature == 0.6);
    assert_true(d.has_top_p && !d.has_top_k && !d.has_min_p && !d.has_repetition);
    assert_int_equal(d.n_eos, 1);
    assert_int_equal(d.eos[0], 128001);
    assert_int_equal(d.max_new_tokens, 0);
    json_decref(j);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        j = parse(bad[i]);
        if (!gen_defaults_read(&d, j, "t", &e))
            fail_msg("accepted: %s", bad[i]);
        json_decref(j);
    }
}

static void from_gguf(void **state)
{
    struct err e = { 0 };
    struct gguf_build b;
    struct buf file;
    struct gguf *g;
    struct hparams h;

    (void)state;
    gguf_begin(&b);
    gguf_tiny_meta(&b);
    gguf_u32(&b, "tokenizer.ggml.eot_token_id", 3);
    gguf_u32(&b, "tokenizer.ggml.eom_token_id", 5); /* eos again */
    gguf_tiny_tensors(&b);
    gguf_done(&b, &file);
    OK(gguf_open_mem(&g, file.p, file.len, "t", &e), e);
    OK(hparams_from_gguf(&h, g, &e), e);
    assert_true(h.dim == 8 && h.ffn == 16 && h.layers == 1 && h.heads == 2 && h.kv_heads == 1);
    assert_true(h.head_dim == 4 && h.ctx == 512 && h.vocab == 6 && h.tied && h.rope.interleaved);
    assert_true(h.n_eos == 2 && h.eos[0] == 5 && h.eos[1] == 3 && h.bos == 4);
    assert_int_equal(h.dtype, ENC_F16);
    assert_string_equal(h.arch, "llama");
    gguf_close(g);
    buf_release(&file);
}

static void wrong_gguf(void **state)
{
    static const struct {
        const char *key;
        uint32_t value;
        const char *says;
    } row[] = {
        { "llama.expert_count", 8, "experts" },
        { "llama.rope.dimension_count", 2, "dimension_count" },
        { "llama.attention.key_length", 3, "pairs" },
        { "llama.attention.value_length", 8, "values of 8" },
        { "llama.vocab_size", 5, "6 tokens" },
        { "tokenizer.ggml.eot_token_id", 6, "eot_token_id" },
        { "llama.rope.scale_linear", 2, "not a float" },
    };
    struct err e = { 0 };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct gguf_build b;
        struct buf file;
        struct gguf *g;
        struct hparams h;

        gguf_begin(&b);
        gguf_tiny_meta(&b);
        gguf_u32(&b, row[i].key, row[i].value);
        gguf_done(&b, &file);
        OK(gguf_open_mem(&g, file.p, file.len, "t", &e), e);
        if (!hparams_from_gguf(&h, g, &e))
            fail_msg("accepted: %s", row[i].key);
        if (!strstr(e.msg, row[i].says))
            fail_msg("%s: \"%s\" does not say \"%s\"", row[i].key, e.msg, row[i].says);
        gguf_close(g);
        buf_release(&file);
    }
}

TEST_MAIN(cmocka_unit_test(both_spellings_agree), cmocka_unit_test(defaults),
          cmocka_unit_test(one_wrong_field), cmocka_unit_test(meta_params),
          cmocka_unit_test(generation), cmocka_unit_test(from_gguf), cmocka_unit_test(wrong_gguf))
