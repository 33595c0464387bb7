/* Models on disk: folders and GGUF files, found by the same names, refused when anything is off. */
#include "format/checkpoint.h"

#include <math.h>
#include <sys/stat.h>

#include "build.h"
#include "format/sha256sums.h"
#include "format/st_write.h"
#include "support.h"

static const char config[] =
    "{\"model_type\":\"llama\",\"hidden_size\":8,\"intermediate_size\":16,\"num_hidden_layers\":1,"
    "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"vocab_size\":6,"
    "\"max_position_embeddings\":64,\"rms_norm_eps\":1e-5,\"eos_token_id\":5%s}";

#define VEC(name_, n) { .name = name_, .enc = ENC_F32, .ndim = 1, .shape = { n } }
#define MAT(name_, rows, cols) { .name = name_, .enc = ENC_F32, .ndim = 2, .shape = { rows, cols } }

/* A model of one layer, every weight 1. */
static const struct tensor_view tiny[] = {
    MAT("model.embed_tokens.weight", 6, 8),
    MAT("lm_head.weight", 6, 8),
    VEC("model.norm.weight", 8),
    VEC("model.layers.0.input_layernorm.weight", 8),
    VEC("model.layers.0.post_attention_layernorm.weight", 8),
    MAT("model.layers.0.self_attn.q_proj.weight", 8, 8),
    MAT("model.layers.0.self_attn.k_proj.weight", 4, 8),
    MAT("model.layers.0.self_attn.v_proj.weight", 4, 8),
    MAT("model.layers.0.self_attn.o_proj.weight", 8, 8),
    MAT("model.layers.0.mlp.gate_proj.weight", 16, 8),
    MAT("model.layers.0.mlp.up_proj.weight", 16, 8),
    MAT("model.layers.0.mlp.down_proj.weight", 8, 16),
};

enum { TINY = ARRAY_LEN(tiny), Q_PROJ = 5 };

static void write_tensors(const char *dir, const char *name, const struct tensor_view *t, size_t n,
                          float fill)
{
    struct st_writer w;
    struct err e = { 0 };
    char path[256];

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    OK(st_write_open(&w, path, t, n, NULL, &e), e);
    for (size_t i = 0; i < n; i++) {
        const uint64_t values = t[i].shape[0] * (t[i].ndim > 1 ? t[i].shape[1] : 1);

        for (uint64_t k = 0; k < values; k++) {
            const float v = i == Q_PROJ && k == 3 ? fill : 1;

            OK(st_write_data(&w, &v, enc_table[t[i].enc].bytes, &e), e);
        }
    }
    OK(st_write_close(&w, &e), e);
}

static void write_text(const char *dir, const char *name, const char *text)
{
    write_file(dir, name, text, strlen(text));
}

static void write_config(const char *dir, const char *more)
{
    char text[1024];

    snprintf(text, sizeof(text), config, more);
    write_text(dir, "config.json", text);
}

static void write_model(const char *dir)
{
    write_config(dir, "");
    write_tensors(dir, "model.safetensors", tiny, TINY, 1);
}

static int open_and_check(const void *arg, struct err *e)
{
    struct checkpoint *c;

    if (checkpoint_open(&c, arg, e))
        return -1;
    const int rc = checkpoint_check(c, e) || checkpoint_check_values(c, e) ? -1 : 0;

    checkpoint_close(c);
    return rc;
}

static void refused(const char *path, const char *says)
{
    struct err e = { 0 };

    if (!open_and_check(path, &e))
        fail_msg("accepted, though %s", says);
    if (!strstr(e.msg, says))
        fail_msg("\"%s\" does not say \"%s\"", e.msg, says);
}

static void sharded_folder(void **state)
{
    const char *path = data_path("tiny-llama31");
    struct err e = { 0 };
    struct checkpoint *c;

    (void)state;
    OK(checkpoint_open(&c, path, &e), e);
    OK(checkpoint_check(c, &e), e);
    OK(checkpoint_check_values(c, &e), e);
    assert_int_equal(checkpoint_tensors(c), 39);
    assert_int_equal(checkpoint_bytes(c), 7082496);
    assert_string_equal(checkpoint_path(c), path);
    assert_null(checkpoint_gguf(c));
    assert_null(checkpoint_warning(c));
    const struct tensor_view *t = checkpoint_find(c, "model.layers.3.mlp.down_proj.weight");

    assert_int_equal(t->shape[0], 256);
    assert_int_equal(t->shape[1], 768);
    assert_int_equal(t->enc, ENC_BF16);
    assert_null(checkpoint_find(c, "model.layers.4.mlp.down_proj.weight"));
    assert_int_equal(checkpoint_gen_defaults(c)->n_eos, 3);
    assert_true(checkpoint_gen_defaults(c)->temperature == 0.6);
    checkpoint_close(c);
    walk_faults(open_and_check, path);
}

