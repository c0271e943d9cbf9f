/* SPDX-License-Identifier: Apache-2.0
 * Connections that SPDK keeps although their hosts are gone. */
#include "compat.h"
#include "spdk/nvmf.h"
#if SPDK_SINCE(23, 5)
#include "spdk/nvmf_transport.h"
#endif
#include "oriel.h"

bool
oriel_nvmf_keeps_gone(void)
{
	return SPDK_SINCE(23, 5);
}

void
oriel_nvmf_end_gone(struct spdk_nvmf_poll_group *group,
		    bool (*is_gone)(void *ctx, const char *host, const char *port), void *ctx)
{
#if SPDK_SINCE(23, 5)
	struct spdk_nvmf_qpair *qpair, *next;

	TAILQ_FOREACH_SAFE(qpair, &group->qpairs, link, next) {
		struct spdk_nvme_transport_id trid;

		memset(&trid, 0, sizeof(trid));
		if (spdk_nvmf_qpair_get_peer_trid(qpair, &trid) != 0 || trid.trtype != SPDK_NVME_TRANSPORT_TCP ||
		    !is_gone(ctx, trid.traddr, trid.trsvcid)) {
			continue;
		}
		/* One that is ending already stays what it is. */
#if SPDK_SINCE(24, 5)
		spdk_nvmf_qpair_disconnect(qpair);
#else
		spdk_nvmf_qpair_disconnect(qpair, NULL, NULL);
#endif
	}
#else
	(void)group;
	(void)is_gone;
	(void)ctx;
#endif
}
