/* SPDX-License-Identifier: MIT
 *
 * Compares what maps.h sees with what is known, and keeps three views of it: by id, by address, and the published table.
 *
 * Rows are shared by their module and by the tables that name them, so that a new table costs a few dozen spans and not
 * a copy of all rows. Only the agent's thread counts references: walks are kept apart by unwind_reclaim().
 */
#include "agent/core/modules.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent/core/image.h"

#define RETRIES 4 /* refreshes that look at an object again which was being mapped */
#define LOOKS   3 /* at maps that change while we read */

struct module_rows {
	unsigned refs;
	struct ehframe_rows rows;
};

struct modules {
	struct module **by_id;   /* known ones, ids ascending */
	struct module **by_addr; /* mapped ones, by base */
	uint32_t n_known, n_mapped, last_id;
	uint64_t signature; /* of the maps that all this was made from */
	bool stale_table;   /* what is published is not what is known */
	unsigned retries;
	bool from_file; /* the kernel does not let us read our memory */
	struct maps maps;
	struct modules_stats stats;
};

/* Of all rows and tables not yet freed. Agent thread. */
static size_t rows_bytes;

/* ---- Rows and tables ---- */

static struct module_rows *rows_create(struct ehframe_rows *rows)
{
	struct module_rows *r = malloc(sizeof(*r));

	if (!r)
		return NULL;
	r->refs = 1;
	r->rows = *rows;
	memset(rows, 0, sizeof(*rows));
	rows_bytes += r->rows.bytes;
	return r;
}

static void rows_unref(struct module_rows *r)
{
	if (!r || --r->refs)
		return;
	rows_bytes -= r->rows.bytes;
	ehframe_fini(&r->rows);
	free(r);
}

/* A table of room for @n spans is followed by a pointer to the rows of each. */
static size_t table_bytes(unsigned n)
{
	return sizeof(struct unwind_table) +
	       n * (sizeof(struct unwind_span) + sizeof(struct module_rows *));
}

static struct module_rows **table_rows(struct unwind_table *table)
{
	return (struct module_rows **)&table->span[table->n_spans];
}

static void table_release(struct unwind_table *table)
{
	struct module_rows **rows = table_rows(table);

	for (unsigned i = 0; i < table->n_spans; i++)
		rows_unref(rows[i]);
	rows_bytes -= table_bytes(table->n_spans);
	free(table);
}

static int by_code(const void *a, const void *b)
{
	const struct module *x = *(struct module *const *)a, *y = *(struct module *const *)b;

	return (x->code_start > y->code_start) - (x->code_start < y->code_start);
}

/* Mapped modules with rows, in the order of their code, none overlapping; how many. */
static unsigned spans_pick(const struct modules *m, struct module **with_rows)
{
	unsigned n = 0, kept = 0;

	for (uint32_t i = 0; i < m->n_mapped; i++)
		if (m->by_addr[i]->rows)
			with_rows[n++] = m->by_addr[i];
	qsort(with_rows, n, sizeof(struct module *), by_code);
	for (unsigned i = 0; i < n; i++)
		if (!kept || with_rows[i]->code_start >= with_rows[kept - 1]->code_end)
			with_rows[kept++] = with_rows[i];
	return kept;
}

static int publish(struct modules *m)
{
	struct module **with_rows = malloc((m->n_mapped + 1) * sizeof(struct module *));
	struct unwind_table *table = NULL;
	unsigned n;
	int err = -ENOMEM;

	if (!with_rows)
		return err;
	n = spans_pick(m, with_rows);
	table = malloc(table_bytes(n));
	if (!table)
		goto out;
	table->release = table_release;
	table->n_spans = n;
	for (unsigned i = 0; i < n; i++) {
		struct module_rows *r = with_rows[i]->rows;

		table->span[i] = (struct unwind_span){ with_rows[i]->code_start,
						       with_rows[i]->code_end,
						       r->rows.row,
						       r->rows.page,
						       r->rows.wide,
						       r->rows.n_rows,
						       r->rows.n_wide,
						       r->rows.n_bx,
						       r->rows.bx };
		table_rows(table)[i] = r;
		r->refs++;
	}
	rows_bytes += table_bytes(n);
	err = unwind_publish(table);
	if (err)
		table_release(table);
out:
	free(with_rows);
	return err;
}

/* ---- Known modules ---- */

