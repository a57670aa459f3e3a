/* SPDX-License-Identifier: MIT
 *
 * Numbers and names for the terminal: see units.h.
 */
#include "server/units.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Three significant digits of a value in [0, 999.5). */
static struct units units_digits(double value, const char *unit)
{
	int decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
	struct units u = { .text = "" };

	snprintf(u.text, sizeof(u.text), "%.*f%s", decimals, value, unit);
	return u;
}

struct units units_ns(uint64_t ns)
{
	static const struct {
		double ns;
		const char *unit;
		double below;
	} scales[] = {
		{ 1e3, " µs", 999.5 },   { 1e6, " ms", 999.5 },   { 1e9, " s", 999.5 },
		{ 60e9, " min", 99.95 }, { 3600e9, " h", 999.5 },
	};
	struct units u;

	if (ns < 1000) {
		snprintf(u.text, sizeof(u.text), "%" PRIu64 " ns", ns);
		return u;
	}
	for (size_t i = 0; i < sizeof(scales) / sizeof(scales[0]); i++) {
		double value = (double)ns / scales[i].ns;

		if (value < scales[i].below)
			return units_digits(value, scales[i].unit);
	}
	snprintf(u.text, sizeof(u.text), "%.0f h", (double)ns / 3600e9);
	return u;
}

struct units units_ns_signed(int64_t ns)
{
	uint64_t magnitude = ns < 0 ? 0 - (uint64_t)ns : (uint64_t)ns;
	struct units u = units_ns(magnitude), signed_u;

	if (ns == 0)
		return u;
	snprintf(signed_u.text, sizeof(signed_u.text), "%c%.30s", ns < 0 ? '-' : '+', u.text);
	return signed_u;
}

struct units units_count(uint64_t count)
{
	struct units u;

	if (count < 1000)
		snprintf(u.text, sizeof(u.text), "%" PRIu64, count);
	else if (count < 1000000)
		snprintf(u.text, sizeof(u.text), "%" PRIu64 ",%03" PRIu64, count / 1000,
			 count % 1000);
	else if (count < 999500000)
		u = units_digits((double)count / 1e6, " M");
	else if (count < 999500000000)
		u = units_digits((double)count / 1e9, " G");
	else
		snprintf(u.text, sizeof(u.text), "%.3g", (double)count);
	return u;
}

struct units units_rate(double per_second)
{
	struct units u;

	if (!(per_second > 0) || !isfinite(per_second)) {
		snprintf(u.text, sizeof(u.text), "0/s");
	} else if (per_second < 0.01) {
		snprintf(u.text, sizeof(u.text), "<0.01/s");
	} else if (per_second < 999.5) {
		u = units_digits(per_second, "/s");
	} else {
		struct units count = units_count((uint64_t)llround(fmin(per_second, 1e18)));

		snprintf(u.text, sizeof(u.text), "%.28s/s", count.text);
	}
	return u;
}

struct units units_percent(double share)
{
	double percent = share * 100;
	struct units u;

	if (!isfinite(percent))
		snprintf(u.text, sizeof(u.text), "-");
	else if (!(percent > 0))
		snprintf(u.text, sizeof(u.text), "0 %%");
	else if (percent < 0.01)
		snprintf(u.text, sizeof(u.text), "<0.01 %%");
	else
		snprintf(u.text, sizeof(u.text), "%.*f %%",
			 percent < 0.995  ? 2
			 : percent < 9.95 ? 1
					  : 0,
			 fmin(percent, 1e15));
	return u;
}

struct units units_percent_signed(double share)
{
	struct units u, plain = units_percent(fabs(share));

	if (!isfinite(share) || fabs(share) < 0.0001)
		return plain;
	if (share >= 9.995)
		snprintf(u.text, sizeof(u.text), "x %.0f", fmin(share + 1, 1e15));
	else
		snprintf(u.text, sizeof(u.text), "%c%.30s", share < 0 ? '-' : '+', plain.text);
	return u;
}

struct units units_bytes(uint64_t bytes)
{
	static const char *const unit[] = { " kB", " MB", " GB", " TB", " PB", " EB" };
	double value = (double)bytes;
	struct units u;
	size_t i = 0;

