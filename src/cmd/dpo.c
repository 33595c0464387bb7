/* dpo.c - `puna dpo`: training on pairs of a better and a worse answer. */
#include "cmd/train_int.h"

static const struct opt opts[] = {
    TRAIN_OPTS("1e-6"),
    TRAIN_RANGE(NUM, beta, NULL, "X", "0.1", 1e-9, 1e6, "how far the model may go"),
    TRAIN_OPT(STR, loss_type, NULL, "NAME", "sigmoid",
              "sigmoid, sigmoid_norm, hinge, ipo, robust, apo_zero, orpo, simpo"),
    TRAIN_RANGE(NUM, label_smoothing, NULL, "X", "0", 0, 0.4999, "share of pairs that are wrong"),
    TRAIN_RANGE(NUM, simpo_gamma, NULL, "X", "0.5", 0, 1e6, "SimPO's margin"),
    { .name = NULL },
};

static int run(const void *cfg, struct err *e)
{
    return train_command(TASK_DPO, cfg, e);
}

const struct cmd cmd_dpo = {
    .name = "dpo",
    .summary = "train on pairs of a better and a worse answer",
    .usage = "MODEL --train-file FILE -o DIR [options]",
    .help =
        "Direct preference optimisation: rows of prompt, chosen and rejected. The reference is\n"
        "the model before training; its probabilities are computed once for each answer.\n"
        "\n"
        "EXAMPLES\n"
        "    puna dpo smollm2:135m --train-file pairs.jsonl -o out --use-peft --beta 0.1\n",
    .opts = opts,
    .cfg_size = sizeof(struct train_opts),
    .run = run,
};
