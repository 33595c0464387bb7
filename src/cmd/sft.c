/* sft.c - `puna sft`: supervised fine-tuning. */
#include "cmd/train_int.h"

static const struct opt opts[] = {
    TRAIN_OPTS("2e-5"),
    TRAIN_OPT(STR, dataset_text_field, NULL, "NAME", "text", "column of plain text"),
    TRAIN_OPT(BOOL, packing, NULL, NULL, "false",
              "lay rows together up to --max-length; none sees another"),
    TRAIN_OPT(BOOL, assistant_only_loss, NULL, NULL, "false",
              "of a chat, train on the assistant's turns alone"),
    TRAIN_OPT(BOOL, completion_only_loss, NULL, NULL, "true",
              "of prompt and completion, train on the completion alone"),
    TRAIN_OPT(STR, loss_type, NULL, "nll|dft", "nll",
              "dft: a token counts by its probability (arXiv:2508.05629)", .rare = true),
    TRAIN_RANGE(NUM, label_smoothing_factor, NULL, "X", "0", 0, 0.99,
                "share of a label that goes to all tokens alike", .rare = true),
    { .name = NULL },
};

static int run(const void *cfg, struct err *e)
{
    return train_command(TASK_SFT, cfg, e);
}

const struct cmd cmd_sft = {
    .name = "sft",
    .summary = "fine-tune a model on examples",
    .usage = "MODEL --train-file FILE -o DIR [options]",
    .help =
        "Trains a LoRA adapter (--use-peft) or a whole model on rows of text, chats, prompts with\n"
        "completions, or token ids. Options have TRL's names; the same seed gives the same bits.\n"
        "\n"
        "EXAMPLES\n"
        "    puna sft smollm2:135m --train-file chats.jsonl -o out --use-peft --packing\n"
        "    puna sft model/ --train-file rows.jsonl -o out --learning-rate 1e-5\n",
    .opts = opts,
    .cfg_size = sizeof(struct train_opts),
    .run = run,
};