	if (bytes < 1000) {
		snprintf(u.text, sizeof(u.text), "%" PRIu64 " B", bytes);
		return u;
	}
	for (value /= 1000; value >= 999.5 && i + 1 < sizeof(unit) / sizeof(unit[0]); value /= 1000)
		i++;
	return units_digits(value, unit[i]);
}

/* Decode one code point of @text; its length in bytes, or 0 when it is not valid UTF-8. */
static size_t units_decode(const unsigned char *text, uint32_t *point)
{
	static const uint32_t smallest[5] = { 0, 0, 0x80, 0x800, 0x10000 };
	size_t length = text[0] < 0x80           ? 1
			: (text[0] >> 5) == 0x06 ? 2
			: (text[0] >> 4) == 0x0e ? 3
			: (text[0] >> 3) == 0x1e ? 4
						 : 0;

	if (length == 0)
		return 0;
	*point = length == 1 ? text[0] : text[0] & (0x7fu >> length);
	for (size_t i = 1; i < length; i++) {
		if ((text[i] & 0xc0) != 0x80) /* the terminating zero, too */
			return 0;
		*point = (*point << 6) | (text[i] & 0x3fu);
	}
	if (*point < smallest[length] || *point > 0x10ffff ||
	    (*point >= 0xd800 && *point <= 0xdfff))
		return 0;
	return length;
}

/*
 * Columns of a code point, -1 when it must not reach a terminal. Not wcwidth(), which knows nothing outside ASCII as long
 * as nobody set a locale, and containers seldom have one.
 */
static int units_columns(uint32_t point)
{
	static const struct {
		uint32_t first, last;
		int columns;
	} ranges[] = {
		{ 0x0000, 0x001f, -1 },  { 0x007f, 0x009f, -1 },   { 0x0300, 0x036f, 0 },
		{ 0x061c, 0x061c, -1 },  { 0x1100, 0x115f, 2 },    { 0x200b, 0x200f, -1 },
		{ 0x2028, 0x202e, -1 },  { 0x2060, 0x206f, -1 },   { 0x2e80, 0xa4cf, 2 },
		{ 0xac00, 0xd7a3, 2 },   { 0xf900, 0xfaff, 2 },    { 0xfe00, 0xfe0f, 0 },
		{ 0xfe30, 0xfe6f, 2 },   { 0xfeff, 0xfeff, -1 },   { 0xff00, 0xff60, 2 },
		{ 0xffe0, 0xffe6, 2 },   { 0xfff0, 0xfffb, -1 },   { 0x1f300, 0x1faff, 2 },
		{ 0x20000, 0x3fffd, 2 }, { 0xe0000, 0xe0fff, -1 },
	};

	for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]) && point >= ranges[i].first; i++)
		if (point <= ranges[i].last)
			return ranges[i].columns;
	return 1;
}

/* The next piece of @text to show: its bytes in *@piece and *@length, its columns as the value. */
static size_t units_next(const char **text, const char **piece, size_t *length)
{
	uint32_t point = 0;
	size_t bytes = units_decode((const unsigned char *)*text, &point);
	int columns = bytes ? units_columns(point) : -1;

	*piece = columns < 0 ? "?" : *text;
	*length = columns < 0 ? 1 : bytes;
	*text += bytes ? bytes : 1;
	return columns < 0 ? 1 : (size_t)columns;
}

size_t units_width(const char *text)
{
	const char *piece;
	size_t length, width = 0;

	while (*text)
		width += units_next(&text, &piece, &length);
	return width;
}

size_t units_text(char *out, size_t size, const char *text, size_t columns, bool pad)
{
	static const char ellipsis[] = "…";
	bool whole = units_width(text) <= columns;
	size_t used = 0, at = 0;

	if (size == 0)
		return 0;
	while (*text) {
		const char *piece;
		size_t length, width = units_next(&text, &piece, &length);

		if (used + width + (whole ? 0 : 1) > columns || at + length + 1 > size)
			break;
		memcpy(out + at, piece, length);
		at += length;
		used += width;
	}
	if (!whole && used < columns && at + sizeof(ellipsis) <= size) {
		memcpy(out + at, ellipsis, sizeof(ellipsis) - 1);
		at += sizeof(ellipsis) - 1;
		used++;
	}
	while (pad && used < columns && at + 1 < size) {
		out[at++] = ' ';
		used++;
	}
	out[at] = '\0';
	return used;
}
