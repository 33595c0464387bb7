/* k_scales.h - the eight 6-bit scales and minima that q4_k and q5_k pack into 12 bytes. */
#ifndef PUNA_FORMAT_ENC_K_SCALES_H
#define PUNA_FORMAT_ENC_K_SCALES_H

#include "format/enc/floats.h"

enum { K_SCALES_BYTES = 12 };

/* Scale and minimum of sub-block j, 0..7. The first four lie in the low six bits of sc[j] and
 * sc[j + 4]; the others have four bits in sc[8..11] and two on top of the first ones. */
HD static inline void k_scales_get(const uint8_t *sc, int j, unsigned *scale, unsigned *min)
{
    if (j < 4) {
        *scale = sc[j] & 63u;
        *min = sc[j + 4] & 63u;
    } else {
        *scale = (sc[j + 4] & 15u) | (unsigned)sc[j - 4] >> 6 << 4;
        *min = (unsigned)sc[j + 4] >> 4 | (unsigned)sc[j] >> 6 << 4;
    }
}

#endif
