/* SPDX-License-Identifier: MIT
 *
 * The latency histogram that agent and collector share: base-2 exponential buckets of scale 5.
 *
 * Bucket i holds the values v with 2^(i/32) < v <= 2^((i+1)/32) ns, i in [0, HIST_BUCKETS); 0 and 1 ns lie in bucket 0,
 * what is above the last bucket lies in the last. A bucket is 2.2 % wide, so its middle is at most 1.1 % wrong.
 * Histograms merge by addition. The buckets are those of an OpenTelemetry exponential histogram and of a
 * Prometheus native histogram of schema 5: index i here is index i there.
 */
#ifndef SONDE_HIST_H
#define SONDE_HIST_H

#include <math.h>
#include <stdint.h>

enum {
	HIST_SCALE = 5,
	HIST_PER_OCTAVE = 1 << HIST_SCALE,
	HIST_OCTAVES = 44, /* up to 2^44 ns: 4.9 hours */
	HIST_BUCKETS = HIST_OCTAVES * HIST_PER_OCTAVE,
	HIST_COARSE_PER_OCTAVE = 2,
	HIST_COARSE_BUCKETS = HIST_OCTAVES * HIST_COARSE_PER_OCTAVE,
};

struct hist {
	uint64_t count;
	uint64_t sum_ns;
	uint64_t max_ns;
	uint64_t bucket[HIST_BUCKETS];
};

/** The bucket of @ns. Context: any. No floating point: 64 bits and two tables. */
static inline uint32_t hist_index(uint64_t ns)
{
	/* (2^(j/32) - 1) * 2^32, j = 1 .. 31: where the sub-buckets of an octave begin */
	static const uint32_t edge[31] = {
		0x59b0d31u,  0xb5586cfu,  0x11301d01u, 0x172b83c7u, 0x1d487316u, 0x2387a6e7u,
		0x29e9df51u, 0x306fe0a3u, 0x371a7373u, 0x3dea64c1u, 0x44e08606u, 0x4bfdad53u,
		0x5342b569u, 0x5ab07dd4u, 0x6247eb03u, 0x6a09e667u, 0x71f75e8eu, 0x7a11473eu,
		0x82589994u, 0x8ace5422u, 0x93737b0cu, 0x9c49182au, 0xa5503b23u, 0xae89f995u,
		0xb7f76f2fu, 0xc199bdd8u, 0xcb720dceu, 0xd5818dcfu, 0xdfc97337u, 0xea4afa2au,
		0xf50765b6u,
	};
	/* how many of them lie below i * 2^26: sub-buckets are wider than that, so at most one more is below a mantissa */
	static const uint8_t below[64] = {
		0,  0,  1,  2,  2,  3,  4,  4,  5,  6,  6,  7,  7,  8,  9,  9,
		10, 10, 11, 12, 12, 13, 13, 14, 14, 15, 15, 16, 16, 17, 17, 18,
		18, 19, 19, 20, 20, 21, 21, 21, 22, 22, 23, 23, 24, 24, 25, 25,
		25, 26, 26, 27, 27, 27, 28, 28, 29, 29, 29, 30, 30, 30, 31, 31,
	};
	uint32_t octave, low, mantissa;

	if (ns <= 1)
		return 0;
	octave = 63u - (uint32_t)__builtin_clzll(ns);
	if (octave >= HIST_OCTAVES)
		return HIST_BUCKETS - 1;
	/* a power of two, the only edge an integer can lie on, ends its bucket */
	if ((ns & (ns - 1)) == 0)
		return octave * HIST_PER_OCTAVE - 1;
	mantissa = (uint32_t)((ns << (63 - octave)) >> 31); /* the 32 bits after the leading one */
	low = below[mantissa >> 26];
	if (low < 31 && edge[low] < mantissa) /* cut off, so equal is below */
		low++;
	return octave * HIST_PER_OCTAVE + low;
}

/** Upper edge of bucket @index in ns. Context: agent, server. */
static inline double hist_upper_ns(uint32_t index)
{
	return exp2((double)(index + 1) / HIST_PER_OCTAVE);
}

/** The value that stands for bucket @index: its geometric middle, in ns. Context: agent, server. */
static inline double hist_middle_ns(uint32_t index)
{
	return index == 0 ? 1.0 : exp2(((double)index + 0.5) / HIST_PER_OCTAVE);
}

/**
 * The coarse bucket of @ns, two per octave, in [0, HIST_COARSE_BUCKETS): what a sample carries of its request's
 * latency. Coarse bucket c is exactly the fine buckets [16 c, 16 c + 16). Context: any.
 */
static inline uint32_t hist_coarse(uint64_t ns)
{
	return hist_index(ns) / (HIST_PER_OCTAVE / HIST_COARSE_PER_OCTAVE);
}

/** Count one value. Context: agent, server. */
static inline void hist_record(struct hist *h, uint64_t ns)
{
	h->count++;
	h->sum_ns += ns;
	if (ns > h->max_ns)
		h->max_ns = ns;
	h->bucket[hist_index(ns)]++;
}

/** Add @from to @to. Context: agent, server. */
static inline void hist_merge(struct hist *to, const struct hist *from)
{
	to->count += from->count;
	to->sum_ns += from->sum_ns;
	if (from->max_ns > to->max_ns)
		to->max_ns = from->max_ns;
	for (uint32_t i = 0; i < HIST_BUCKETS; i++)
		to->bucket[i] += from->bucket[i];
}

/**
 * The @q quantile in ns, q in [0, 1]: the middle of the bucket that holds it, never above the largest value seen.
 * 0 when empty. Context: agent, server.
 */
static inline uint64_t hist_quantile(const struct hist *h, double q)
{
	uint64_t total = 0, seen = 0, rank;

	for (uint32_t i = 0; i < HIST_BUCKETS; i++)
		total += h->bucket[i];
	if (total == 0)
		return 0;
	rank = (uint64_t)ceil(q * (double)total);
	if (rank == 0)
		rank = 1;
	for (uint32_t i = 0; i < HIST_BUCKETS; i++) {
		seen += h->bucket[i];
		if (seen >= rank) {
			uint64_t ns = (uint64_t)llround(hist_middle_ns(i));

			return h->max_ns && ns > h->max_ns ? h->max_ns : ns;
		}
	}
	return h->max_ns;
}

#endif