static void gguf_by_the_same_names(void **state)
{
    const char *dir = folder_new();
    struct err e = { 0 };
    struct gguf_build b;
    struct buf file;
    struct checkpoint *c;

    (void)state;
    gguf_begin(&b);
    gguf_tiny_meta(&b);
    gguf_tiny_tensors(&b);
    gguf_add(&b, "rope_freqs.weight", 0, 0, 2, 8);
    gguf_done(&b, &file);
    write_file(dir, "m.gguf", file.p, file.len);
    OK(checkpoint_open(&c, dir, &e), e); /* a folder that holds one */
    OK(checkpoint_check(c, &e), e);
    assert_non_null(checkpoint_gguf(c));
    assert_int_equal(checkpoint_find(c, "model.embed_tokens.weight")->shape[0], 6);
    assert_int_equal(checkpoint_find(c, "model.norm.weight")->shape[0], 8);
    assert_int_equal(checkpoint_find(c, "model.layers.0.mlp.down_proj.weight")->shape[1], 16);
    assert_string_equal(checkpoint_find(c, "model.layers.0.self_attn.o_proj.weight")->name,
                        "blk.0.attn_output.weight");
    assert_string_equal(checkpoint_find(c, "rope_freqs.weight")->name, "rope_freqs.weight");
    assert_null(checkpoint_find(c, "lm_head.weight"));
    assert_null(checkpoint_find(c, "model.layers.00.mlp.up_proj.weight"));
    assert_null(checkpoint_find(c, "model.layers..mlp.up_proj.weight"));
    assert_null(checkpoint_find(c, "model.layers.1.mlp.up_proj.weight"));
    checkpoint_close(c);
    walk_faults(open_and_check, dir);
    write_file(dir, "n.gguf", file.p, file.len);
    refused(dir, "name one of them");
    buf_release(&file);
    folder_remove(dir);
}

static void what_has_no_place(void **state)
{
    static const struct {
        struct tensor_view t;
        const char *says;
    } row[] = {
        { VEC("model.layers.1.mlp.up_proj.weight", 1), "belongs to layer 1" },
        { VEC("model.layers.0.self_attn.q_proj.bias", 8), "no place" },
        { VEC("model.layers.0.self_attn.q_norm.weight", 4), "no place" },
    };
    const char *dir = folder_new();
    struct tensor_view t[TINY + 1];
    struct err e = { 0 };

    (void)state;
    memcpy(t, tiny, sizeof(tiny));
    write_model(dir);
    OK(open_and_check(dir, &e), e);
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        t[TINY] = row[i].t;
        write_tensors(dir, "model.safetensors", t, TINY + 1, 1);
        refused(dir, row[i].says);
    }
    /* what old converters add is known and harmless */
    t[TINY].name = "model.layers.0.self_attn.rotary_emb.inv_freq";
    write_tensors(dir, "model.safetensors", t, TINY + 1, 1);
    OK(open_and_check(dir, &e), e);
    folder_remove(dir);
}

static void what_is_missing_or_wrong(void **state)
{
    const char *dir = folder_new();
    struct tensor_view t[TINY];
    struct err e = { 0 };

    (void)state;
    refused(dir, "no model.safetensors");
    write_model(dir);
    write_tensors(dir, "model.safetensors", tiny, TINY - 1, 1);
    refused(dir, "down_proj.weight is missing");
    for (size_t i = 0; i < TINY; i++) {
        memcpy(t, tiny, sizeof(tiny));
        t[i].shape[0]++;
        write_tensors(dir, "model.safetensors", t, TINY, 1);
        refused(dir, tiny[i].name);
        t[i] = tiny[i];
        t[i].enc = ENC_I32;
        write_tensors(dir, "model.safetensors", t, TINY, 1);
        refused(dir, "holds no weights");
    }
    /* the head may be absent when it is the embedding */
    memcpy(t, tiny, sizeof(tiny));
    t[1] = t[TINY - 1];
    write_tensors(dir, "model.safetensors", t, TINY - 1, 1);
    refused(dir, "lm_head");
    write_config(dir, ",\"tie_word_embeddings\":true");
    OK(open_and_check(dir, &e), e);
    folder_remove(dir);
}

