/* SPDX-License-Identifier: Apache-2.0
 * Version, log, environment, memory, SPDK threads, subsystems and the JSON-RPC server. */
#include "compat.h"
#include "spdk/env.h"
#include "spdk/env_dpdk.h"
#include "spdk/log.h"
#include "spdk/rpc.h"
#include "spdk/thread.h"
#if SPDK_SINCE(21, 7)
#include "spdk/init.h"
#else
/* Before v21.07 these two stand in an internal header. */
typedef void (*spdk_subsystem_init_fn)(int rc, void *ctx);
void spdk_subsystem_init(spdk_subsystem_init_fn cb_fn, void *cb_arg);
void spdk_subsystem_fini(spdk_msg_fn cb_fn, void *cb_arg);
#endif
#include "oriel.h"

int rte_eal_init(int argc, char **argv);
int rte_eal_cleanup(void);

const char *
oriel_spdk_version(void)
{
	return SPDK_VERSION_STRING;
}

static oriel_log_fn g_log_fn;

static void
log_line(int level, const char *file, const int line, const char *func, const char *format, va_list args)
{
	char msg[1024];
	int len = vsnprintf(msg, sizeof(msg), format, args);

	if (len < 0) {
		return;
	}
	for (len = (int)strlen(msg); len > 0 && msg[len - 1] == '\n'; len--) {
		msg[len - 1] = '\0';
	}
	g_log_fn(level, file ? file : "", line, func ? func : "", msg);
}

void
oriel_log_open(oriel_log_fn fn, int level)
{
	g_log_fn = fn;
	spdk_log_open(log_line);
	spdk_log_set_print_level((enum spdk_log_level)level);
}

#if !SPDK_SINCE(24, 1)
/* Before v24.01 spdk_env_init cannot do without hugepages, so the EAL is started here with the
 * arguments that it needs, and SPDK is told that somebody else did. */
static int
eal_init_no_huge(const struct oriel_env_opts *opts)
{
	/* The EAL keeps pointers into its arguments for the life of the process. */
	static char memory[16], main_core[48], *args[16];
	int argc = 0;

	snprintf(memory, sizeof(memory), "%d", opts->memory_mib);
	args[argc++] = strdup(opts->name);
	args[argc++] = "-c";
	args[argc++] = strdup(opts->core_mask);
#if SPDK_SINCE(21, 1)
	snprintf(main_core, sizeof(main_core), "--main-lcore=%d", opts->main_core);
#else
	snprintf(main_core, sizeof(main_core), "--master-lcore=%d", opts->main_core);
#endif
	args[argc++] = main_core;
	args[argc++] = "--no-huge";
	args[argc++] = "--legacy-mem";
	args[argc++] = "-m";
	args[argc++] = memory;
	args[argc++] = "--no-pci";
	args[argc++] = "--iova-mode=va";
	args[argc++] = "--no-shconf";
	args[argc++] = "--no-telemetry";
	args[argc++] = "--log-level=lib.eal:4";
	args[argc] = NULL;
	if (rte_eal_init(argc, args) < 0) {
		return -ENOMEM;
	}
	return spdk_env_dpdk_post_init(true);
}
#endif

int
oriel_env_init(const struct oriel_env_opts *opts)
{
	struct spdk_env_opts o;
	struct spdk_pci_addr *allowed = NULL;
	int rc;

#if !SPDK_SINCE(24, 1)
	if (opts->no_huge) {
		return eal_init_no_huge(opts);
	}
#endif
	memset(&o, 0, sizeof(o));
#if SPDK_SINCE(24, 9)
	o.opts_size = sizeof(o);
#endif
	spdk_env_opts_init(&o);
	o.name = opts->name;
	o.core_mask = opts->core_mask;
	o.mem_size = opts->memory_mib;
	o.no_pci = opts->no_pci;
	o.hugedir = opts->hugedir;
#if SPDK_SINCE(21, 1)
	o.main_core = opts->main_core;
#else
	o.master_core = opts->main_core;
#endif
#if SPDK_SINCE(24, 1)
	o.no_huge = opts->no_huge;
#endif
	/* An empty file system of hugepages is left behind, whatever ends the process. */
	o.unlink_hugepage = !opts->no_huge;
	o.env_context = opts->no_huge ? NULL : "--log-level=lib.eal:4";
	if (opts->pci_allowed_count > 0) {
		allowed = calloc(opts->pci_allowed_count, sizeof(*allowed));
		if (allowed == NULL) {
			return -ENOMEM;
		}
		for (size_t i = 0; i < opts->pci_allowed_count; i++) {
			if (spdk_pci_addr_parse(&allowed[i], opts->pci_allowed[i]) != 0) {
				free(allowed);
				return -EINVAL;
			}
		}
		o.num_pci_addr = opts->pci_allowed_count;
#if SPDK_SINCE(21, 1)
		o.pci_allowed = allowed;
#else
		o.pci_whitelist = allowed;
#endif
	}
	rc = spdk_env_init(&o);
	free(allowed);
	return rc;
}

void
oriel_env_fini(void)
{
	spdk_env_fini();
#if !SPDK_SINCE(22, 1)
	/* Older releases leave the EAL's memory, files and worker threads behind. */
	rte_eal_cleanup();
#endif
}

void *
oriel_dma_alloc(size_t size, size_t align)
{
	return spdk_zmalloc(size, align, NULL, SPDK_ENV_SOCKET_ID_ANY, SPDK_MALLOC_DMA);
}

void
oriel_dma_free(void *buf)
{
	spdk_free(buf);
}

int
oriel_thread_lib_init(void)
{
	return spdk_thread_lib_init(NULL, 0);
}

struct spdk_thread *
oriel_thread_create(const char *name)
{
	return spdk_thread_create(name, NULL);
}

int
oriel_thread_send_msg(const struct spdk_thread *thread, void (*fn)(void *), void *ctx)
{
	return spdk_thread_send_msg(thread, fn, ctx);
}

struct subsystems_call {
	oriel_done cb;
	void *ctx;
};

static void
subsystems_ready(int rc, void *arg)
{
	struct subsystems_call *call = arg;

	/* A failed start may report twice in old releases; the first report counts. */
	if (call->cb != NULL) {
		oriel_done cb = call->cb;

		call->cb = NULL;
		if (rc == 0) {
			spdk_rpc_set_state(SPDK_RPC_RUNTIME);
		}
		cb(call->ctx, rc);
	}
}

void
oriel_subsystems_init(oriel_done cb, void *ctx)
{
	static struct subsystems_call call;

	call.cb = cb;
	call.ctx = ctx;
	spdk_subsystem_init(subsystems_ready, &call);
}

void
oriel_subsystems_fini(void (*cb)(void *), void *ctx)
{
	spdk_subsystem_fini(cb, ctx);
}

void *
oriel_rpc_listen(const char *path)
{
#if SPDK_SINCE(24, 5)
	return spdk_rpc_server_listen(path);
#else
	static int one_server;

	return spdk_rpc_listen(path) == 0 ? &one_server : NULL;
#endif
}

void
oriel_rpc_poll(void *server)
{
#if SPDK_SINCE(24, 5)
	spdk_rpc_server_accept(server);
#else
	(void)server;
	spdk_rpc_accept();
#endif
}

void
oriel_rpc_close(void *server)
{
#if SPDK_SINCE(24, 5)
	spdk_rpc_server_close(server);
#else
	(void)server;
	spdk_rpc_close();
#endif
}
