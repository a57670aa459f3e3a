/* SPDX-License-Identifier: MIT
 *
 * What the exports share. Context: server, any thread.
 */
#include "server/export.h"

#include <errno.h>
#include <string.h>

static const struct export_format *const formats[] = { &export_pprof, &export_folded,
						       &export_html };

const struct export_format *export_find(const char *name)
{
	for (size_t i = 0; i < sizeof(formats) / sizeof(*formats); i++)
		if (strcmp(formats[i]->name, name) == 0)
			return formats[i];
	return NULL;
}

const char *export_names(void)
{
	return "pprof, folded, html";
}

const char *export_route(const char *route)
{
	return route && *route ? route : "(no request)";
}

void export_text(struct buffer *out, const char *text, char separator)
{
	while (*text) {
		size_t plain = 0, length = 1;

		while ((unsigned char)text[plain] >= 0x20 && (unsigned char)text[plain] < 0x7f &&
		       text[plain] != separator)
			plain++;
		buffer_add(out, text, plain);
		text += plain;
		if (!*text)
			return;
		if ((unsigned char)*text < 0x80) {
			buffer_add(out, *text == separator ? "," : " ", 1);
		} else {
			while (length < 4 && !utf8_valid(text, length) && text[length])
				length++;
			if (utf8_valid(text, length)) {
				buffer_add(out, text, length);
			} else {
				length = 1;
				buffer_text(out, "\xef\xbf\xbd"); /* U+FFFD */
			}
		}
		text += length;
	}
}

int export_trees(struct store *store, const struct selection *sel,
		 int (*write)(const struct route_flame *flames, size_t count,
			      const struct selection *sel, struct buffer *out),
		 char **bytes, size_t *len)
{
	struct route_flame *flames = NULL;
	struct buffer out = { 0 };
	size_t count = 0;
	int err = query_flames(store, sel, &flames, &count);

	if (err)
		return err;
	err = write(flames, count, sel, &out);
	route_flames_free(flames, count);
	if (err) {
		buffer_fini(&out);
		return err;
	}
	*bytes = out.bytes;
	*len = out.len;
	return 0;
}