static void bad_values(void **state)
{
    const char *dir = folder_new();
    struct err e = { 0 };

    (void)state;
    write_config(dir, "");
    write_tensors(dir, "model.safetensors", tiny, TINY, NAN);
    refused(dir, "q_proj.weight: value 3 is not a number");
    write_tensors(dir, "model.safetensors", tiny, TINY, -INFINITY);
    refused(dir, "value 3 is infinite");
    write_tensors(dir, "model.safetensors", tiny, TINY, 3e38f);
    refused(dir, "overflow");
    write_tensors(dir, "model.safetensors", tiny, TINY, 1e-42f);
    OK(open_and_check(dir, &e), e);
    folder_remove(dir);
}

static void index_stays_in_its_folder(void **state)
{
    static const char *const bad[] = {
        "\"../model.safetensors\"", "\"/etc/passwd\"", "\"a/b.safetensors\"", "\"\"", "7", "null",
        "\"..\"", "\".safetensors\"", "\"model.bin\"", "\"m.safetensors\\u0000.safetensors\"",
        "\"a\\\\b.safetensors\"",
    };
    const char *dir = folder_new();
    char text[256];
    struct err e = { 0 };

    (void)state;
    write_config(dir, "");
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        snprintf(text, sizeof(text), "{\"weight_map\":{\"lm_head.weight\":%s}}", bad[i]);
        write_text(dir, "model.safetensors.index.json", text);
        refused(dir, "not the name of a safetensors file");
    }
    write_text(dir, "model.safetensors.index.json", "{\"weight_map\":{}}");
    refused(dir, "missing or empty");
    write_text(dir, "model.safetensors.index.json", "[]");
    refused(dir, "missing or empty");

    write_tensors(dir, "one.safetensors", tiny, 2, 1);
    write_tensors(dir, "two.safetensors", tiny + 2, TINY - 2, 1);
    write_text(dir, "model.safetensors.index.json",
               "{\"weight_map\":{\"lm_head.weight\":\"one.safetensors\","
               "\"model.norm.weight\":\"two.safetensors\"}}");
    OK(open_and_check(dir, &e), e);
    write_text(dir, "model.safetensors.index.json",
               "{\"weight_map\":{\"lm_head.weight\":\"two.safetensors\","
               "\"model.norm.weight\":\"two.safetensors\"}}");
    refused(dir, "lm_head.weight is not in two.safetensors");
    write_text(dir, "model.safetensors.index.json",
               "{\"weight_map\":{\"lm_head.weight\":\"three.safetensors\"}}");
    refused(dir, "three.safetensors");
    write_tensors(dir, "three.safetensors", tiny, 1, 1);
    write_text(dir, "model.safetensors.index.json",
               "{\"weight_map\":{\"lm_head.weight\":\"one.safetensors\","
               "\"model.embed_tokens.weight\":\"three.safetensors\"}}");
    refused(dir, "in two files");
    folder_remove(dir);
}

static void sums_are_verified(void **state)
{
    const char *dir = folder_new();
    struct err e = { 0 };
    char hex[65], text[512], path[128];
    FILE *f;

    (void)state;
    OK(sha256_hex(hex, "abc", 3, &e), e); /* FIPS 180-2, appendix B.1 */
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    write_model(dir);
    snprintf(path, sizeof(path), "%s/config.json", dir);
    f = fopen(path, "rb");
    const size_t n = fread(text, 1, sizeof(text), f);

    fclose(f);
    OK(sha256_hex(hex, text, n, &e), e);
    snprintf(text, sizeof(text), "%s *config.json\n%s  absent.txt\n%s  ../elsewhere\n", hex, hex,
             hex);
    write_text(dir, "SHA256SUMS", text);
    OK(open_and_check(dir, &e), e);
    walk_faults(open_and_check, dir);
    snprintf(text, sizeof(text), "%s  ./model.safetensors\n", hex);
    write_text(dir, "SHA256SUMS", text);
    refused(dir, "the file is damaged");
    write_text(dir, "SHA256SUMS", "config.json: OK\n");
    refused(dir, "not what sha256sum writes");
    write_file(dir, "SHA256SUMS", "#\0\n", 3);
    refused(dir, "not a text file");
    folder_remove(dir);
}

