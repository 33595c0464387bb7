/* Any bytes as quantization_config and as bitsandbytes' quant_state: what is accepted is in range.
 * seeds: tests/data/quantised/gptq/quantize_config.json
 * tests/data/quantised/awq/quantize_config.json */
#include "base/json.h"
#include "format/quant.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err e = { 0 };
    struct bnb_state s;
    struct quant q;
    json_t *j;

    if (bnb_state_read(&s, data, size, "fuzz", &e) == 0 &&
        (s.block < 1 || s.nested_block < 0 ||
         (s.dtype != ENC_BF16 && s.dtype != ENC_F16 && s.dtype != ENC_F32)))
        __builtin_trap();
    if (json_parse(&j, (const char *)data, size, "fuzz", &e))
        return 0;
    if (quant_read(&q, j, "fuzz", &e) == 0 &&
        (q.method == QUANT_NONE || !(q.act_bound > 0) || !(q.threshold > 0) ||
         ((q.method == QUANT_GPTQ || q.method == QUANT_AWQ) &&
          ((q.bits != 4 && q.bits != 8) || q.group == 0))))
        __builtin_trap();
    json_decref(j);
    return 0;
}
