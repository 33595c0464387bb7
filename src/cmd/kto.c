/* kto.c - `puna kto`: training on answers that are good or bad. */
#include "cmd/train_int.h"

static const struct opt opts[] = {
    TRAIN_OPTS("1e-6"),
    TRAIN_RANGE(NUM, beta, NULL, "X", "0.1", 1e-9, 1e6, "how far the model may go"),
    TRAIN_RANGE(NUM, desirable_weight, NULL, "X", "1", 0, 1e6, "weight of good answers"),
    TRAIN_RANGE(NUM, undesirable_weight, NULL, "X", "1", 0, 1e6, "weight of bad answers"),
    { .name = NULL },
};

static int run(const void *cfg, struct err *e)
{
    return train_command(TASK_KTO, cfg, e);
}

const struct cmd cmd_kto = {
    .name = "kto",
    .summary = "train on answers that are good or bad",
    .usage = "MODEL --train-file FILE -o DIR [options]",
    .help = "Kahneman-Tversky optimisation: rows of prompt, completion and label (true or false);\n"
            "rows of prompt, chosen and rejected count as two.\n"
            "\n"
            "EXAMPLES\n"
            "    puna kto smollm2:135m --train-file judged.jsonl -o out --use-peft\n",
    .opts = opts,
    .cfg_size = sizeof(struct train_opts),
    .run = run,
};