/* Make room in the list of known modules: forget the one that was unmapped first. */
static bool forget_one(struct modules *m)
{
	for (uint32_t i = 0; i < m->n_known; i++) {
		if (m->by_id[i]->mapped)
			continue;
		free(m->by_id[i]);
		memmove(&m->by_id[i], &m->by_id[i + 1], (m->n_known - i - 1) * sizeof(*m->by_id));
		m->n_known--;
		m->stats.forgotten++;
		return true;
	}
	return false;
}

static void count_rows(struct modules *m, const struct ehframe_counts *counts)
{
	m->stats.exotic += counts->exotic;
	m->stats.malformed += counts->malformed;
	m->stats.rows_refused += counts->refused;
}

static bool same_place(const struct module *module, const struct maps_object *o)
{
	return module->base == o->range[0].start && module->inode == o->inode &&
	       module->device == o->device;
}

static bool same_module(const struct module *module, const struct maps_object *o,
			const struct image *image)
{
	return same_place(module, o) && module->bias == image->bias &&
	       module->build_id_len == image->build_id_len &&
	       !memcmp(module->build_id, image->build_id, image->build_id_len);
}

/* The module that @image is: one that was there before, or a new one. NULL: -ENOMEM or refused, *err says which. */
static struct module *module_for(struct modules *m, const struct maps_object *o,
				 const struct image *image, int *err)
{
	struct module *module;

	*err = 0;
	for (uint32_t i = m->n_known; i-- > 0;)
		if (!m->by_id[i]->mapped && same_module(m->by_id[i], o, image))
			return m->by_id[i];
	if (m->n_known == MODULES_MAX && !forget_one(m)) {
		m->stats.refused++;
		return NULL;
	}
	module = calloc(1, sizeof(*module));
	if (!module) {
		*err = -ENOMEM;
		return NULL;
	}
	module->id = ++m->last_id;
	module->base = o->range[0].start;
	module->device = o->device;
	module->inode = o->inode;
	module->bias = image->bias;
	memcpy(module->path, o->path, sizeof(module->path));
	memcpy(module->build_id, image->build_id, sizeof(module->build_id));
	module->build_id_len = image->build_id_len;
	m->by_id[m->n_known++] = module;
	return module;
}

static void by_addr_insert(struct modules *m, struct module *module)
{
	uint32_t at = m->n_mapped;

	while (at && m->by_addr[at - 1]->base > module->base)
		at--;
	memmove(&m->by_addr[at + 1], &m->by_addr[at], (m->n_mapped - at) * sizeof(*m->by_addr));
	m->by_addr[at] = module;
	m->n_mapped++;
}

/* -EAGAIN: look again at the next refresh. */
static int module_add(struct modules *m, const struct maps_object *o)
{
	struct module *module;
	struct image image;
	int err = image_read(o, m->from_file, &image);

	if ((err == -EPERM || err == -ENOSYS) && !m->from_file) {
		m->from_file = true;
		err = image_read(o, true, &image);
	}
	if (err == -ENOMEM || (err == -EAGAIN && m->retries > 1))
		return err;
	if (err) {
		m->stats.unreadable++;
		return 0;
	}
	module = module_for(m, o, &image, &err);
	if (!module)
		goto out;
	module->start = image.start;
	module->end = image.end;
	module->code_start = image.code_start;
	module->code_end = image.code_end;
	module->mapped = true;
	count_rows(m, &image.rows.counts);
	if (image.rows.n_rows && rows_bytes + image.rows.bytes <= MODULES_ROW_BYTES_MAX)
		module->rows = rows_create(&image.rows);
	m->stats.rows_refused += image.rows.n_rows && !module->rows;
	by_addr_insert(m, module);
	m->stale_table = true;
out:
	image_fini(&image);
	return err;
}

/* ---- Refresh ---- */

/* Both lists are by address: what is in neither place any more is unmapped. */
static bool drop_unmapped(struct modules *m)
{
	uint32_t kept = 0, was = m->n_mapped;
	unsigned o = 0;

	for (uint32_t i = 0; i < m->n_mapped; i++) {
		struct module *module = m->by_addr[i];

		while (o < m->maps.n_objects && m->maps.object[o].range[0].start < module->base)
			o++;
		if (o < m->maps.n_objects && same_place(module, &m->maps.object[o])) {
			m->by_addr[kept++] = module;
			continue;
		}
		module->mapped = false;
		rows_unref(module->rows);
		module->rows = NULL;
		m->stale_table = true;
	}
	m->n_mapped = kept;
	return kept != was;
}