static void code_is_never_run(void **state)
{
    const char *dir = folder_new();
    struct err e = { 0 };
    struct checkpoint *c;

    (void)state;
    write_model(dir);
    write_config(dir, ",\"auto_map\":{\"AutoModel\":\"modeling.py\"}");
    OK(checkpoint_open(&c, dir, &e), e);
    assert_non_null(strstr(checkpoint_warning(c), "auto_map"));
    checkpoint_close(c);
    write_config(dir, "");
    write_text(dir, "modeling.py", "raise SystemExit\n");
    OK(checkpoint_open(&c, dir, &e), e);
    assert_non_null(strstr(checkpoint_warning(c), "Python"));
    checkpoint_close(c);
    folder_remove(dir);
}

/* Early copies of Llama 3.1 lost their rope scaling: they run, and go wrong on long prompts. */
static void lost_rope_scaling_is_said(void **state)
{
    const char *dir = folder_new();
    struct err e = { 0 };
    struct checkpoint *c;

    (void)state;
    write_model(dir);
    write_text(dir, "config.json",
               "{\"model_type\":\"llama\",\"hidden_size\":8,\"intermediate_size\":16,"
               "\"num_hidden_layers\":1,\"num_attention_heads\":2,\"num_key_value_heads\":1,"
               "\"vocab_size\":6,\"max_position_embeddings\":131072,\"rope_theta\":500000.0,"
               "\"rope_scaling\":null}");
    write_text(dir, "x.py", "");
    OK(checkpoint_open(&c, dir, &e), e);
    assert_non_null(strstr(checkpoint_warning(c), "rope scaling"));
    assert_non_null(strstr(checkpoint_warning(c), "Python")); /* one line says both */
    checkpoint_close(c);
    folder_remove(dir);
}

static void bad_companions(void **state)
{
    const char *dir = folder_new();
    char path[128];

    (void)state;
    write_model(dir);
    write_text(dir, "generation_config.json", "{\"eos_token_id\":6}");
    refused(dir, "eos_token_id 6");
    write_text(dir, "generation_config.json", "{");
    refused(dir, "generation_config.json");
    write_text(dir, "generation_config.json", "{}");
    snprintf(path, sizeof(path), "%s/config.json", dir);
    assert_int_equal(unlink(path), 0);
    refused(dir, "config.json");
    assert_int_equal(mkfifo(path, 0600), 0); /* would block a reader that is not careful */
    refused(dir, "not a regular file");
    refused("/nonexistent", "/nonexistent");
    folder_remove(dir);
}

static void real_file(void **state)
{
    struct err e = { 0 };
    struct checkpoint *c;

    (void)state;
    OK(checkpoint_open(&c, smollm2_path(), &e), e);
    OK(checkpoint_check(c, &e), e);
    const struct hparams *h = checkpoint_hparams(c);

    assert_true(h->vocab == 49152 && h->dim == 576 && h->ffn == 1536 && h->layers == 30);
    assert_true(h->heads == 9 && h->kv_heads == 3 && h->head_dim == 64 && h->ctx == 8192);
    assert_true(h->tied && h->rope.theta == 100000 && h->rope.interleaved);
    checkpoint_close(c);
}

TEST_MAIN(cmocka_unit_test(sharded_folder), cmocka_unit_test(gguf_by_the_same_names),
          cmocka_unit_test(what_has_no_place), cmocka_unit_test(what_is_missing_or_wrong),
          cmocka_unit_test(bad_values), cmocka_unit_test(index_stays_in_its_folder),
          cmocka_unit_test(sums_are_verified), cmocka_unit_test(code_is_never_run),
          cmocka_unit_test(lost_rope_scaling_is_said),
          cmocka_unit_test(bad_companions), cmocka_unit_test(real_file))
