/* merge.c - `puna merge`: a model with a LoRA adapter built in. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/convert_int.h"
#include "cmd/opt.h"
#include "hub/models.h"

struct merge_cfg {
    const char *model, *adapter, *output, *outtype, *max_shard_size;
    bool json;
};

static const struct opt opts[] = {
    OPT(ARG, struct merge_cfg, model, NULL, "MODEL", NULL,
        "folder, GGUF file or short name of the base"),
    OPT(ARG, struct merge_cfg, adapter, NULL, "ADAPTER", NULL, "LoRA adapter as PEFT saves it"),
    OPT(STR, struct merge_cfg, output, "-o", "DIR", NULL, "folder to be made"),
    OPT(STR, struct merge_cfg, outtype, NULL, "auto|f32|f16|bf16", "auto",
        "encoding of the matrices; auto is the type of the base"),
    OPT(STR, struct merge_cfg, max_shard_size, NULL, "SIZE", "5GB",
        "largest safetensors file: bytes, or a number with MB or GB"),
    OPT(BOOL, struct merge_cfg, json, NULL, NULL, "false", "one JSON object on stdout"),
    { .name = NULL },
};

static int run(const void *cfg, struct err *e)
{
    const struct merge_cfg *c = cfg;
    struct conv v = { .adapter = c->adapter, .outtype = enc_from_name(c->outtype) };
    char *src;
    int rc;

    if (!c->output)
        return err_set(e, ERR_USAGE, "-o DIR is needed");
    if (conv_parse_size(&v.max_shard, c->max_shard_size, e) || hub_resolve(c->model, &src, e))
        return -1;
    v.src = src;
    v.dst = c->output;
    rc = conv_run(&v, e);
    if (rc == 0 && v.lora && peft_warning(v.lora->peft))
        fprintf(stderr, "warning: %s\n", peft_warning(v.lora->peft));
    if (rc == 0 && checkpoint_hparams(v.c)->quant.method != QUANT_NONE)
        fprintf(stderr, "merged into the dequantised weights of the %s base\n",
                quant_method_name(checkpoint_hparams(v.c)->quant.method));
    if (rc == 0 && c->json)
        conv_print_json(&v);
    conv_release(&v);
    free(src);
    return rc;
}

const struct cmd cmd_merge = {
    .name = "merge",
    .summary = "build a LoRA adapter into its model",
    .usage = "MODEL ADAPTER -o DIR",
    .help =
        "Writes a Hugging Face folder whose matrices are W + scale * B A, computed in float32 and\n"
        "rounded once. A quantised base is dequantised first: the merged model is a plain one.\n"
        "\n"
        "DIR appears only when it is complete; the same command goes on after an interruption.\n"
        "\n"
        "EXAMPLES\n"
        "    puna merge Llama-3.1-8B-Instruct/ adapter/ -o merged/\n",
    .opts = opts,
    .cfg_size = sizeof(struct merge_cfg),
    .run = run,
};