static bool is_known(const struct modules *m, const struct maps_object *o)
{
	uint32_t low = 0, high = m->n_mapped;

	while (low < high) {
		uint32_t mid = low + (high - low) / 2;

		if (m->by_addr[mid]->base < o->range[0].start)
			low = mid + 1;
		else
			high = mid;
	}
	return low < m->n_mapped && same_place(m->by_addr[low], o);
}

/* Bring the lists up to m->maps; 1 when they changed. */
static int update(struct modules *m)
{
	int changed = drop_unmapped(m);
	bool again = false;

	m->stats.refused = m->maps.refused;
	m->stats.unreadable = 0;
	for (unsigned i = 0; i < m->maps.n_objects; i++) {
		const struct maps_object *o = &m->maps.object[i];
		uint32_t before = m->n_mapped;
		int err;

		if (is_known(m, o))
			continue;
		err = module_add(m, o);
		if (err == -EAGAIN)
			again = true;
		else if (err)
			return err;
		changed |= m->n_mapped != before;
	}
	m->stats.mapped = m->n_mapped;
	m->retries = again ? m->retries - 1 : 0;
	return changed;
}

/* What was read while the host was mapping may be of neither state: look until two looks agree, but not forever. */
static int update_until_stable(struct modules *m)
{
	int changed = 0, err;

	for (unsigned looks = 0; looks < LOOKS; looks++) {
		m->signature = m->maps.signature;
		err = update(m);
		if (err < 0)
			goto failed;
		changed |= err;
		err = maps_read(&m->maps);
		if (err < 0)
			goto failed;
		if (m->maps.signature == m->signature)
			break;
	}
	return changed;
failed:
	m->signature = 0;
	return err;
}

int modules_refresh(struct modules *m)
{
	int err, published = 0;

	unwind_reclaim();
	err = maps_read(&m->maps);
	if (err)
		return err;
	if (m->maps.signature != m->signature)
		m->retries = RETRIES;
	else if (!m->retries && !m->stale_table)
		return 0;
	err = update_until_stable(m);
	if (m->stale_table) {
		published = publish(m);
		m->stale_table = published < 0;
	}
	return err < 0 ? err : published < 0 ? published : err;
}

/* ---- Asking ---- */

const struct module *modules_find(const struct modules *m, uintptr_t pc)
{
	uint32_t low = 0, high = m->n_mapped;

	while (low < high) {
		uint32_t mid = low + (high - low) / 2;

		if (m->by_addr[mid]->end <= pc)
			low = mid + 1;
		else
			high = mid;
	}
	if (low < m->n_mapped && m->by_addr[low]->start <= pc)
		return m->by_addr[low];
	for (uint32_t i = m->n_known; i-- > 0;)
		if (!m->by_id[i]->mapped &&
		    pc - m->by_id[i]->start < m->by_id[i]->end - m->by_id[i]->start)
			return m->by_id[i];
	return NULL;
}

const struct module *modules_get(const struct modules *m, uint32_t id)
{
	uint32_t low = 0, high = m->n_known;

	while (low < high) {
		uint32_t mid = low + (high - low) / 2;

		if (m->by_id[mid]->id < id)
			low = mid + 1;
		else
			high = mid;
	}
	return low < m->n_known && m->by_id[low]->id == id ? m->by_id[low] : NULL;
}

uint32_t modules_count(const struct modules *m)
{
	return m->last_id;
}

size_t modules_memory_bytes(const struct modules *m)
{
	return sizeof(*m) + 2 * MODULES_MAX * sizeof(struct module *) +
	       m->n_known * sizeof(struct module) + m->maps.room * sizeof(struct maps_object) +
	       rows_bytes;
}

const struct modules_stats *modules_stats(const struct modules *m)
{
	return &m->stats;
}

struct modules *modules_create(void)
{
	struct modules *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	m->by_id = calloc(MODULES_MAX, sizeof(struct module *));
	m->by_addr = calloc(MODULES_MAX, sizeof(struct module *));
	if (m->by_id && m->by_addr)
		return m;
	modules_destroy(m);
	return NULL;
}

void modules_destroy(struct modules *m)
{
	const struct timespec ms = { 0, 1000000 };

	if (!m)
		return;
	unwind_publish(NULL);
	for (unsigned i = 0; i < 100 && unwind_reclaim(); i++)
		nanosleep(&ms, NULL);
	for (uint32_t i = 0; i < m->n_known; i++) {
		rows_unref(m->by_id[i]->rows);
		free(m->by_id[i]);
	}
	free(m->by_id);
	free(m->by_addr);
	maps_fini(&m->maps);
	free(m);
}
