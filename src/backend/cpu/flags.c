/* flags.c - what this CPU and its operating system allow. */
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "backend/cpu/cpu.h"
#include "backend/cpu/kern.h"

#if defined(__x86_64__)
#include <cpuid.h>

enum { YMM = 0x6, ZMM = 0xE6, TILES = 3 << 17 }; /* register states, as bits of XCR0 */
enum word { C1, B7, C7, D7, A71, WORDS };        /* register and leaf of cpuid */

/* What each instruction set consists of, lowest set first. */
static const struct feature {
    enum cpu_flag set;
    enum word word;
    unsigned bit;
    const char *name;
} features[] = {
    { CPU_AVX2, C1, bit_AVX, "AVX" },
    { CPU_AVX2, C1, bit_FMA, "FMA" },
    { CPU_AVX2, C1, bit_F16C, "F16C" },
    { CPU_AVX2, B7, bit_AVX2, "AVX2" },
    { CPU_AVX2, B7, bit_BMI2, "BMI2" },
    { CPU_AVX512, B7, bit_AVX512F, "AVX-512F" },
    { CPU_AVX512, B7, bit_AVX512BW, "AVX-512BW" },
    { CPU_AVX512, B7, bit_AVX512DQ, "AVX-512DQ" },
    { CPU_AVX512, B7, bit_AVX512VL, "AVX-512VL" },
    { CPU_AVX512, C7, bit_AVX512VNNI, "AVX-512 VNNI" },
    { CPU_AVX512_BF16, A71, bit_AVX512BF16, "AVX-512 BF16" },
    { CPU_AVX512_BF16, C7, bit_AVX512VBMI, "AVX-512 VBMI" },
    { CPU_AMX, D7, bit_AMX_TILE, "AMX-TILE" },
    { CPU_AMX, D7, bit_AMX_BF16, "AMX-BF16" },
    { CPU_AMX, D7, bit_AMX_INT8, "AMX-INT8" },
};

static void read_cpuid(uint32_t w[WORDS])
{
    uint32_t a, b, d, top;

    memset(w, 0, WORDS * sizeof(*w));
    if (!__get_cpuid(1, &a, &b, &w[C1], &d))
        return;
    if (__get_cpuid_count(7, 0, &top, &w[B7], &w[C7], &w[D7]) && top >= 1)
        __get_cpuid_count(7, 1, &w[A71], &b, &a, &d);
}

/* The register states that the kernel saves on a switch (XCR0). */
static uint64_t saved_states(const uint32_t w[WORDS])
{
    uint32_t lo, hi;

    if (!(w[C1] & bit_OSXSAVE))
        return 0;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

static bool os_allows(enum cpu_flag set, const uint32_t w[WORDS])
{
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18 };
    const uint64_t want = set == CPU_AVX2 ? YMM : set == CPU_AMX ? ZMM | TILES : ZMM;

    if ((saved_states(w) & want) != want)
        return false;
    return set != CPU_AMX || !syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA);
}

enum cpu_state cpu_set_state(enum cpu_flag set, const char **lacks)
{
    uint32_t w[WORDS];

    read_cpuid(w);
    for (size_t i = 0; i < ARRAY_LEN(features); i++) {
        const struct feature *f = &features[i];

        if (f->set <= set && !(w[f->word] & f->bit)) {
            *lacks = f->name;
            return CPU_LACKS;
        }
    }
    *lacks = NULL;
    return os_allows(set, w) ? CPU_HAS : CPU_OS_OFF;
}
#else
enum cpu_state cpu_set_state(enum cpu_flag set, const char **lacks)
{
    (void)set;
    *lacks = "x86-64";
    return CPU_LACKS;
}
#endif

unsigned cpu_flags(void)
{
    const char *lacks;
    unsigned flags = 0;

    for (unsigned set = CPU_AVX2; set <= CPU_AMX; set <<= 1) {
        if (cpu_set_state((enum cpu_flag)set, &lacks) != CPU_HAS)
            break;
        flags |= set;
    }
    return flags;
}

/* Each level includes those before it. */
static const struct {
    const char *name;
    unsigned flags;
} level[] = {
    { "generic", 0 },
    { "avx2", CPU_AVX2 },
    { "avx512", CPU_AVX2 | CPU_AVX512 },
    { "avx512_bf16", CPU_AVX2 | CPU_AVX512 | CPU_AVX512_BF16 },
    { "amx", CPU_AVX2 | CPU_AVX512 | CPU_AVX512_BF16 | CPU_AMX },
};

const char *cpu_flags_name(unsigned flags)
{
    const char *name = level[0].name;

    for (size_t i = 1; i < ARRAY_LEN(level); i++)
        if ((flags & level[i].flags) == level[i].flags)
            name = level[i].name;
    return name;
}

int cpu_flags_from_name(const char *name, unsigned *flags)
{
    for (size_t i = 0; i < ARRAY_LEN(level); i++) {
        if (strcmp(name, level[i].name) == 0) {
            *flags = level[i].flags;
            return 0;
        }
    }
    return -1;
}

void cpu_kern_init(struct cpu_kern *k, unsigned flags)
{
    cpu_kern_generic(k);
#if defined(__x86_64__)
    if (!(flags & CPU_AVX2))
        return;
    cpu_kern_avx2(k);
    cpu_kern_q8_avx2(k);
    cpu_kern_planes_avx2(k);
    cpu_kern_columns_avx2(k);
    cpu_kern_placed_avx2(k);
    cpu_kern_row_floats_avx2(k);
    cpu_kern_nf4_avx2(k);
    cpu_kern_exact_avx2(k);
    if (!(flags & CPU_AVX512))
        return;
    cpu_kern_avx512(k);
    cpu_kern_placed_avx512(k);
    cpu_kern_row_avx512(k);
    cpu_kern_columns_avx512(k);
    cpu_kern_row_floats_avx512(k);
    cpu_kern_exact_avx512(k);
    cpu_kern_nf4_avx512(k);
    if (!(flags & CPU_AVX512_BF16))
        return;
    cpu_kern_avx512_bf16(k);
    cpu_kern_linear_avx512_bf16(k);
    cpu_kern_exact_avx512_bf16(k);
    if (!(flags & CPU_AMX))
        return;
    cpu_kern_amx(k);
    cpu_kern_q8_amx(k);
    cpu_kern_attn_amx(k);
#else
    (void)flags;
#endif
}
