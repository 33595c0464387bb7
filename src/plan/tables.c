/* tables.c - published models, devices and schemes by name. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/buf.h"
#include "plan/plan.h"

static const struct plan_model models[] = {
#define MODEL(k, n, V, D, F, L, H, K, hd, max, tie)                                                \
    { k,                                                                                           \
      n,                                                                                           \
      { .vocab = V,                                                                                \
        .dim = D,                                                                                  \
        .ffn = F,                                                                                  \
        .layers = L,                                                                               \
        .heads = H,                                                                                \
        .kv_heads = K,                                                                             \
        .head_dim = hd,                                                                            \
        .ctx = max,                                                                                \
        .tied = tie,                                                                               \
        .dtype = ENC_BF16,                                                                         \
        .arch = "llama" } },
#include "plan/models.def"
#undef MODEL
};

static const struct {
    const char *key, *name;
    unsigned mib, gb_per_s;
} devices[] = {
#define DEVICE(key, name, mib, gb_per_s) { key, name, mib, gb_per_s },
#include "plan/devices.def"
#undef DEVICE
};

const struct scheme_info scheme_table[SCHEME_COUNT] = {
#define SCHEME(id, name, alias, what) [SCHEME_##id] = { name, alias, what },
#include "plan/schemes.def"
#undef SCHEME
};

const struct plan_model *plan_models(size_t *n)
{
    *n = ARRAY_LEN(models);
    return models;
}

const struct plan_model *plan_model_find(const char *key)
{
    for (size_t i = 0; i < ARRAY_LEN(models); i++)
        if (!strcasecmp(models[i].key, key))
            return &models[i];
    return NULL;
}

static int unknown_device(const char *key, struct err *e)
{
    struct buf b;

    buf_init(&b, 512);
    for (size_t i = 0; i < ARRAY_LEN(devices); i++)
        buf_addf(&b, "%s%s", i ? ", " : "", devices[i].key);
    err_set(e, ERR_USAGE,
            "no device '%.60s': cpu, %s are known, a number of them is written h100x8", key, b.p);
    buf_release(&b);
    return -1;
}

int plan_device_find(struct plan_device *out, const char *key, struct err *e)
{
    for (size_t i = 0; i < ARRAY_LEN(devices); i++) {
        const size_t n = strlen(devices[i].key);
        const char *tail = key + n;
        long count = 1;

        if (strncasecmp(key, devices[i].key, n))
            continue;
        if (*tail == 'x' || *tail == 'X') {
            char *end;

            count = tail[1] >= '0' && tail[1] <= '9' ? strtol(tail + 1, &end, 10) : 0;
            if (count < 1 || count > 65536 || *end)
                continue;
        } else if (*tail) {
            continue;
        }
        *out = (struct plan_device){ .count = (int)count,
                                     .memory = (size_t)devices[i].mib << 20,
                                     .bandwidth = devices[i].gb_per_s * 1e9 };
        snprintf(out->key, sizeof(out->key), "%s", key);
        snprintf(out->name, sizeof(out->name), count > 1 ? "%2$ld x %1$s" : "%1$s", devices[i].name,
                 count);
        return 0;
    }
    return unknown_device(key, e);
}

int scheme_from_name(const char *name)
{
    const size_t n = strlen(name);

    for (int s = 0; s < SCHEME_COUNT; s++) {
        if (!strcasecmp(scheme_table[s].name, name))
            return s;
        for (const char *p = scheme_table[s].alias; p && n; p = strchr(p, ','), p = p ? p + 1 : p)
            if (!strncasecmp(p, name, n) && (p[n] == ',' || !p[n]))
                return s;
    }
    return -1;
}
